"""Live registration on MRML nodes, without Qt: the Slicer module and the browser app both use it.

The life of a registration: idle -> running (the worker prepares) -> live (λ moves the field) -> idle again by `reset`,
which can be undone until another registration is there, by closing the scene or by deleting one of its nodes. The scene
is touched only once the worker is ready, so cancelling or failing before that leaves everything as it was, also an
earlier live registration. When the worker dies while live, the last field stays; the next λ prepares the pair again in
a new worker.

Somebody has to call the worker client's `poll` regularly (in Slicer a QTimer does): all callbacks arrive from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform, displacement_at
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import geometry, linked
from hyperreg.mrml.lifecycle import IDLE, LIVE, RUNNING, ignore
from hyperreg.mrml.registration import inputs, landmarks, report, results, volume_change
from hyperreg.mrml.registration.constraints import Constraints
from hyperreg.mrml.registration.undo import Live, Undo
from hyperreg.mrml.registration.volume_change import ChangeMap
from hyperreg.registration.anchors import SAME_LAMBDA, check_lambda
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.response import Response, Suggestion, warning
from hyperreg.registration.start import BY_LANDMARKS
from hyperreg.worker.live_pair import Shown

INCOMPLETE = "The result for this λ is not complete yet. Wait a moment and try again."
# Whose versions a report tells.
PACKAGES = ("SimpleITK", "numpy")


class RegistrationLogic:
    """Registers two volume nodes and keeps a transform node in step with λ.

    scene: the vtkMRMLScene of both nodes.
    registration: a `hyperreg.worker.live.LiveRegistration` or a stand-in with the same callbacks.

    Callbacks, all optional, called on the thread that polls:
    on_change(): state, nodes or what can be done changed.
    on_live(): a registration has become live, a first one or another.
    on_aligned(transform): an alignment is done, and the moving volume is under this linear transform.
    on_progress(fraction, text): while running.
    on_field(shown): the transform node now shows these fields.
    on_metrics(metrics, shown): see `LiveSession.measure`; of exactly what is shown.
    on_work(fraction, text): of the field that is being computed.
    on_response(): `response` or `suggestion` changed.
    on_warning(message), on_error(message): in words for the user; never running any more when an error comes.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, registration: Any) -> None:
        self.scene = scene
        self.registration = registration
        self.on_change: Callable[[], None] = ignore
        self.on_aligned: Callable[[slicer.vtkMRMLTransformNode], None] = ignore
        self.on_live: Callable[[], None] = ignore
        self.on_progress: Callable[[float, str], None] = ignore
        self.on_field: Callable[[Shown], None] = ignore
        self.on_metrics: Callable[[Mapping[str, Any], Shown], None] = ignore
        self.on_work: Callable[[float, str], None] = ignore
        self.on_response: Callable[[], None] = ignore
        self.on_warning: Callable[[str], None] = ignore
        self.on_error: Callable[[str], None] = ignore

        self.lam = 0.0
        self.contrast = AUTOMATIC
        self.symmetric = False
        self.shown: Shown | None = None
        self.metrics: Mapping[str, Any] = {}
        self.response = Response()
        self.suggestion: Suggestion | None = None
        # Hyperparameters besides λ.
        self._values: dict[str, float] = {}
        self.constraints = Constraints(scene, registration, self._live_grids, self._settings_changed, self._report_end)
        self._change_map = ChangeMap()

        self._pending: results.Run | None = None
        self._run: results.Run | None = None
        self._live: geometry.LiveTransform | None = None
        self._transform_id: str | None = None
        self._alignment_id: str | None = None
        # What the last reset has ended.
        self._undo: Undo | None = None

        registration.on_progress = self._progressed
        registration.on_ready = self._ready
        registration.on_field = self._field_arrived
        registration.on_metrics = self._metrics_arrived
        registration.on_warning = self._warned
        registration.on_error = self._failed
        registration.on_work = self._worked
        registration.on_response = self._response_changed
        self._observers = [
            scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._node_leaving),
            scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._scene_closing),
        ]

    # What can be asked

    @property
    def state(self) -> str:
        """IDLE, RUNNING (a registration is being prepared) or LIVE (λ moves the field)."""
        if self._pending is not None:
            return RUNNING
        return LIVE if self._run is not None else IDLE

    @property
    def transform_node(self) -> slicer.vtkMRMLTransformNode | None:
        """The transform that λ moves; None before the first result and after `reset`."""
        return self._node(self._transform_id)

    @property
    def pair(self) -> tuple[Any, Any]:
        """The fixed and the moving volume node that λ works on; None, None unless live."""
        return (self._node(self._run.fixed_id), self._node(self._run.moving_id)) if self._run else (None, None)

    @property
    def label_names(self) -> Mapping[int, str]:
        """What the labels of the label maps are called, by the numbers in `metrics`; {} unless live with one."""
        return self._run.label_names if self._run is not None else {}

    @property
    def can_keep(self) -> bool:
        """Whether a field computed for exactly the current λ is shown (a preview is not kept)."""
        return self.state == LIVE and self.is_solved

    @property
    def is_solved(self) -> bool:
        """Whether the transform node shows a field computed for exactly the current λ."""
        return self.shown is not None and self.shown.solved and abs(self.shown.lam - self.lam) <= SAME_LAMBDA

    @property
    def can_reset(self) -> bool:
        return (self.transform_node or self.alignment_node) is not None and self.state != RUNNING

    @property
    def can_undo_reset(self) -> bool:
        """Whether what the last `reset` has ended is still there, and nothing else is going on."""
        return self._undo is not None and self.state == IDLE

    @property
    def alignment_node(self) -> slicer.vtkMRMLTransformNode | None:
        """The result of `align` that the moving volume is under; None without one, and while λ moves the volume."""
        node = self._node(self._alignment_id)
        moving = linked.ends(node)[1] if node is not None else None
        return node if moving is not None and moving.GetParentTransformNode() is node else None

    @property
    def linked_nodes(self) -> list[slicer.vtkMRMLTransformableNode]:
        """The nodes that move along with the moving volume."""
        node = self.transform_node
        return linked.linked_nodes(node) if node is not None else []

    @property
    def origin(self) -> results.Origin:
        """λ and everything else that makes what the transform node shows."""
        parts = [f"{name}={value:.2f}" for name, value in self.registration.values.items()]
        parts += self.constraints.words
        if self.contrast != AUTOMATIC:
            parts.append(f"contrast={self.contrast}")
        if self.symmetric:
            parts.append("symmetric")
        lam, stage = (self.shown.lam, self.shown.title) if self.shown is not None else (self.lam, "")
        return results.Origin(lam, stage, "; ".join(parts))

    @property
    def stage_text(self) -> str:
        """In words for the user, what the views show; "" before the first field."""
        if self.shown is None:
            return ""
        if abs(self.shown.lam - self.lam) > SAME_LAMBDA:
            # At one end of the slider no field is known yet: the picture has the nearest λ that has one.
            return f"Shows λ = {self.shown.lam:.2f} until λ = {self.lam:.2f} is computed"
        return self.shown.title

    @property
    def is_final(self) -> bool:
        """Whether what is shown will not become any better."""
        return self.shown is not None and self.shown.final and abs(self.shown.lam - self.lam) <= SAME_LAMBDA

    @property
    def is_waiting(self) -> bool:
        """Whether the first field with the settings of now is still on its way."""
        return self.state == LIVE and self.shown is None and bool(self.registration.busy)

    @property
    def work_text(self) -> str:
        """In words for the user, what is being computed; "" for nothing."""
        found = self.registration.working_at if self.state == LIVE else None
        return "" if found is None else f"{found[1].text} at λ = {found[0]:.2f}"

    @property
    def note(self) -> str:
        """In words for the user, how the pair is registered, such as its contrast; "" for nothing."""
        return str(self.registration.note) if self.state == LIVE else ""

    @property
    def has_stages(self) -> bool:
        """Whether there is a full resolution besides what comes first; a network alone has one stage."""
        return self.state == LIVE and len(self.registration.stages) > 1

    @property
    def is_computing_full(self) -> bool:
        """Whether a field is being computed at full resolution, at whatever λ."""
        found = self.registration.working_at if self.has_stages else None
        return found is not None and found[1] == self.registration.stages[-1]

    @property
    def full_automatically(self) -> bool:
        """Whether full resolution comes by itself."""
        return bool(self.registration.full_automatically)

    @property
    def can_request_full(self) -> bool:
        """Whether full resolution at the shown λ has to be asked for, and can be."""
        return self.state == LIVE and self.shown is not None and not self.is_final and not self.registration.full_wanted

    @property
    def warning(self) -> str:
        """In words for the user, if what is shown is worse than the linear alignment alone; else ""."""
        return warning(self.metrics) or ""

    @property
    def volume_change_node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The map of local volume change, %, of exactly what is shown; None where there is none (yet)."""
        if self.shown is None or not self.is_solved:
            return None
        return self._change_map.node(self.transform_node, self.shown)

    @property
    def volume_change_note(self) -> str:
        """In words for the user, why there is no map of local volume change although one is wanted; else ""."""
        if self.state != LIVE or not self._change_map.wanted or self.volume_change_node is not None:
            return ""
        return f"The map comes once λ = {self.lam:.2f} is computed."

    def deformed_mm(self, place: np.ndarray) -> float | None:
        """How far what is shown moves a place of the fixed volume, besides the linear alignment; None without a field.

        place: (3,), RAS mm, in the world.
        """
        if self.state != LIVE or self.shown is None:
            return None
        return float(np.linalg.norm(displacement_at(self.shown.forward, np.asarray(place, float)[None])))

    @property
    def landmark_rows(self) -> list[landmarks.Row]:
        """The pairs of landmarks with their distances by what is shown."""
        return self.constraints.landmark_rows(self.shown)

    # What can be done

    def register(
        self,
        fixed: slicer.vtkMRMLScalarVolumeNode,
        moving: slicer.vtkMRMLScalarVolumeNode,
        *,
        lam: float,
        model: str,
        device: str = "auto",
        initial: str | slicer.vtkMRMLTransformNode = "affine",
        contrast: str = AUTOMATIC,
        symmetric: bool = False,
        fixed_labels: slicer.vtkMRMLLabelMapVolumeNode | None = None,
        moving_labels: slicer.vtkMRMLLabelMapVolumeNode | None = None,
    ) -> None:
        """Starts a registration and returns at once; `on_change` tells when it is live.

        lam: 0 (most flexible) to 1 (most rigid): where to begin.
        initial: one of `start.ALIGNMENTS`, "landmarks", or a transform node of any kind that carries the moving volume
            onto the fixed one. If the moving volume is already under that node, it is not applied twice.
        contrast: whether both volumes show tissues alike, one of `contrast.CONTRASTS`. symmetric: whether neither
            volume is preferred, as for two visits of one person.
        Raises InputError if the nodes cannot be registered, WeightsError without the model; nothing has changed then.
        """
        check_lambda(lam)
        fixed_volume, moving_volume, run = inputs.read_pair(fixed, moving, model, initial)
        labels, names, notes = inputs.label_maps((fixed_labels, moving_labels), (fixed_volume, moving_volume))
        run = replace(run, label_names=names)
        start = self._start(initial, moving, fixed_volume.grid)
        parent = moving.GetParentTransformNode()
        if linked.is_live_transform(parent):
            self._transform_id = parent.GetID()
        self.lam, self.contrast, self.symmetric = lam, contrast, symmetric
        self.registration.prepare(
            fixed_volume,
            moving_volume,
            model=model,
            device=device,
            initial=start,
            contrast=contrast,
            symmetric=symmetric,
            fixed_labels=labels[0],
            moving_labels=labels[1],
        )
        self.registration.set_lambda(lam)
        self._pending = run
        self.on_change()
        for note in notes:
            self.on_warning(note)

    def align(
        self,
        fixed: slicer.vtkMRMLScalarVolumeNode,
        moving: slicer.vtkMRMLScalarVolumeNode,
        *,
        method: str,
        device: str = "auto",
    ) -> None:
        """Starts a linear alignment, without any deformation, and returns at once; `on_aligned` gives the result.

        method: one of `start.ALIGNMENTS`, or "landmarks". It ends what was live. Raises InputError; nothing has changed
        then.
        """
        fixed_volume, moving_volume, run = inputs.read_pair(fixed, moving, NO_MODEL, method)
        start = self._start(method, moving, fixed_volume.grid)
        self.registration.prepare(fixed_volume, moving_volume, model=NO_MODEL, device=device, initial=start)
        self._pending = replace(run, alignment=method)
        self.on_change()

    def _start(
        self, initial: str | slicer.vtkMRMLTransformNode, moving: slicer.vtkMRMLScalarVolumeNode, fixed: Grid
    ) -> str | np.ndarray | Transform:
        if initial == BY_LANDMARKS:
            return self.constraints.landmark_alignment()
        return inputs.initial_alignment(initial, moving, fixed)

    def cancel(self) -> None:
        """Gives up the registration that is running; the scene and an earlier live registration stay as they were."""
        if self.state == RUNNING:
            self._pending = None
            self.registration.cancel()
            self.on_change()

    def set_lambda(self, lam: float) -> None:
        """Moves to another λ: a preview at once, its own field when it comes; newer calls replace older ones.

        Raises InputError outside [0, 1].
        """
        check_lambda(lam)
        if lam == self.lam:
            return
        self.lam = lam
        if self.state != IDLE:
            self.registration.set_lambda(lam)
            self.on_change()

    def keep(self) -> results.Kept:
        """Adds what is shown to the scene for good: resampled volume, forward and inverse transform.

        They are nodes of their own: neither `set_lambda` nor `reset` touches them again.
        Raises InputError while no field of exactly this λ is there.
        """
        if not self.can_keep or self._run is None:
            raise InputError(INCOMPLETE)
        forward, inverse = self.registration.transform(), self.registration.inverse_transform()
        return results.keep(self.scene, self._run, self.origin, forward, inverse)

    def result(self, fixed: Volume, moving: Volume, moving_labels: Volume | None = None) -> report.Result:
        """What is shown, to be told of and written. fixed, moving, moving_labels: as they lie in the world.

        Raises InputError while no field of exactly this λ is there.
        """
        run, shown = self._run, self.shown
        if not self.can_keep or run is None or shown is None:
            raise InputError(INCOMPLETE)
        return report.Result(
            lam=self.lam,
            stage=self.registration.stages[shown.stage],
            settings=self.origin.settings,
            fixed=fixed,
            moving=moving,
            moving_labels=moving_labels,
            transform=self.registration.transform(),
            inverse=self.registration.inverse_transform(),
            linear=Transform((self.registration.linear,)),
            forward=shown.forward,
            metrics=dict(self.metrics),
            names=run.label_names,
            card=run.card,
            device=self.registration.device,
            initial=run.initial,
            warnings=tuple(dict.fromkeys([*self.registration.warnings, *filter(None, [self.warning])])),
        )

    @property
    def can_report(self) -> bool:
        """Whether `save_page` has everything to tell."""
        return self.can_keep and bool(self.metrics)

    def save_page(self, path: Path) -> None:
        """Writes what is shown on one page for people, PDF: pictures before and after, measures, how it was made.

        Raises InputError while the field or the measures of exactly this λ are not there, FileError if it cannot be
        written.
        """
        run = self._run
        if not self.can_report or run is None:
            raise InputError(INCOMPLETE)
        # As they lay when they were registered, not as λ moves one of them.
        volumes = [
            replace(geometry.volume_from_node(node, None), ijk_to_ras=grid.ijk_to_ras)
            for node, grid in zip(self.pair, (run.fixed_grid, run.moving_grid), strict=True)
        ]
        result = self.result(*volumes)
        report.write_page(result, report.report_of(result, PACKAGES), path)

    def take_along(self, node: slicer.vtkMRMLTransformableNode) -> None:
        """See `linked.take_along`."""
        linked.take_along(self.transform_node, node)
        self.on_change()

    def leave_behind(self, node: slicer.vtkMRMLTransformableNode) -> None:
        """Undoes `take_along`."""
        linked.leave_behind(self.transform_node, node)
        self.on_change()

    def set_hyperparameter(self, name: str, value: float) -> None:
        """Sets a hyperparameter other than λ, also for registrations to come; models that have it not ignore it.

        Raises InputError outside [0, 1].
        """
        if not 0 <= value <= 1:
            raise InputError(f"'{name}' must lie between 0 and 1, not {value}.")
        if self._values.get(name) != value:
            self._values[name] = value
            self._send_settings()

    def set_volume_change(self, on: bool) -> None:
        """Whether there is a map of local volume change, made by `settle`; without one none stays in the scene."""
        if on == self._change_map.wanted:
            return
        self._change_map.wanted = on
        if not on:
            volume_change.remove(self.transform_node)
        self.on_change()

    def settle(self) -> None:
        """To be called regularly: does what has to wait until nothing moves."""
        transform = self.transform_node
        if self.state != LIVE or not self.is_solved or transform is None or self.shown is None:
            return
        made = self._change_map.settle(transform, self.shown)
        if made is not None:
            moving = linked.ends(transform)[1]
            made.SetName(f"{moving.GetName()} local volume change {self.origin.title} (%)")
            self._describe(made)
            self.on_change()

    def set_full_automatically(self, on: bool) -> None:
        """Whether full resolution comes by itself, first at the shown λ; or only when `request_full` asks for it."""
        if on != self.full_automatically:
            self.registration.set_full_automatically(on)
            self.on_change()

    def request_full(self) -> None:
        """Asks for full resolution at the shown λ. Raises InputError unless a registration is live."""
        self.registration.request_full()
        self.on_change()

    def cancel_full(self) -> None:
        """Gives up full resolution; what is shown stays, and from now on it comes only when asked for."""
        self.registration.cancel_full()
        self.on_change()

    def reset(self) -> None:
        """Ends the registration and puts the scene back as it was before; kept results stay.

        After `align` alone the moving volume is put back where it was; the transform stays. `undo_reset` takes it back
        until another registration or alignment is there, a volume is deleted, or `forget_reset` is called.
        """
        aligned = self.alignment_node
        self._remember_for_undo()
        self._end()
        self._remove_transform()
        if aligned is not None:
            linked.release(aligned)
            before = aligned.GetNodeReference(linked.MOVING_PARENT_ROLE)
            self._alignment_id = before.GetID() if linked.is_alignment(before) else None
        self.on_change()

    def undo_reset(self) -> None:
        """Brings back what the last `reset` has ended, as it was: its transform and λ, live again if it was live.

        What is marked and set besides λ counts as it is now. Raises InputError if there is nothing to bring back, or
        if it does not fit the volumes any more; then there is nothing left to undo.
        """
        undo = self._undo
        if undo is None or self.state != IDLE:
            raise InputError("There is no reset to undo.")
        try:
            node = undo.put_back(self.scene)
        except InputError:
            self.forget_reset()
            raise
        self._undo = None
        if undo.node_id:
            self._alignment_id = node.GetID()
        else:
            self._transform_id = node.GetID()
        if undo.live is not None:
            self._bring_back(undo.live)
        self.on_change()

    def _bring_back(self, before: Live) -> None:
        self._run, self._live, self.lam = before.run, before.live, before.lam
        self.contrast, self.symmetric = before.contrast, before.symmetric
        self.shown, self.metrics = before.shown, before.metrics
        self.registration.bring_back()
        self._send_settings()
        if self.shown is not None:
            self._change_map.moved()
            self.on_field(self.shown)
        if self.shown is not None and self.metrics:
            self.on_metrics(self.metrics, self.shown)

    def forget_reset(self) -> None:
        """What the last `reset` has ended cannot be brought back any more; its memory is freed."""
        if self._undo is not None:
            self._undo = None
            self.registration.drop_aside()
            self.on_change()

    def _remember_for_undo(self) -> None:
        """Holds what `reset` is about to end; the registration's fields stay in memory, and the worker's session."""
        node, live = self.transform_node or self.alignment_node, None
        if node is None or self.state == RUNNING:
            return  # nothing is ended that could be brought back
        self.forget_reset()
        if self.state == LIVE and self._run is not None and self._live is not None:
            live = Live(self._run, self._live, self.lam, self.contrast, self.symmetric, self.shown, self.metrics)
        self._undo = Undo.of(node, live)

    def adopt(self, transform: slicer.vtkMRMLTransformNode | None) -> None:
        """Takes up the transform of a reopened scene: it can be reset, and the next `register` goes on with it."""
        if self.state != IDLE:
            return
        if transform is not None and linked.is_alignment(transform):
            self._alignment_id = transform.GetID()
        if transform is None or not linked.is_live_transform(transform):
            return
        self._transform_id = transform.GetID()
        self.forget_reset()
        results.interpolate_linearly(transform)
        self.on_change()

    def close(self) -> None:
        """Stops listening to scene and worker; the nodes stay. The logic is of no use afterwards."""
        self.forget_reset()
        self._end()
        for tag in self._observers:
            self.scene.RemoveObserver(tag)
        self._observers = []
        for callback in [name for name in vars(self.registration) if name.startswith("on_")]:
            setattr(self.registration, callback, ignore)

    # What the worker says

    def _progressed(self, fraction: float, text: str) -> None:
        self.on_progress(fraction, text)

    def _warned(self, message: str) -> None:
        self.on_warning(message)

    def _worked(self, fraction: float, text: str) -> None:
        self.on_work(fraction, text)

    def _ready(self) -> None:
        if self._pending is None:
            return
        run, self._pending, self._run = self._pending, None, None
        self._undo = None  # the worker holds another session now
        if run.alignment:
            linear = self.registration.linear
            self.registration.reset()
            self._end()
            self._remove_transform()
            node = results.place_alignment(self.scene, run, linear)
            self._alignment_id = node.GetID()
            self.on_change()
            self.on_aligned(node)
            return
        moving = self._node(run.moving_id)
        into_parent = np.linalg.inv(run.parent_to_world)
        self._live = geometry.LiveTransform(self.registration.grid, into_parent @ self.registration.linear)
        node = self.transform_node
        if node is not None and linked.ends(node)[1] is not moving:
            self._remove_transform()
            node = None
        if node is None:
            node = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", f"{moving.GetName()} live registration")
            self._transform_id = node.GetID()
        modifying = node.StartModify()
        linked.set_ends(node, run.fixed_id, run.moving_id)
        node.SetNodeReferenceID(linked.MOVING_PARENT_ROLE, run.moving_parent_id)
        node.SetAttribute(linked.LIVE_ATTRIBUTE, "1")
        node.SetAndObserveTransformFromParent(self._live.transform)
        node.EndModify(modifying)
        moving.SetAndObserveTransformNodeID(node.GetID())
        self._run, self.shown, self.metrics = run, None, {}
        self._describe(node)
        self._send_settings()
        self.on_live()
        self.on_change()

    def _field_arrived(self, shown: Shown) -> None:
        node = self.transform_node
        if self.state != LIVE or self._live is None or node is None:
            return
        self._live.fill(shown.forward)
        self.shown, self.metrics = shown, {}
        self._change_map.moved()
        if shown.solved:
            self._describe(node)
        self.on_field(shown)
        self.on_change()

    def _metrics_arrived(self, metrics: Mapping[str, Any], shown: Shown) -> None:
        if self.state == LIVE and shown is self.shown:
            self.metrics = metrics
            self.on_metrics(metrics, shown)

    def _failed(self, message: str) -> None:
        self._pending = None
        self.on_change()
        self.on_error(message)

    def _response_changed(self, response: Response, suggestion: Suggestion | None) -> None:
        self.response, self.suggestion = response, suggestion
        self.on_response()

    # What the scene says

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_leaving(self, _caller: Any, _event: str, node: slicer.vtkMRMLNode) -> None:
        if self.scene.IsClosing():
            return
        leaving = node.GetID()
        if self._undo is not None and leaving in (self._undo.fixed_id, self._undo.moving_id, self._undo.node_id):
            self.forget_reset()
        if self.constraints.node_leaves(node):
            return
        if leaving == self._transform_id:
            was_live = self._run is not None
            linked.release(node)
            volume_change.remove(node)
            self._transform_id = None
            self._run = self._live = None
            if was_live and self._pending is None:
                self._end()
                self._report_end("The live transform was deleted; the moving volume is where it was before.")
            return
        for run in (self._pending, self._run):
            if run is not None and leaving in (run.fixed_id, run.moving_id):
                role = "fixed" if leaving == run.fixed_id else "moving"
                ended = "registration was cancelled" if run is self._pending else "live registration has ended"
                self._end()
                self._report_end(f"The {role} volume was deleted; the {ended}.")
                return

    def _scene_closing(self, _caller: Any, _event: str) -> None:
        self.forget_reset()
        self._end()
        self._transform_id = self._alignment_id = None
        self.constraints.forget()
        self.on_change()

    # Small things

    def _end(self) -> None:
        """Ends what the worker does for us and forgets the runs; touches no node."""
        if self.state == LIVE and self._undo is not None:
            self.registration.set_aside()
        elif self.state != IDLE:
            self._undo = None
            self.registration.reset()
        self._pending = self._run = self._live = None
        self.shown, self.metrics = None, {}
        self._response_changed(Response(), None)

    def _describe(self, node: slicer.vtkMRMLNode) -> None:
        if self._run is not None:
            results.describe(node, self._run, self.origin)

    def _remove_transform(self) -> None:
        transform = self.transform_node
        if transform is not None:
            linked.release(transform)
            volume_change.remove(transform)
            self._transform_id = None
            self.scene.RemoveNode(transform)

    def _send_settings(self) -> None:
        """Brings a live registration what is set besides λ; it ignores what it has already."""
        if self.state == LIVE:
            for name in self.registration.values:
                if name in self._values:
                    self.registration.set_hyperparameter(name, self._values[name])
            self.constraints.send()

    def _settings_changed(self) -> None:
        """What was shown with other settings is not the result of those of now."""
        if self.state == LIVE and self.registration.shown is None:
            self.shown, self.metrics = None, {}
        self.on_change()

    def _live_grids(self) -> tuple[Grid, Grid] | None:
        return (self._run.fixed_grid, self._run.moving_grid) if self.state == LIVE and self._run is not None else None

    def _report_end(self, message: str) -> None:
        self.on_change()
        self.on_error(message)

    def _node(self, node_id: str | None) -> Any:
        return self.scene.GetNodeByID(node_id) if node_id else None
