"""Where the shown deformation gives or takes volume: a map over the slices, in %, and its scale.

The colours follow the logarithm of the volume, so that halved and doubled are equally strong; unchanged is white.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.mrml import geometry, linked, nodes
from hyperreg.mrml.shapes import Line, Shape, Text
from hyperreg.registration.volume_change import LEAST, MOST, TICKS, colour_at, percent, strength, volume_change
from hyperreg.worker.live.state import LiveState, Shown

COLOURS = 512
# It takes a moment: computed when nothing has moved for so long.
REST_S = 0.15
# What lies below is none: the air, which has no number, is not drawn.
LEAST_DRAWN = -1e6
TABLE_NAME = "Local volume change"
# Node reference of a live transform: its map.
VOLUME_CHANGE_ROLE = "HyperReg.volumeChange"
BAR, MARGIN, HEIGHT = 10.0, 22.0, 34


class ChangeMap:
    """The map of a live registration: made only where it is wanted, and when nothing has moved for a moment.

    transform(): the node that λ moves. live(): what is known of its registration. describe(node): writes on a node what
    it was made with. on_change(): there is a map, or none is wanted any more.
    """

    def __init__(
        self,
        transform: Callable[[], slicer.vtkMRMLTransformNode | None],
        live: Callable[[], LiveState],
        describe: Callable[[slicer.vtkMRMLNode], None],
        on_change: Callable[[], None],
    ) -> None:
        self._transform, self._live, self._describe, self._on_change = transform, live, describe, on_change
        self._wanted = False
        # What it is of, and when something moved last.
        self._of: Shown | None = None
        self._moved_at = 0.0
        # Where the fixed volume shows the body, and on which grid.
        self._body: tuple[Any, Any] = (None, None)

    @property
    def node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The map, %, of exactly what is shown; None where there is none (yet)."""
        live = self._live()
        return node_of(self._transform()) if self._wanted and live.is_solved and self._of is live.shown else None

    @property
    def note(self) -> str:
        """In words for the user, why there is no map although one is wanted; else ""."""
        live = self._live()
        if not live.ready or not self._wanted or self.node is not None:
            return ""
        return f"The map comes once λ = {live.lam:.2f} is computed."

    def want(self, on: bool) -> None:
        """Whether there is to be a map, made by `settle`; without one none stays in the scene."""
        if on == self._wanted:
            return
        self._wanted = on
        if not on:
            remove(self._transform())
        self._on_change()

    def moved(self) -> None:
        """Something else is shown now."""
        self._moved_at = time.monotonic()

    def settle(self) -> None:
        """To be called regularly: makes the map when nothing has moved for a moment."""
        transform, live = self._transform(), self._live()
        shown = live.shown
        if not self._wanted or transform is None or shown is None or not (live.ready and live.is_solved):
            return
        if self.node is not None or time.monotonic() - self._moved_at < REST_S:
            return
        fixed, moving = linked.ends(transform)
        field = shown.forward
        place = (fixed, fixed.GetMTime(), field.grid.shape, field.ijk_to_ras.tobytes())
        if self._body[0] != place:
            self._body = place, body_of(fixed, field.grid)
        self._of = shown
        made = fill(transform, field, self._body[1])
        made.SetName(f"{moving.GetName()} local volume change λ={shown.lam:.2f} (%)")
        self._describe(made)
        self._on_change()


def node_of(transform: slicer.vtkMRMLTransformNode | None) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The map that belongs to a live transform; None without one."""
    return transform.GetNodeReference(VOLUME_CHANGE_ROLE) if transform is not None else None


def body_of(node: slicer.vtkMRMLScalarVolumeNode, grid: Grid) -> npt.NDArray[np.bool_]:
    """Where a volume shows the body, on a grid of the world: (I, J, K)."""
    volume = geometry.volume_from_node(node, linked.parent_before(node))
    return foreground(resample(volume, grid, interpolation="nearest"))


def fill(
    transform: slicer.vtkMRMLTransformNode, field: DisplacementField, body: npt.NDArray[np.bool_]
) -> slicer.vtkMRMLScalarVolumeNode:
    """Puts the volume change of a field, in %, into the map of its live transform, which is made if there is none.

    body: (I, J, K), on the field's grid; elsewhere, in the air, the map has no number (NaN) and is not seen.
    """
    scene, node = transform.GetScene(), node_of(transform)
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        transform.SetNodeReferenceID(VOLUME_CHANGE_ROLE, node.GetID())
    change = volume_change(field)
    geometry.volume_to_node(
        Volume(np.where(body, percent(change.array), np.float32(np.nan)), change.ijk_to_ras, node.GetName()), node
    )
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(_colours(scene).GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(LEAST, MOST)
        display.SetThreshold(LEAST_DRAWN, -LEAST_DRAWN)
        display.SetApplyThreshold(True)  # no number lies in no range
    return node


def remove(transform: slicer.vtkMRMLTransformNode | None) -> None:
    """Takes the map of a live transform out of the scene; harmless if there is none."""
    node = node_of(transform)
    if node is not None:
        node.GetScene().RemoveNode(node)


def legend(width: float, ink: str) -> tuple[int, Sequence[Shape]]:
    """The scale of the colours: its height in pixels and what to draw. ink: colour of the text, "#rrggbb"."""
    shapes: list[Shape] = []
    across = width - 2 * MARGIN
    for column in range(round(across)):
        red, green, blue = (round(255 * part) for part in colour_at(2 * column / across - 1))
        shapes.append(
            Line(((MARGIN + column, 2.0), (MARGIN + column, 2.0 + BAR)), f"#{red:02x}{green:02x}{blue:02x}", 1.5)
        )
    for change, text in TICKS:
        x = MARGIN + across * (strength(change) + 1) / 2
        shapes += [Line(((x, 2.0), (x, BAR + 6)), ink), Text(x, BAR + 14, text, ink, "middle")]
    return HEIGHT, shapes


def _colours(scene: Any) -> slicer.vtkMRMLColorTableNode:
    """The colour table of the maps; one per scene."""
    for table in nodes.of_class(scene, nodes.COLOUR_TABLE):
        if table.GetName() == TABLE_NAME and table.GetNumberOfColors() == COLOURS:
            return table
    colours = {
        row: (f"{percentage:+.0f} %", *colour_at(strength(percentage)), 1.0)
        for row, percentage in enumerate(np.linspace(LEAST, MOST, COLOURS).tolist())
    }
    return nodes.add_colour_table(scene, TABLE_NAME, colours)
