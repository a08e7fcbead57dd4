"""The views: three slices that show both volumes, or two planes of the fixed beside the moving one; and a 3D view.

VTK renders them off screen; without a display it uses EGL, and Mesa's software renderer where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import vtk
from slicer import (
    vtkMRMLApplicationLogic,
    vtkMRMLDisplayNode,
    vtkMRMLMarkupsNode,
    vtkMRMLSliceCompositeNode,
    vtkMRMLSliceLogic,
    vtkMRMLSliceNode,
    vtkMRMLVolumeNode,
)
from trame_slicer.core import LayoutManager, SlicerApp
from trame_slicer.rca_view.rca_view_factory import RemoteViewFactory
from trame_slicer.views import Layout, LayoutDirection, SliceView, ThreeDView, ViewLayoutDefinition, ViewType

from hyperreg.mrml.views import Views
from hyperreg.view import layer_dm
from hyperreg.view.furniture import COLOURS, furnish, furnish_3d
from hyperreg.view.reading import Mouse
from hyperreg.view.state import BOTH_VIEWS, FADE, MOVING_VIEWS, PLANES, SIDE_BY_SIDE, SLICES

VIEW_3D, IN_3D = "Space", "in3d"

FRAMES_PER_SECOND = 30.0
DRAG_QUALITY = 75
# While λ moves the views are resliced with this share of their pixels along each side: four times as fast, and still
# finer than the voxels of most images. At rest they have all of them.
DRAFT_SCALE = 0.5
# Of a map over an image.
MAP_OPACITY = 0.6
# Of areas that are left out, and the first of the layers after background, foreground and label map.
MARKED_OPACITY, MARKED_LAYER = 0.4, 3
# Two window shapes within this ratio are the same: the zoom is kept.
SAME_SHAPE = 0.02


class _RealManagers:
    """A view without the displayable managers that slicer-core lacks."""

    def _initialize_displayable_manager_group(self, factory: Any, app_logic: Any, managers: list[Any]) -> None:
        real = [manager for manager in managers if not hasattr(manager, layer_dm.MISSING_MARK)]
        super()._initialize_displayable_manager_group(factory, app_logic, real)  # type: ignore[misc]


class CompareSliceView(_RealManagers, SliceView):
    """A slice view that keeps its volume in sight when the window changes its size.

    leader: the view whose part of the image this one shows, too; None for a view that leads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.leader: CompareSliceView | None = None
        with _quiet():
            super().__init__(*args, **kwargs)
        # Software rendering of a textured quad: eight samples per pixel cost five times the time and change nothing.
        self.render_window().SetMultiSamples(0)

    @property
    def slice_logic(self) -> vtkMRMLSliceLogic:
        return self._logic

    def _update_slice_size(self, *_: Any) -> None:
        node = self.get_view_node()
        (width, height), field_of_view = node.GetDimensions()[:2], node.GetFieldOfView()
        new_width, new_height = self.render_window().GetSize()
        modifying = node.StartModify()
        super()._update_slice_size()
        if abs(width * new_height / (height * max(new_width, 1)) - 1) < SAME_SHAPE:
            node.SetFieldOfView(*field_of_view)  # finer or coarser pixels, the same part of the image
            node.UpdateMatrices()
        else:
            self.fit()
        node.EndModify(modifying)

    def fit(self) -> None:
        """Shows all of the background volume, without leaving the slice that is shown."""
        if self.leader is not None:
            # Not its own volume, which may lie elsewhere: both show the same part of the patient.
            _copy_place(self.leader, self)
            return
        offset = self._logic.GetSliceOffset()
        if self._fit_to_background():
            self._logic.SetSliceOffset(offset)

    def fit_view_to_content(self) -> None:
        with self.trigger_modified_once():
            super()._update_slice_size()
            if self._fit_to_background():
                self._logic.SnapSliceOffsetToIJK()

    def _fit_to_background(self) -> bool:
        """Whether there was something to fit to. Slicer's `FitSliceToBackground` fits to what lies over it, too."""
        volume = self._logic.GetBackgroundLayer().GetVolumeNode()
        if volume is None:
            return False
        self._logic.FitSliceToVolume(volume, *self.get_view_node().GetDimensions()[:2])
        return True


class ThreeDimensionalView(_RealManagers, ThreeDView):
    """The view of slices and surfaces in space."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _quiet():
            super().__init__(*args, **kwargs)
        # With more samples per pixel VTK's depth peeling draws nothing that is translucent, which all surfaces are.
        self.render_window().SetMultiSamples(0)


class SliceViews:
    """All views of the app and what they show."""

    def __init__(self, slicer_app: SlicerApp, server: Any) -> None:
        self._scene, self._app_logic = slicer_app.scene, slicer_app.app_logic
        self._markups = slicer_app.markups_logic
        self._manager = slicer_app.view_manager
        self._factory = RemoteViewFactory(
            server,
            CompareSliceView,
            ViewType.SLICE_VIEW,
            populate_view_ui_f=furnish,
            target_fps=FRAMES_PER_SECOND,
            # The hand is on the slider beside the views, not over them: they must not slow down for that.
            blur_fps=FRAMES_PER_SECOND,
            interactive_quality=DRAG_QUALITY,
        )
        self._manager.register_factory(self._factory)
        self._manager.register_factory(
            RemoteViewFactory(
                server,
                ThreeDimensionalView,
                ViewType.THREE_D_VIEW,
                populate_view_ui_f=furnish_3d,
                target_fps=FRAMES_PER_SECOND,
                interactive_quality=DRAG_QUALITY,
            )
        )
        self._draft = self._in_3d = False
        self._second_plane = PLANES[0]
        self.layouts = LayoutManager(self._scene, self._manager, server)
        self.layouts.register_layout(FADE, _compare_layout())
        for plane in PLANES:
            self.layouts.register_layout(SIDE_BY_SIDE + plane, _side_by_side_layout(plane))
        # Created when it is first wanted: it costs memory, and a renderer that many never look at.
        self.layouts.register_layout(IN_3D, _layout_with_3d(), lazy_initialization=True)
        self._mode = FADE
        self._arrange()
        self._views = Views(self._scene, self._slice_logics)
        # The volumes that are shown, and the pair that was shown last: coming back to that one moves no view.
        self._shown: tuple[str, str] | None = None
        self._pair: tuple[str, str] | None = None
        self._following = False
        self._marked: list[str] = []
        # The label map whose outlines lie over the pair.
        self._outlines: str | None = None
        for first, second in zip(BOTH_VIEWS, MOVING_VIEWS, strict=True):
            self._link(self.view(first), self.view(second))
            self._link(self.view(second), self.view(first))
            self.view(second).leader = self.view(first)
        self.place(None)

    def view(self, name: str) -> CompareSliceView:
        return self._manager.get_view(name)

    def show(self, mode: str, fixed: vtkMRMLVolumeNode, moving: vtkMRMLVolumeNode, fade: float) -> None:
        """Shows both volumes. mode: one of MODES. fade: 0 shows the fixed, 1 the moving volume (for "fade")."""
        pair = (fixed.GetID(), moving.GetID())
        if self._shown != pair:
            known = self._pair == pair and self._shown is not None and self._shown[0] == pair[0]
            self._shown = self._pair = pair
            self._put(fixed, moving)
            if not known:
                self.centre()
        self._mode = mode
        self._arrange()
        if mode == SIDE_BY_SIDE:
            self._views.show(FADE, fixed, moving, 0.0)
            self._put(fixed, moving)
        else:
            self._views.show(mode, fixed, moving, fade)
        for view in self._all():  # label maps that lie over the views are taken away, but these belong to the pair
            composite = view.slice_logic.GetSliceCompositeNode()
            if self._outlines is not None and not composite.GetLabelVolumeID():
                composite.SetLabelVolumeID(self._outlines)

    def show_one(self, volume: vtkMRMLVolumeNode, over: vtkMRMLVolumeNode | None = None) -> None:
        """Shows one volume, and another one (a map of the same place) over it."""
        self._mode = FADE
        self._arrange()
        self._views.show(FADE, volume, volume, 0.0)
        if self._shown is None or self._shown[0] != volume.GetID():
            self._put(volume, volume)
            self.centre()
        self._shown = (volume.GetID(), "")
        for view in self._all():
            composite = view.slice_logic.GetSliceCompositeNode()
            composite.SetForegroundVolumeID(None if over is None else over.GetID())
            composite.SetForegroundOpacity(0.0 if over is None else MAP_OPACITY)
        self.redraw()

    def redraw(self) -> None:
        """Shows what has become of segmentations: views notice it from their own next change on."""
        for view in self._all():
            view.get_view_node().Modified()

    def set_fade(self, fade: float) -> None:
        self._views.set_fade(fade)

    def centre(self) -> None:
        """All of the fixed volume, through its middle; the moving volume's own views follow these."""
        for view in self._leaders():
            view.fit_view_to_content()
        self.hide_crosshair()
        if self._in_3d:
            self.view(VIEW_3D).reset_view()

    def fit(self) -> None:
        """Shows the whole image again, at the slices that are shown."""
        for view in self._leaders():
            view.fit()
        if self._in_3d:
            self.view(VIEW_3D).reset_view()

    def jump(self, ras: Any) -> None:
        """Shows the slices through a place, and the crosshair there. ras: (3,), mm."""
        point = [float(part) for part in ras]
        vtkMRMLSliceNode.JumpAllSlices(self._scene, *point, vtkMRMLSliceNode.OffsetJumpSlice)
        crosshair = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        crosshair.SetCrosshairRAS(*point)
        crosshair.SetCrosshairMode(crosshair.ShowSmallBasic)

    def hide_crosshair(self) -> None:
        """Takes the crosshair away."""
        crosshair = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        crosshair.SetCrosshairMode(crosshair.NoCrosshair)

    def place(self, points: vtkMRMLMarkupsNode | None) -> None:
        """The next click with the left button places a point of a list, where that is drawn; None: none does."""
        if points is not None:
            self._markups.place_node(points)
        else:
            # A drag with the left button sets the window, as in any viewer of medical images.
            mode = self._markups.interaction_node
            mode.SetCurrentInteractionMode(mode.AdjustWindowLevel)

    @property
    def is_placing(self) -> bool:
        """Whether the next click places a point."""
        mode = self._markups.interaction_node
        return bool(mode.GetCurrentInteractionMode() == mode.Place)

    def draw_points(self, display: vtkMRMLDisplayNode, shown: bool, names: Sequence[str]) -> None:
        """Draws points, or not, and only in the views of these names; () for all views."""
        display.SetVisibility(shown)
        ids = [self.view(name).get_view_node().GetID() for name in names]
        if display.GetNumberOfViewNodeIDs() != len(ids) or not all(map(display.IsViewNodeIDPresent, ids)):
            display.SetViewNodeIDs(ids)

    def set_map(self, node: vtkMRMLVolumeNode | None) -> None:
        """Draws a map over both images, in the place of outlines; None: takes it away."""
        self._views.set_map(node)

    def set_marked(self, nodes: Sequence[vtkMRMLVolumeNode]) -> None:
        """Draws label maps, faintly, below everything else that lies over the images: what is left out of the match."""
        wanted = [node.GetID() for node in nodes]
        if wanted == self._marked:
            return
        for view in self._all():
            composite = view.slice_logic.GetSliceCompositeNode()
            for number in range(max(len(wanted), len(self._marked))):
                composite.SetNthLayerVolumeID(MARKED_LAYER + number, wanted[number] if number < len(wanted) else None)
                composite.SetNthLayerOpacity(MARKED_LAYER + number, MARKED_OPACITY)
        self._marked = wanted

    def set_outlines(self, label_map_id: str | None) -> None:
        """Draws the outlines of a label map over all slices, in the place of a map; None for none."""
        self.set_map(None)
        self._outlines = label_map_id
        for view in self._all():
            view.get_view_node().SetUseLabelOutline(True)
            view.slice_logic.GetSliceCompositeNode().SetLabelVolumeID(label_map_id)

    def set_lines(self, on: bool) -> None:
        """Draws in every view where the others cut it."""
        self._app_logic.SetIntersectingSlicesEnabled(vtkMRMLApplicationLogic.IntersectingSlicesVisibility, on)

    def set_3d(self, on: bool) -> None:
        """Shows the 3D view beside the slices (not beside both volumes side by side)."""
        self._in_3d = on
        self._arrange()

    def set_second_plane(self, plane: str) -> None:
        """Which plane stands below the axial one, side by side. plane: one of PLANES."""
        self._second_plane = plane
        self._arrange()

    def follow(self, mouse: Mouse) -> None:
        """Lets a `Mouse` listen to all slice views."""
        for view in self._all():
            mouse.follow(view)

    def set_draft(self, draft: bool) -> None:
        """Coarser pictures, as long as λ moves."""
        if draft == self._draft:
            return
        self._draft, scale = draft, DRAFT_SCALE if draft else 1.0
        # Resizing a view costs about as much as drawing it: only those in sight become coarser.
        hidden = () if self._mode == SIDE_BY_SIDE or not draft else MOVING_VIEWS
        for adapter in (self._factory.get_factory_view(name).view_adapter for name in SLICES if name not in hidden):
            if adapter.scale != scale:
                adapter.scale = scale

    def _all(self) -> list[CompareSliceView]:
        return [self.view(name) for name in SLICES]

    def _leaders(self) -> list[CompareSliceView]:
        return [self.view(name) for name in BOTH_VIEWS]

    def _arrange(self) -> None:
        """Puts the views into the page that the mode wants."""
        in_3d = self._in_3d and self._mode != SIDE_BY_SIDE
        if self._mode == SIDE_BY_SIDE:
            self.layouts.set_layout(SIDE_BY_SIDE + self._second_plane)
        else:
            self.layouts.set_layout(IN_3D if in_3d else FADE)
        for view in self._leaders():
            if view.is_visible_in_3d() != in_3d:
                view.set_visible_in_3d(in_3d)
                if in_3d:
                    self.view(VIEW_3D).reset_view()

    def _slice_logics(self) -> list[vtkMRMLSliceLogic]:
        return [view.slice_logic for view in self._all()]

    def _put(self, fixed: vtkMRMLVolumeNode, moving: vtkMRMLVolumeNode) -> None:
        """The fixed volume into the first row, the moving one into the second; nothing over them."""
        for name in SLICES:
            composite: vtkMRMLSliceCompositeNode = self.view(name).slice_logic.GetSliceCompositeNode()
            composite.SetBackgroundVolumeID((moving if name in MOVING_VIEWS else fixed).GetID())
            composite.SetForegroundVolumeID(None if name in MOVING_VIEWS else moving.GetID())
            composite.SetForegroundOpacity(0.0)

    def _link(self, leader: CompareSliceView, follower: CompareSliceView) -> None:
        """Lets `follower` show the same slice, at the same zoom."""

        def follow(_view: Any) -> None:
            if self._following:
                return
            self._following = True
            try:
                _copy_place(leader, follower)
            finally:
                self._following = False

        leader.modified.connect(follow)


def _copy_place(leader: CompareSliceView, follower: CompareSliceView) -> None:
    source, target = leader.get_view_node(), follower.get_view_node()
    if _same(source.GetSliceToRAS(), target.GetSliceToRAS()) and source.GetFieldOfView() == target.GetFieldOfView():
        return
    target.GetSliceToRAS().DeepCopy(source.GetSliceToRAS())
    width, height = target.GetDimensions()[:2]
    across = source.GetFieldOfView()[0]
    target.SetFieldOfView(across, across * height / max(width, 1), source.GetFieldOfView()[2])
    target.UpdateMatrices()


def _same(first: vtk.vtkMatrix4x4, second: vtk.vtkMatrix4x4) -> bool:
    return all(first.GetElement(r, c) == second.GetElement(r, c) for r in range(4) for c in range(4))


def _definition(name: str, orientation: Any) -> ViewLayoutDefinition:
    return ViewLayoutDefinition.slice_view(orientation, label=name, color=COLOURS[orientation])


def _compare_layout() -> Layout:
    axial, coronal, sagittal = (_definition(*item) for item in BOTH_VIEWS.items())
    return Layout(
        LayoutDirection.Horizontal, [axial, Layout(LayoutDirection.Vertical, [coronal, sagittal])], ["3", "2"]
    )


def _side_by_side_layout(second_plane: str) -> Layout:
    """Two rows, a plane each: the fixed volume on the left, the moving one on the right."""
    rows = [
        Layout(LayoutDirection.Horizontal, [_definition(name, plane) for name, plane in SLICES.items() if plane == row])
        for row in ("Axial", second_plane)
    ]
    return Layout(LayoutDirection.Vertical, rows)


def _layout_with_3d() -> Layout:
    axial, coronal, sagittal = (_definition(*item) for item in BOTH_VIEWS.items())
    space = ViewLayoutDefinition.threed_view(name=VIEW_3D, background_color="black")
    return Layout(
        LayoutDirection.Vertical,
        [Layout(LayoutDirection.Horizontal, [axial, space]), Layout(LayoutDirection.Horizontal, [coronal, sagittal])],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """VTK 9.6 warns of an event name that trame-slicer still listens to; it is invoked by hand there."""
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        vtk.vtkObject.GlobalWarningDisplayOn()
