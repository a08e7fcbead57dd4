"""The page around the views: the toolbar above them, the line below, the help. Nothing here decides anything."""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v

from hyperreg.view.landmarks import LandmarkControls
from hyperreg.view.slices import SliceViews
from hyperreg.view.state import CHECKERBOARD, FADE, PANEL, PLANES, SIDE_BY_SIDE
from hyperreg.view.viewing import ViewControls

ON_REGISTRATION = f"panel === '{PANEL}'"
GESTURES = (
    ("Wheel", "Next or previous slice"),
    ("Drag, left button", "Window (sideways) and level (up and down) of the image on top"),
    ("Drag, right button", "Zoom"),
    ("Drag, middle button; Shift and drag", "Move the picture"),
    ("Shift and move; double click", "Show the slices through this place in every view"),
    ("← → on the λ slider", "λ in small steps"),
    ("Drop a file on Fixed or Moving", "Open it"),
    ("L", "Place landmarks: click a place in the fixed image, then the same place in the moving one; Esc ends it"),
    ("Drag a landmark", "Move it"),
    ("?", "This list"),
)


def fill(layout: object, views: SliceViews, controls: ViewControls, landmarks: LandmarkControls) -> None:
    """The views with their toolbar and the line below them."""
    with html.Div(classes=("`hyperreg-views ${placing_role ? 'hyperreg-placing-' + placing_role : ''}`",)):
        _toolbar(controls)
        # With it the list of landmarks comes into sight.
        reveal = ["@vue:mounted=\"utils.hyperreg.reveal('.hyperreg-labels')\""]
        with html.Div(v_if="placing", classes="hyperreg-question px-3", raw_attrs=reveal):
            html.Span("{{ placing_hint }}", classes="flex-grow-1 text-truncate")
            v.VBtn("Undo", size="small", variant="text", disabled=("!landmarks_undoable",), click=landmarks.undo)
            v.VBtn("Done", size="small", variant="text", click="placing = false", classes="hyperreg-placed")
        with html.Div(classes="hyperreg-grid"):
            views.layouts.initialize_layout_grid(layout)
        with html.Div(classes="hyperreg-probe px-3"):
            html.Span("{{ probe || 'Move the mouse over a view to read position and voxel values' }}")
    _help()


def _toolbar(controls: ViewControls) -> None:
    with html.Div(classes="hyperreg-toolbar px-2"):
        with v.VBtnToggle(
            v_model=("mode",),
            v_if=ON_REGISTRATION,
            mandatory=True,
            density="compact",
            divided=True,
            variant="outlined",
        ):
            for mode, title in ((FADE, "Fade"), (CHECKERBOARD, "Checkerboard"), (SIDE_BY_SIDE, "Side by side")):
                v.VBtn(title, value=mode, size="small", classes=f"hyperreg-mode-{mode}")
        with html.Div(v_if=f"{ON_REGISTRATION} && mode === '{FADE}'", classes="d-flex align-center hyperreg-fade-box"):
            html.Span("Fixed", classes="text-caption")
            v.VSlider(
                v_model=("fade",),
                min=0,
                max=1,
                step=0.01,
                density="compact",
                hide_details=True,
                classes="mx-2 hyperreg-fade",
                aria_label="Fade between the fixed and the moving image",
            )
            html.Span("Moving", classes="text-caption")
        with v.VBtnToggle(
            v_model=("second_plane",),
            v_if=f"{ON_REGISTRATION} && mode === '{SIDE_BY_SIDE}'",
            mandatory=True,
            density="compact",
            divided=True,
            variant="outlined",
        ):
            for plane in PLANES:
                v.VBtn(plane, value=plane, size="small", classes=f"hyperreg-plane-{plane.lower()}")
        v.VSpacer()
        with v.VMenu():
            with v.Template(v_slot_activator="{ props }"):
                _button("mdi-contrast-circle", "Window and level", "window", v_bind="props")
            with v.VList(density="compact"):
                v.VListItem(
                    v_for="entry in windows",
                    key="entry.value",
                    title=("entry.title",),
                    click=(controls.set_window, "[entry.value]"),
                    classes=("`hyperreg-window-${entry.value}`",),
                )
        _switch("placing", "mdi-map-marker-plus-outline", "Place landmarks (L)", v_if=(ON_REGISTRATION,))
        _switch("lines", "mdi-crosshairs", "Draw in every view where the others cut it")
        _switch("in_3d", "mdi-cube-outline", "3D view", disabled=(f"mode === '{SIDE_BY_SIDE}'",))
        _button("mdi-fit-to-page-outline", "Show the whole image", "fit", click=controls.fit)
        _button("mdi-help", "Mouse and keys (?)", "help", click="help = true")


def _switch(name: str, icon: str, tip: str, **entries: object) -> None:
    """A button that turns the state's entry on and off."""
    _button(
        icon,
        tip,
        name.replace("_", "-"),
        click=f"{name} = !{name}",
        color=(f"{name} ? 'primary' : undefined",),
        **entries,
    )


def _button(icon: str, tip: str, name: str, **entries: object) -> None:
    v.VBtn(
        icon=icon,
        variant="text",
        size="small",
        density="comfortable",
        title=tip,
        aria_label=tip,
        classes=f"hyperreg-{name}",
        **entries,
    )


def _help() -> None:
    with (
        v.VDialog(v_model=("help",), max_width=560),
        v.VCard(title="Mouse and keys", classes="hyperreg-help-text"),
    ):
        with v.Template(v_slot_append=True):
            _button("mdi-close", "Close (Esc)", "close-help", click="help = false")
        with v.VCardText(), v.VTable(density="compact"), html.Tbody():
            for gesture, effect in GESTURES:
                with html.Tr():
                    html.Td(gesture, classes="text-no-wrap")
                    html.Td(effect)
