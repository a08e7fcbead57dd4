"""The page around the panels: title, tabs, messages, bar, views. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v

from hyperreg.view import page_views
from hyperreg.view.landmarks import LandmarkControls
from hyperreg.view.panels import Panel
from hyperreg.view.slices import SliceViews
from hyperreg.view.viewing import ViewControls

NOT_FOR_DIAGNOSIS = "Research software, not for diagnosis"
# Beside views that need the room on a small screen.
DRAWER_WIDTH = "$vuetify.display.width < 1280 ? 340 : 392"


def build(
    server: Any, panels: Sequence[Panel], views: SliceViews, controls: ViewControls, landmarks: LandmarkControls
) -> VAppLayout:
    """The layout of the app: one panel at a time beside the views; only the panel's middle part scrolls."""
    with VAppLayout(server) as layout:
        layout.root.theme = "dark"
        client.Style("html { overflow-y: hidden; }")
        with v.VNavigationDrawer(permanent=True, width=(DRAWER_WIDTH,), classes="hyperreg-drawer"):
            with v.Template(v_slot_prepend=True):
                _title()
                _tabs(panels)
                _messages()
            for panel in panels:
                with html.Div(v_if=f"panel === '{panel.name}'", classes="px-4 pb-4"):
                    panel.fill()
            with v.Template(v_slot_append=True):
                for panel in panels:
                    with html.Div(v_if=f"panel === '{panel.name}'", classes="hyperreg-bar px-4 py-2"):
                        panel.bar()
        with v.VMain():
            page_views.fill(layout, views, controls, landmarks)
    return layout


def _title() -> None:
    with html.Div(classes="px-4 pt-2 d-flex align-baseline"):
        html.Span("HyperReg", classes="text-h6 font-weight-bold")
        html.Span(NOT_FOR_DIAGNOSIS, classes="text-caption text-medium-emphasis ml-2 hyperreg-subtitle")


def _tabs(panels: Sequence[Panel]) -> None:
    with v.VTabs(v_model=("panel",), density="compact", grow=True, color="primary", classes="mb-2"):
        for panel in panels:
            v.VTab(panel.title, value=panel.name, classes=f"hyperreg-panel-{panel.name}")


def _messages() -> None:
    with html.Div(classes="hyperreg-messages px-4"):
        v.VAlert(
            "{{ error }}",
            v_if=("error",),
            type="error",
            variant="tonal",
            density="compact",
            closable=True,
            click_close="error = ''",
            classes="mb-2 hyperreg-error",
        )
        v.VAlert(
            "{{ note }}",
            v_for="note in notes",
            key="note",
            type="warning",
            variant="tonal",
            density="compact",
            closable=True,
            click_close="notes = notes.filter(other => other !== note)",
            classes="mb-2 hyperreg-note",
        )
