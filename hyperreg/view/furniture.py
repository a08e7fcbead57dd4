"""What stands in the views beside the images: plane and slice, the patient's sides, a scale bar, the slices' slider."""

from __future__ import annotations

from typing import Any

from trame.widgets import html
from trame_slicer.app.logic import connect_slice_view_slider_to_state
from trame_slicer.app.ui.slider import Slider

from hyperreg.view.reading import scale_bar, slice_text
from hyperreg.view.state import MOVING_VIEWS, SIDE_BY_SIDE, SLICES

# Which side of the patient the left, right and upper edge of the screen is (the patient's right is on the left).
SIDES = {"Axial": "RLA", "Coronal": "RLS", "Sagittal": "APS"}
COLOURS = {"Axial": "#F34A33", "Coronal": "#6DAD4A", "Sagittal": "#EFD64D"}
# The axis across each plane: 0 to 2 for R, A, S.
NORMALS = {"Axial": 2, "Coronal": 1, "Sagittal": 0}


def furnish_3d(_server: Any, _view_id: str, _view: Any) -> None:
    """What a 3D view says."""
    with html.Div(classes="hyperreg-corner", style="border-color: #9fa8da"):
        html.Span("3D")


def furnish(server: Any, view_id: str, view: Any) -> None:
    """What a slice view says: plane and slice, the patient's sides at the edges, a scale bar; its slider."""
    orientation = SLICES[view_id]
    colour = COLOURS[orientation]
    read = f"reading_{view_id}"

    def update(_view: Any = None) -> None:
        server.state[read] = {"slice": slice_text(view, NORMALS[orientation]), **scale_bar(view)}

    update()
    view.modified.connect(update)
    what = "Moving" if view_id in MOVING_VIEWS else "Fixed"
    with html.Div(classes=f"hyperreg-corner hyperreg-of-{what.lower()}", style=f"border-color: {colour}"):
        html.Span(orientation)
        html.Span(f" · {what}", v_if=f"mode === '{SIDE_BY_SIDE}'")
        html.Span(f"{{{{ {read}.slice }}}}", classes="hyperreg-slice-text ml-2")
    with html.Div(classes="hyperreg-scale", style=(f"`width: ${{{read}.percent}}%`",)):
        html.Span(f"{{{{ {read}.text }}}}")
    for side, edge in zip(SIDES[orientation], ("left", "right", "top"), strict=True):
        html.Div(side, classes=f"hyperreg-side hyperreg-side-{edge}")
    with html.Div(classes="hyperreg-slice-slider"):
        Slider(
            typed_state=connect_slice_view_slider_to_state(server, view), theme="dark", density="compact", color=colour
        )
