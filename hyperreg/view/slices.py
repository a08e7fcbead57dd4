"""The slice views: three that show both volumes, or three of the fixed above three of the moving one.

VTK renders them off screen; without a display it uses EGL, and Mesa's software renderer where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import vtk
from slicer import vtkMRMLSliceCompositeNode, vtkMRMLSliceLogic, vtkMRMLVolumeNode
from trame.widgets import html
from trame_slicer.app.logic import connect_slice_view_slider_to_state
from trame_slicer.app.ui.slider import Slider
from trame_slicer.core import LayoutManager, SlicerApp
from trame_slicer.rca_view.rca_view_factory import RemoteViewFactory
from trame_slicer.views import Layout, LayoutDirection, SliceView, ViewLayoutDefinition, ViewType

from hyperreg.view import layer_dm, mrml
from hyperreg.view.state import BOTH_VIEWS, FADE, MOVING_VIEWS, SIDE_BY_SIDE

# Which side of the patient the left, right and upper edge of the screen is (the patient's right is on the left).
SIDES = {"Axial": "RLA", "Coronal": "RLS", "Sagittal": "APS"}
COLOURS = {"Axial": "#F34A33", "Coronal": "#6DAD4A", "Sagittal": "#EFD64D"}

FRAMES_PER_SECOND = 30.0
DRAG_QUALITY = 75
# While λ moves the views are resliced with this share of their pixels along each side: four times as fast, and still
# finer than the voxels of most images. At rest they have all of them.
DRAFT_SCALE = 0.5
# Of a map over an image.
MAP_OPACITY = 0.6
# Two window shapes within this ratio are the same: the zoom is kept.
SAME_SHAPE = 0.02


class CompareSliceView(SliceView):
    """A slice view that keeps its volume in sight when the window changes its size."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _quiet():
            super().__init__(*args, **kwargs)
        # Software rendering of a textured quad: eight samples per pixel cost five times the time and change nothing.
        self.render_window().SetMultiSamples(0)

    @property
    def slice_logic(self) -> vtkMRMLSliceLogic:
        return self._logic

    def _initialize_displayable_manager_group(self, factory: Any, app_logic: Any, managers: list[Any]) -> None:
        real = [manager for manager in managers if not hasattr(manager, layer_dm.MISSING_MARK)]
        super()._initialize_displayable_manager_group(factory, app_logic, real)

    def _update_slice_size(self, *_: Any) -> None:
        node = self.get_view_node()
        (width, height), field_of_view = node.GetDimensions()[:2], node.GetFieldOfView()
        super()._update_slice_size()
        new_width, new_height = node.GetDimensions()[:2]
        if abs(width * new_height / (height * max(new_width, 1)) - 1) < SAME_SHAPE:
            node.SetFieldOfView(*field_of_view)  # finer or coarser pixels, the same part of the image
            node.UpdateMatrices()
        else:
            self.fit()

    def fit(self) -> None:
        """Shows all of the background volume, without leaving the slice that is shown."""
        if self.get_background_volume_id() is None:
            return
        offset = self._logic.GetSliceOffset()
        self._logic.FitSliceToBackground()
        self._logic.SetSliceOffset(offset)

    def fit_view_to_content(self) -> None:
        with self.trigger_modified_once():
            super()._update_slice_size()
            self._logic.FitSliceToBackground()
            self._logic.SnapSliceOffsetToIJK()


class SliceViews:
    """All slice views of the app and what they show."""

    def __init__(self, slicer_app: SlicerApp, server: Any) -> None:
        self._scene = slicer_app.scene
        self._manager = slicer_app.view_manager
        self._factory = RemoteViewFactory(
            server,
            CompareSliceView,
            ViewType.SLICE_VIEW,
            populate_view_ui_f=_furnish,
            target_fps=FRAMES_PER_SECOND,
            # The hand is on the slider beside the views, not over them: they must not slow down for that.
            blur_fps=FRAMES_PER_SECOND,
            interactive_quality=DRAG_QUALITY,
        )
        self._manager.register_factory(self._factory)
        self._draft = False
        self.layouts = LayoutManager(self._scene, self._manager, server)
        self.layouts.register_layout(FADE, _compare_layout())
        self.layouts.register_layout(SIDE_BY_SIDE, _side_by_side_layout())
        self.layouts.set_layout(FADE)
        self._views = mrml.slicer_module("Views").Views(self._scene, self._slice_logics)
        self._shown: tuple[str, str] | None = None
        self._following = False
        for first, second in zip(BOTH_VIEWS, MOVING_VIEWS, strict=True):
            self._link(self.view(first), self.view(second))
            self._link(self.view(second), self.view(first))

    def view(self, name: str) -> CompareSliceView:
        return self._manager.get_view(name)

    def show(self, mode: str, fixed: vtkMRMLVolumeNode, moving: vtkMRMLVolumeNode, fade: float) -> None:
        """Shows both volumes. mode: one of MODES. fade: 0 shows the fixed, 1 the moving volume (for "fade")."""
        if self._shown != (fixed.GetID(), moving.GetID()):
            same_place = self._shown is not None and self._shown[0] == fixed.GetID()
            self._shown = (fixed.GetID(), moving.GetID())
            self._put(fixed, moving)
            for view in () if same_place else self._all():
                view.fit_view_to_content()
        self.layouts.set_layout(SIDE_BY_SIDE if mode == SIDE_BY_SIDE else FADE)
        if mode == SIDE_BY_SIDE:
            self._views.show(FADE, fixed, moving, 0.0)
            self._put(fixed, moving)
        else:
            self._views.show(mode, fixed, moving, fade)

    def show_one(self, volume: vtkMRMLVolumeNode, over: vtkMRMLVolumeNode | None = None) -> None:
        """Shows one volume, and another one (a map of the same place) over it."""
        self.layouts.set_layout(FADE)
        self._views.show(FADE, volume, volume, 0.0)
        if self._shown is None or self._shown[0] != volume.GetID():
            self._put(volume, volume)
            for view in self._all():
                view.fit_view_to_content()
        self._shown = (volume.GetID(), "")
        for view in self._all():
            composite = view.slice_logic.GetSliceCompositeNode()
            composite.SetForegroundVolumeID(None if over is None else over.GetID())
            composite.SetForegroundOpacity(0.0 if over is None else MAP_OPACITY)
            # Segmentations that came into the scene in a batch are drawn from the view's next change on.
            view.get_view_node().Modified()

    def set_fade(self, fade: float) -> None:
        self._views.set_fade(fade)

    def set_draft(self, draft: bool) -> None:
        """Coarser pictures, as long as λ moves."""
        if draft == self._draft:
            return
        self._draft = draft
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            self._factory.get_factory_view(name).view_adapter.scale = DRAFT_SCALE if draft else 1.0

    def _all(self) -> list[CompareSliceView]:
        return [self.view(name) for name in (*BOTH_VIEWS, *MOVING_VIEWS)]

    def _slice_logics(self) -> list[vtkMRMLSliceLogic]:
        return [view.slice_logic for view in self._all()]

    def _put(self, fixed: vtkMRMLVolumeNode, moving: vtkMRMLVolumeNode) -> None:
        """The fixed volume into the first row, the moving one into the second; nothing over them."""
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
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


def _side_by_side_layout() -> Layout:
    rows = [
        Layout(LayoutDirection.Horizontal, [_definition(*item) for item in views.items()])
        for views in (BOTH_VIEWS, MOVING_VIEWS)
    ]
    return Layout(LayoutDirection.Vertical, rows)


def _furnish(server: Any, view_id: str, view: CompareSliceView) -> None:
    """The name in the corner, the patient's sides at the edges and the slice slider at the bottom of a view."""
    orientation = {**BOTH_VIEWS, **MOVING_VIEWS}[view_id]
    colour = COLOURS[orientation]
    with html.Div(classes="hyperreg-corner", style=f"border-color: {colour}"):
        html.Span(orientation)
        what = "Moving" if view_id in MOVING_VIEWS else "Fixed"
        html.Span(f" · {what}", v_if=f"mode === '{SIDE_BY_SIDE}'")
    for side, edge in zip(SIDES[orientation], ("left", "right", "top"), strict=True):
        html.Div(side, classes=f"hyperreg-side hyperreg-side-{edge}")
    with html.Div(classes="hyperreg-slice-slider"):
        Slider(
            typed_state=connect_slice_view_slider_to_state(server, view), theme="dark", density="compact", color=colour
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """VTK 9.6 warns of an event name that trame-slicer still listens to; it is invoked by hand there."""
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        vtk.vtkObject.GlobalWarningDisplayOn()
