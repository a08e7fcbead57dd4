"""Live registration on MRML nodes, without Qt: the Slicer module and the browser app both use it.

The life of a registration: idle -> running (the worker prepares) -> live (λ moves the field) -> idle again by `reset`,
which can be undone until another registration is there, by closing the scene or by deleting one of its nodes. The scene
is touched only once the worker is ready, so cancelling or failing before that leaves everything as it was, also an
earlier live registration. When the worker dies while live, the last field stays; the next λ prepares the pair again in
a new worker.

Somebody has to call the worker client's `poll` regularly (in Slicer a QTimer does): all callbacks arrive from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import geometry, linked
from hyperreg.mrml.lifecycle import IDLE, LIVE, RUNNING, ignore
from hyperreg.mrml.registration import inputs, report, results
from hyperreg.mrml.registration.constraints import Constraints
from hyperreg.mrml.registration.live_node import Live, LiveNode
from hyperreg.mrml.registration.undo import Undo
from hyperreg.mrml.registration.volume_change import ChangeMap
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.start import BY_LANDMARKS
from hyperreg.worker.live.state import INCOMPLETE, LiveState, Prepared, Registration

# Whose versions a report tells.
PACKAGES = ("SimpleITK", "numpy")


class RegistrationLogic:
    """Registers two volume nodes and keeps a transform node in step with λ.

    scene: the vtkMRMLScene of both nodes.
    registration: the live registration, which owns λ; its full resolution is asked for, and given up, directly.
    transform: the node that λ moves, and what follows it. volume_change: the map that is made of it.
    constraints: what the user has marked.

    Callbacks, all optional, called on the thread that polls:
    on_change(): something that can be asked here is different.
    on_result(): a registration has become live, or an alignment is done: the moving volume is under `alignment_node`.
    on_warning(message), on_error(message): in words for the user; never running any more when an error comes.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, registration: Registration) -> None:
        self.scene = scene
        self.registration = registration
        self.on_change: Callable[[], None] = ignore
        self.on_result: Callable[[], None] = ignore
        self.on_warning: Callable[[str], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        # Hyperparameters besides λ.
        self._values: dict[str, float] = {}
        self.constraints = Constraints(scene, registration, self._live_grids, self._changed, self._report_end)
        # What is being prepared, and what was before.
        self._pending: results.Run | None = None
        self._pair_before: Prepared | None = None
        self._live: Live | None = None
        self.transform = LiveNode(scene, self._changed)
        self.volume_change = ChangeMap(lambda: self.transform_node, lambda: self.live, self._describe, self._changed)
        self._alignment_id: str | None = None
        # What the last reset has ended.
        self._undo: Undo | None = None
        registration.on_state = self._state_told
        registration.on_error = self._failed
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
        return LIVE if self._live is not None else IDLE

    @property
    def live(self) -> LiveState:
        """What is known of the registration that λ moves; of nothing while none is."""
        state = self.registration.state
        if self._live is not None:
            return state
        return LiveState(state.lam, progress=state.progress, full_automatically=state.full_automatically)

    @property
    def lam(self) -> float:
        """λ, where the slider is."""
        return self.registration.state.lam or 0.0

    @property
    def transform_node(self) -> slicer.vtkMRMLTransformNode | None:
        """The transform that λ moves; None before the first result and after `reset`."""
        return self.transform.node

    @property
    def label_names(self) -> Mapping[int, str]:
        """What the labels of the label maps are called, by the numbers in `metrics`; {} unless live with one."""
        return {} if self._run is None else self._run.label_names

    @property
    def _run(self) -> results.Run | None:
        return None if self._live is None else self._live.run

    @property
    def can_keep(self) -> bool:
        """Whether a field computed for exactly the current λ is shown (a preview is not kept)."""
        return self.state == LIVE and self.live.is_solved

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
    def origin(self) -> results.Origin:
        """λ and everything else that makes what the transform node shows."""
        return results.Origin.of(self.live, self.lam, self._run, self.constraints.words)

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
        run = replace(run, label_names=names, contrast=contrast, symmetric=symmetric)
        start = self._start(initial, moving, fixed_volume.grid)
        parent = moving.GetParentTransformNode()
        if linked.is_live_transform(parent):
            self.transform.adopt(parent)
        self._pair_before = self.registration.state.pair
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
        """Starts a linear alignment, without any deformation, and returns at once; `on_result` tells of the result.

        method: one of `start.ALIGNMENTS`, or "landmarks". It ends what was live. Raises InputError; nothing has changed
        then.
        """
        fixed_volume, moving_volume, run = inputs.read_pair(fixed, moving, NO_MODEL, method)
        start = self._start(method, moving, fixed_volume.grid)
        self._pair_before = self.registration.state.pair
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
        if check_lambda(lam) != self.lam:
            self.registration.set_lambda(lam)

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
        if not self.can_keep or self._run is None:
            raise InputError(INCOMPLETE)
        return report.result_of(self.registration, self._run, self.origin, (fixed, moving, moving_labels))

    @property
    def can_report(self) -> bool:
        """Whether `save_page` has everything to tell."""
        return self.can_keep and bool(self.live.metrics)

    def save_page(self, path: Path) -> None:
        """Writes what is shown on one page for people, PDF: pictures before and after, measures, how it was made.

        Raises InputError while the field or the measures of exactly this λ are not there, FileError if it cannot be
        written.
        """
        run = self._run
        if not self.can_report or run is None:
            raise InputError(INCOMPLETE)
        # As they lay when they were registered, not as λ moves one of them.
        fixed, moving = (
            replace(geometry.volume_from_node(node, None), ijk_to_ras=grid.ijk_to_ras)
            for node, grid in ((self._node(run.fixed_id), run.fixed_grid), (self._node(run.moving_id), run.moving_grid))
        )
        result = self.result(fixed, moving)
        report.write_page(result, report.report_of(result, PACKAGES), path)

    def set_hyperparameter(self, name: str, value: float) -> None:
        """Sets a hyperparameter other than λ, also for registrations to come; models that have it not ignore it.

        Raises InputError outside [0, 1].
        """
        if not 0 <= value <= 1:
            raise InputError(f"'{name}' must lie between 0 and 1, not {value}.")
        if self._values.get(name) != value:
            self._values[name] = value
            self._send_settings()

    def set_full_automatically(self, on: bool) -> None:
        """Whether full resolution comes by itself, first at the shown λ; or only when it is asked for."""
        if on != self.registration.state.full_automatically:
            self.registration.set_full_automatically(on)

    def reset(self) -> None:
        """Ends the registration and puts the scene back as it was before; kept results stay.

        After `align` alone the moving volume is put back where it was; the transform stays. `undo_reset` takes it back
        until another registration or alignment is there, a volume is deleted, or `forget_reset` is called.
        """
        aligned = self.alignment_node
        self._remember_for_undo()
        self._end()
        self.transform.remove()
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
            self.transform.adopt(node)
        if undo.live is not None:
            self._live = undo.live
            self.volume_change.moved()
            self.registration.bring_back()
            self._send_settings()
        self.on_change()

    def forget_reset(self) -> None:
        """What the last `reset` has ended cannot be brought back any more; its memory is freed."""
        if self._undo is not None:
            self._undo = None
            self.registration.drop_aside()
            self.on_change()

    def _remember_for_undo(self) -> None:
        """Holds what `reset` is about to end; the registration's fields stay in memory, and the worker's session."""
        node = self.transform_node or self.alignment_node
        if node is not None and self.state != RUNNING:  # else nothing is ended that could be brought back
            self.forget_reset()
            self._undo = Undo.of(node, self._live)

    def adopt(self, transform: slicer.vtkMRMLTransformNode | None) -> None:
        """Takes up the transform of a reopened scene: it can be reset, and the next `register` goes on with it."""
        if self.state != IDLE:
            return
        if transform is not None and linked.is_alignment(transform):
            self._alignment_id = transform.GetID()
        if transform is None or not linked.is_live_transform(transform):
            return
        self.transform.adopt(transform)
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
        self.registration.on_state = self.registration.on_error = ignore

    # What the worker says

    def _state_told(self, state: LiveState) -> None:
        """Brings what is told into the scene: a pair that has become ready, and another field."""
        if self._pending is not None and not state.preparing:
            run, self._pending = self._pending, None
            if state.pair is not None and state.pair is not self._pair_before:
                self._ready(run, state.pair, state.warnings)
        live = self._live
        if live is not None and live.pair is state.pair:
            if state.shown is not None and live.draw(state.shown):
                self.volume_change.moved()
                if state.shown.solved:
                    self._describe(self.transform_node)
            new, live.warned = state.warnings[live.warned :], len(state.warnings)
            self._warn(new)
        self.on_change()

    def _ready(self, run: results.Run, pair: Prepared, warnings: Iterable[str]) -> None:
        self._undo = self._live = None  # the worker holds another session now
        if run.alignment:
            self._warn(warnings)
            self.registration.reset()
            self.transform.remove()
            self._alignment_id = results.place_alignment(self.scene, run, pair.linear).GetID()
        else:
            self._live = self.transform.place(run, pair)
            self._describe(self.transform_node)
            self._send_settings()
        self.on_result()

    def _failed(self, message: str) -> None:
        self._pending = None
        self._report_end(message)

    def _warn(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.on_warning(message)

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
        if self.transform.is_leaving(node):
            if self.state == LIVE:
                self._end()
                self._report_end("The live transform was deleted; the moving volume is where it was before.")
            self._live = None
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
        self.transform.forget()
        self._alignment_id = None
        self.constraints.forget()
        self.on_change()

    # Small things

    def _end(self) -> None:
        """Ends what the worker does for us and forgets the runs; touches no node."""
        before = self.state
        self._pending = self._live = None
        if before == LIVE and self._undo is not None:
            self.registration.set_aside()
        elif before != IDLE:
            self._undo = None
            self.registration.reset()

    def _describe(self, node: slicer.vtkMRMLNode) -> None:
        if self._run is not None:
            results.describe(node, self._run, self.origin)

    def _send_settings(self) -> None:
        """Brings a live registration what is set besides λ; it ignores what it has already."""
        if self.state == LIVE:
            for name in self.live.values:
                if name in self._values:
                    self.registration.set_hyperparameter(name, self._values[name])
            self.constraints.send()

    def _changed(self) -> None:
        self.on_change()

    def _live_grids(self) -> tuple[Grid, Grid] | None:
        run = self._run if self.state == LIVE else None
        return None if run is None else (run.fixed_grid, run.moving_grid)

    def _report_end(self, message: str) -> None:
        self.on_change()
        self.on_error(message)

    def _node(self, node_id: str | None) -> Any:
        return self.scene.GetNodeByID(node_id) if node_id else None
