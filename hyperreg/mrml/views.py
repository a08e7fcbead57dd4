"""Slice views set up for comparing two volumes, without Qt: fade, checkerboard or side by side.

The moving volume is never resampled for this: the views reslice it through its live transform, whatever they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.mrml import nodes

FADE, CHECKERBOARD, SIDE_BY_SIDE = "fade", "checkerboard", "sideBySide"
MODES = (FADE, CHECKERBOARD, SIDE_BY_SIDE)

CHECKER_PIXELS = 48
# Pixels; larger than any slice view on an 8K screen.
CHECKERBOARD_SIZE = 8192
# Of a map over both volumes.
MAP_OPACITY = 0.5
# Slicer's side-by-side layout and its views.
SIDE_BY_SIDE_LAYOUT = slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
LEFT, RIGHT = "Red", "Yellow"


class _Slice:
    """Where a slice view looked: orientation and position (its matrix), zoom."""

    def __init__(self, node: slicer.vtkMRMLSliceNode) -> None:
        self._slice_to_ras = vtk.vtkMatrix4x4()
        self._slice_to_ras.DeepCopy(node.GetSliceToRAS())
        self._field_of_view = node.GetFieldOfView()

    def restore(self, node: slicer.vtkMRMLSliceNode) -> None:
        node.GetSliceToRAS().DeepCopy(self._slice_to_ras)
        node.SetFieldOfView(*self._field_of_view)
        node.UpdateMatrices()


@dataclass(frozen=True)
class _Before:
    """What a slice view showed before a registration."""

    background: str | None
    foreground: str | None
    opacity: float
    compositing: int
    linked: int
    slice: _Slice


def _fills(node: slicer.vtkMRMLSliceNode, other: slicer.vtkMRMLSliceNode) -> None:
    """Shows the slice that another view shows, in the same size, whatever the shapes of both views."""
    node.GetSliceToRAS().DeepCopy(other.GetSliceToRAS())
    width, height, depth = other.GetFieldOfView()
    pixel = max(width / max(1, other.GetDimensions()[0]), height / max(1, other.GetDimensions()[1]))
    node.SetFieldOfView(pixel * node.GetDimensions()[0], pixel * node.GetDimensions()[1], depth)
    node.UpdateMatrices()


class Views:
    """The slice views of a scene.

    scene: the vtkMRMLScene whose slice views (vtkMRMLSliceCompositeNode) are set up.
    slice_logics: gives the vtkMRMLSliceLogic objects of the views there are; the checkerboard and fitting need them.
    """

    def __init__(
        self, scene: slicer.vtkMRMLScene, slice_logics: Callable[[], Iterable[slicer.vtkMRMLSliceLogic]]
    ) -> None:
        self.scene = scene
        self._slice_logics = slice_logics
        self._before: dict[str, _Before] = {}
        self._layout_before: int | None = None
        # Layout and right view as they were before they were put side by side.
        self._aside: tuple[int, _Slice] | None = None
        # Label maps that lay over the views, by composite node: as opaque as Slicer loads them they hide all else.
        self._labels: dict[str, str] = {}
        # The map over the views, and the label maps in its place: which, how opaque, whether as outlines.
        self._map_id: str | None = None
        self._under: dict[str, tuple[str | None, float, bool]] = {}
        # Whether views were put side by side and have not been fitted to their new size yet.
        self._unfitted = False
        self._checkerboard: vtk.vtkImageToImageStencil | None = None

    def remember(self) -> None:
        """Notes what the views show now, for `restore`; keeps the first note until then."""
        layout = self._layout()
        if layout is not None and self._layout_before is None:
            self._layout_before = layout.GetViewArrangement()
        for composite in self._composites():
            slice_node = self._slice_node(composite)
            if composite.GetID() not in self._before and slice_node is not None:
                self._before[composite.GetID()] = _Before(
                    background=composite.GetBackgroundVolumeID(),
                    foreground=composite.GetForegroundVolumeID(),
                    opacity=composite.GetForegroundOpacity(),
                    compositing=composite.GetCompositing(),
                    linked=composite.GetLinkedControl(),
                    slice=_Slice(slice_node),
                )

    def show(
        self,
        mode: str,
        fixed: slicer.vtkMRMLVolumeNode,
        moving: slicer.vtkMRMLVolumeNode,
        fade: float = 0.5,
    ) -> None:
        """Shows both volumes in linked slice views.

        mode: "fade" (moving over fixed), "checkerboard", or "sideBySide" (fixed left, moving right, same slice).
        fade: 0 shows the fixed, 1 the moving volume; for "fade" only.

        Label maps over the views are taken away once; `restore` brings them back. Call `fit` when new views have got
        their size.
        """
        self._arrange(mode)
        for composite in self._composites():
            right = mode == SIDE_BY_SIDE and composite.GetLayoutName() == RIGHT
            is_new = composite.GetBackgroundVolumeID() not in (fixed.GetID(), moving.GetID())
            composite.SetBackgroundVolumeID((moving if right else fixed).GetID())
            composite.SetForegroundVolumeID(None if mode == SIDE_BY_SIDE else moving.GetID())
            composite.SetForegroundOpacity({FADE: fade, CHECKERBOARD: 1.0, SIDE_BY_SIDE: 0.0}[mode])
            composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
            composite.SetLinkedControl(True)
            labels = composite.GetLabelVolumeID()
            # A map of ours stays; else, if it was taken away before, somebody has put it there again.
            if labels not in (None, self._map_id) and self._labels.get(composite.GetID()) != labels:
                self._labels[composite.GetID()] = labels
                composite.SetLabelVolumeID(None)
            logic = self._logic_of(composite)
            if logic is not None and is_new:
                logic.FitSliceToAll()
        if mode == SIDE_BY_SIDE:
            self._align_right_to_left()
        self._set_stencil(self._board() if mode == CHECKERBOARD else None)

    def fit(self) -> None:
        """Fits views that were put side by side to the size that the layout has given them since; harmless else."""
        if not self._unfitted:
            return
        self._unfitted = False
        for composite in self._composites():
            logic = self._logic_of(composite)
            if logic is not None and composite.GetLayoutName() == LEFT:
                logic.FitSliceToAll()
        self._align_right_to_left()

    def set_fade(self, fade: float) -> None:
        """Changes the share of the moving volume in every view, 0 to 1."""
        for composite in self._composites():
            composite.SetForegroundOpacity(fade)

    def set_map(self, node: slicer.vtkMRMLVolumeNode | None) -> None:
        """Draws a map, such as one of volume change, over both volumes in every view; None: takes it away.

        It lies where label maps do: there Slicer's data probe reads its values.
        """
        wanted = node.GetID() if node is not None else None
        if wanted == self._map_id:
            return
        for composite in self._composites():
            slice_node = self._slice_node(composite)
            if slice_node is None:
                continue
            if wanted is not None:
                under = (composite.GetLabelVolumeID(), composite.GetLabelOpacity(), slice_node.GetUseLabelOutline())
                self._under.setdefault(composite.GetID(), under)
                slice_node.SetUseLabelOutline(False)
                composite.SetLabelOpacity(MAP_OPACITY)
                composite.SetLabelVolumeID(wanted)
            elif composite.GetID() in self._under:
                labels, opacity, outline = self._under[composite.GetID()]
                composite.SetLabelVolumeID(labels if labels and self.scene.GetNodeByID(labels) else None)
                composite.SetLabelOpacity(opacity)
                slice_node.SetUseLabelOutline(outline)
        if wanted is None:
            self._under = {}
        self._map_id = wanted

    def restore(self) -> None:
        """Puts layout and views back as `remember` found them."""
        self.set_map(None)
        self._set_stencil(None)
        layout = self._layout()
        if layout is not None and self._layout_before is not None:
            layout.SetViewArrangement(self._layout_before)
        for composite in self._composites():
            before = self._before.get(composite.GetID())
            if before is None:
                continue
            composite.SetLinkedControl(before.linked)
            for set_volume, volume_id in (
                (composite.SetBackgroundVolumeID, before.background),
                (composite.SetForegroundVolumeID, before.foreground),
            ):
                set_volume(volume_id if volume_id and self.scene.GetNodeByID(volume_id) else None)
            labels = self._labels.get(composite.GetID())
            if labels and self.scene.GetNodeByID(labels) and not composite.GetLabelVolumeID():
                composite.SetLabelVolumeID(labels)
            composite.SetForegroundOpacity(before.opacity)
            composite.SetCompositing(before.compositing)
            slice_node = self._slice_node(composite)
            if slice_node is not None:
                before.slice.restore(slice_node)
        aside = self._aside
        self.forget()
        if layout is not None and layout.GetViewArrangement() == SIDE_BY_SIDE_LAYOUT:
            self._aside = aside  # they were side by side before, too

    def forget(self) -> None:
        """Drops what was remembered, for a scene that was closed."""
        self._set_stencil(None)
        self._before, self._labels, self._layout_before, self._aside = {}, {}, None, None
        self._map_id, self._under = None, {}
        self._unfitted = False

    def _arrange(self, mode: str) -> None:
        layout, right = self._layout(), self.scene.GetSingletonNode(RIGHT, "vtkMRMLSliceNode")
        if layout is None or right is None:
            return
        if mode == SIDE_BY_SIDE and self._aside is None:
            self._aside = (layout.GetViewArrangement(), _Slice(right))
            layout.SetViewArrangement(SIDE_BY_SIDE_LAYOUT)
            self._unfitted = True
        elif mode != SIDE_BY_SIDE and self._aside is not None:
            arrangement, before = self._aside
            self._aside, self._unfitted = None, False
            layout.SetViewArrangement(arrangement)
            before.restore(right)

    def _align_right_to_left(self) -> None:
        by_name = {composite.GetLayoutName(): self._slice_node(composite) for composite in self._composites()}
        left, right = by_name.get(LEFT), by_name.get(RIGHT)
        if left is None or right is None:
            return
        _fills(right, left)

    def _board(self) -> vtk.vtkImageToImageStencil:
        """Where the moving volume shows: every other square of the view. Made once, computed only for what is seen."""
        if self._checkerboard is None:
            tile = vtk.vtkImageData()
            tile.SetDimensions(2 * CHECKER_PIXELS, 2 * CHECKER_PIXELS, 1)
            tile.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            half = np.arange(2 * CHECKER_PIXELS) // CHECKER_PIXELS
            pixels = vtk_to_numpy(tile.GetPointData().GetScalars()).reshape(len(half), len(half))
            pixels[...] = half[:, None] ^ half[None, :]
            board = vtk.vtkImageWrapPad()
            board.SetInputData(tile)
            board.SetOutputWholeExtent(0, CHECKERBOARD_SIZE - 1, 0, CHECKERBOARD_SIZE - 1, 0, 0)
            self._checkerboard = vtk.vtkImageToImageStencil()
            self._checkerboard.SetInputConnection(board.GetOutputPort())
            self._checkerboard.ThresholdByUpper(1)
        return self._checkerboard

    def _set_stencil(self, stencil: vtk.vtkImageToImageStencil | None) -> None:
        # vtkImageBlend draws all layers but the first only inside its stencil: a checkerboard that follows the live
        # transform, where a filter would need the moving volume resampled.
        for logic in self._slice_logics():
            blend = logic.GetBlend()
            port = stencil.GetOutputPort() if stencil is not None else None
            if blend is None or blend.GetInputConnection(1, 0) is port:
                continue
            blend.SetStencilConnection(port)
            if logic.GetSliceNode() is not None:
                logic.GetSliceNode().Modified()

    def _composites(self) -> list[slicer.vtkMRMLSliceCompositeNode]:
        return nodes.of_class(self.scene, "vtkMRMLSliceCompositeNode")

    def _slice_node(self, composite: slicer.vtkMRMLSliceCompositeNode) -> slicer.vtkMRMLSliceNode | None:
        return self.scene.GetSingletonNode(composite.GetLayoutName(), "vtkMRMLSliceNode")

    def _logic_of(self, composite: slicer.vtkMRMLSliceCompositeNode) -> slicer.vtkMRMLSliceLogic | None:
        return next((logic for logic in self._slice_logics() if logic.GetSliceCompositeNode() is composite), None)

    def _layout(self) -> slicer.vtkMRMLLayoutNode | None:
        return self.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
