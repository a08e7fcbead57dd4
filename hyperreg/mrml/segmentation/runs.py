"""Cases of the scene, one after another in the worker: what segmentation and fusion have in common.

The life of a run: idle -> running -> idle. The scene is touched only when a case is done, and then at once: cancelling
or failing before that leaves it as it was. A run, however many cases it has, is one step for `undo`.

Somebody has to call the worker client's `poll` regularly (in Slicer a QTimer does): all callbacks arrive from there.
After a run with surfaces `surfaces.step` has to be called as well, until nothing is pending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.mrml import nodes, regions
from hyperreg.mrml.lifecycle import IDLE, RUNNING, ignore
from hyperreg.mrml.segmentation.surfaces import Surfaces


@dataclass(frozen=True)
class Case:
    """The nodes of one patient: ids by what they are; the result lies on the first one's voxels. name: of that one."""

    name: str
    nodes: Mapping[str, str]


@dataclass
class Run:
    """What the user asked for at once, and what has become of it.

    added: ids of the nodes in the scene, in the order in which they came; stamps: of the segmentations among them.
    failures: (name of the case, why).
    """

    cases: list[Case]
    show_3d: bool
    done: int = 0
    added: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def case(self) -> Case:
        """The one that is being worked on."""
        return self.cases[self.done]

    @property
    def reasons(self) -> list[str]:
        """Why cases failed; with their names where there are several, which the engine's messages may not say."""
        return [text if len(self.cases) == 1 else f"{name}: {text}" for name, text in self.failures]


class RunLogic:
    """Works on nodes and puts the results into the scene; a subclass says how (`_send`, `_add`).

    scene: the vtkMRMLScene of the nodes. remote: a `hyperreg.worker` Remote... or a stand-in.

    Callbacks, all optional, called on the thread that polls:
    on_change(): state, nodes or what can be done changed. on_progress(fraction, text): while running.
    on_result(node, result): a segmentation is in the scene. on_finished(run): all cases are done, or failed.
    on_error(message): in words for the user; never running any more then.
    """

    # Why a second run cannot be started.
    BUSY = ""

    def __init__(self, scene: slicer.vtkMRMLScene, remote: Any) -> None:
        self.scene, self.remote = scene, remote
        self.on_change: Callable[[], None] = ignore
        self.on_progress: Callable[[float, str], None] = ignore
        self.on_result: Callable[[slicer.vtkMRMLSegmentationNode, Any], None] = ignore
        self.on_finished: Callable[[Any], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        self.surfaces = Surfaces(scene)
        self._run: Any = None
        self._last: Any = None
        remote.on_progress = self._progressed
        remote.on_done = self._done
        remote.on_error = self._case_failed
        remote.on_cancelled = self._cancelled
        self._observers = [scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._scene_closing)]

    # What can be asked

    @property
    def state(self) -> str:
        """IDLE or RUNNING."""
        return IDLE if self._run is None else RUNNING

    @property
    def can_undo(self) -> bool:
        """Whether the last run left something in the scene that is still there."""
        return self.state == IDLE and bool(self._added())

    @property
    def was_edited(self) -> bool:
        """Whether a segmentation of the last run has changed since: `undo` would lose that."""
        stamps = self._last.stamps if self._last is not None else {}
        nodes = {node_id: self.scene.GetNodeByID(node_id) for node_id in stamps}
        return any(node is not None and regions.stamp(node) != stamps[node_id] for node_id, node in nodes.items())

    # What can be done

    def cancel(self) -> None:
        """Gives up what is going on, at once; cases of the run that are done stay in the scene."""
        if self.state == RUNNING:
            self.remote.cancel()

    def undo(self) -> None:
        """Takes everything out of the scene that the last run has put there. Harmless if nothing is left of it."""
        for node in self._added():
            nodes.remove(self.scene, node)
        self._last = None
        self.on_change()

    def close(self) -> None:
        """Stops listening to scene and worker; the nodes stay. The logic is of no use afterwards."""
        run, self._run = self._run, None
        self._tidy(run)
        self.remote.close()
        for tag in self._observers:
            self.scene.RemoveObserver(tag)
        self._observers = []

    # What is different

    def _send(self, run: Any, nodes: dict[str, Any]) -> None:
        """Sends the current case to the worker. Raises HyperRegError if it cannot be sent."""
        raise NotImplementedError

    def _add(self, run: Any, reference: Any, result: Any) -> slicer.vtkMRMLSegmentationNode:
        """Puts a result into the scene."""
        raise NotImplementedError

    def _tidy(self, run: Any) -> None:
        """Takes away what was there while a case was worked on. run: None if there is none."""

    # The run

    def _check_idle(self) -> None:
        if self.state != IDLE:
            raise InputError(self.BUSY)

    def _start(self, run: Any) -> None:
        """Sends the first case. Raises what is wrong with a single one; of several that is told at the end."""
        if len(run.cases) == 1:
            try:
                self._send(run, self._nodes(run.case))
            except BaseException:
                self._tidy(run)
                raise
        self._run = run
        if len(run.cases) > 1:
            self._next(run)
        self.on_change()

    def _next(self, run: Any) -> None:
        """Sends the next case that can be sent; ends the run if there is none."""
        while run.done < len(run.cases):
            try:
                self._send(run, self._nodes(run.case))
                return
            except HyperRegError as error:
                run.failures.append((run.case.name, str(error)))
                run.done += 1
        self._run = None
        self._tidy(run)
        if run.added:
            self._last = run
        self.on_change()
        if not run.added and run.failures:
            self.on_error("\n".join(run.reasons))
        else:
            self.on_finished(run)

    def _nodes(self, case: Case) -> dict[str, Any]:
        nodes = {name: self.scene.GetNodeByID(node_id) for name, node_id in case.nodes.items()}
        if None in nodes.values():
            raise InputError(f"'{case.name}' was deleted before it could be segmented.")
        return nodes

    def _put(self, run: Any, reference: Any, result: Any) -> slicer.vtkMRMLSegmentationNode:
        """Adds a result as a part of the run's one step for undo, Slicer's own too where it is switched on."""
        undoable = self.scene.GetUndoFlag()
        if undoable and not run.added:
            self.scene.SaveStateForUndo()  # once in a run
        before = set(self._ids())
        node = self._add(run, reference, result)
        added = [node_id for node_id in self._ids() if node_id not in before]
        run.added += added
        run.stamps[node.GetID()] = regions.stamp(node)
        if run.show_3d:
            self.surfaces.add(node)
        for node_id in added:
            self.scene.GetNodeByID(node_id).SetUndoEnabled(undoable)
        return node

    def _ids(self) -> list[str]:
        return [self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes())]

    def _added(self) -> list[slicer.vtkMRMLNode]:
        """What is left of the last run, what refers to others first."""
        found = [self.scene.GetNodeByID(node_id) for node_id in (self._last.added if self._last is not None else [])]
        return [node for node in found if node is not None and not node.IsA("vtkMRMLDisplayNode")]

    # What the worker says

    def _progressed(self, fraction: float, text: str) -> None:
        run = self._run
        if run is None:
            return
        count = len(run.cases)
        said = text if count == 1 else f"{run.case.name} ({run.done + 1} of {count}): {text}"
        self.on_progress((run.done + fraction) / count, said)

    def _done(self, result: Any) -> None:
        run = self._run
        if run is None:
            return
        self._tidy(run)
        case, node = run.case, None
        try:
            reference = next(iter(self._nodes(case).values()))
            # Somebody may have changed the image meanwhile: labels of other voxels would lie at the wrong place.
            if reference.GetImageData() is None or reference.GetImageData().GetDimensions() != result.labels.shape:
                raise InputError(f"'{case.name}' was changed while it was segmented. Segment it again.")
        except InputError as error:
            run.failures.append((case.name, str(error)))
        else:
            node = self._put(run, reference, result)
        run.done += 1
        if node is not None:
            self.on_result(node, result)
        self._next(run)

    def _case_failed(self, message: str) -> None:
        run = self._run
        if run is None:
            return
        self._tidy(run)
        run.failures.append((run.case.name, message))
        run.done += 1
        self._next(run)

    def _cancelled(self) -> None:
        run, self._run = self._run, None
        self._tidy(run)
        if run is not None and run.added:
            self._last = run
        self.on_change()

    def _scene_closing(self, _caller: Any, _event: str) -> None:
        run, self._run, self._last = self._run, None, None
        self._tidy(run)
        self.surfaces.forget()
        self.remote.cancel()
        self.on_change()
