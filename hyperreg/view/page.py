"""The page around the panels: title, tabs, messages, views. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v

from hyperreg.view.panels import Panel
from hyperreg.view.slices import SliceViews

NOT_FOR_DIAGNOSIS = "Research software, not for diagnosis"
DRAWER_PIXELS = 392


def build(server: Any, panels: Sequence[Panel], views: SliceViews) -> VAppLayout:
    """The layout of the app: one panel at a time beside the views."""
    with VAppLayout(server) as layout:
        layout.root.theme = "dark"
        client.Style("html { overflow-y: hidden; }")
        with v.VNavigationDrawer(permanent=True, width=DRAWER_PIXELS, classes="hyperreg-drawer"):
            _title()
            _tabs(panels)
            _errors()
            for panel in panels:
                with html.Div(v_if=f"panel === '{panel.name}'", classes="px-4 pb-4"):
                    panel.fill()
        with v.VMain(), html.Div(classes="hyperreg-views"):
            views.layouts.initialize_layout_grid(layout)
    return layout


def _title() -> None:
    with html.Div(classes="px-4 pt-3 pb-2 d-flex align-baseline"):
        html.Span("HyperReg", classes="text-h6 font-weight-bold")
        html.Span(NOT_FOR_DIAGNOSIS, classes="text-caption text-medium-emphasis ml-3")


def _tabs(panels: Sequence[Panel]) -> None:
    with v.VTabs(v_model=("panel",), density="compact", grow=True, color="primary", classes="mb-3"):
        for panel in panels:
            v.VTab(panel.title, value=panel.name, classes=f"text-none hyperreg-panel-{panel.name}")


def _errors() -> None:
    v.VAlert(
        "{{ error }}",
        v_if=("error",),
        type="error",
        variant="tonal",
        density="compact",
        closable=True,
        click_close="error = ''",
        classes="mx-4 mb-3 hyperreg-error",
    )
    v.VAlert(
        "{{ note }}",
        v_for="note in notes",
        key="note",
        type="warning",
        variant="tonal",
        density="compact",
        classes="mx-4 mb-2 hyperreg-note",
    )
