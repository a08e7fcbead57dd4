"""Segmentation of MRML nodes, without Qt: the Slicer module and the browser app both use it.

The life of a run: idle -> running (the worker segments one case after another) -> idle. The scene is touched only when
a case is done, and then at once: cancelling or failing before that leaves it as it was. A run, however many cases it
has, is one step for `undo`.

Somebody has to call the worker client's `poll` regularly (in Slicer a QTimer does): all callbacks arrive from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.worker.segmentation import Segmented
from HyperRegSlicerLib import Regions
from HyperRegSlicerLib.Tuning import ignore
from SegmentationModuleLib import Inputs, Results

IDLE, RUNNING, CANCELLING = "idle", "running", "cancelling"


@dataclass(frozen=True)
class Case:
    """The images of one patient: node ids by the names of the model's inputs. name: of the first one."""

    name: str
    nodes: Mapping[str, str]


@dataclass
class Run:
    """What the user asked for at once, and what has become of it.

    added: ids of the nodes in the scene, in the order in which they came; stamps: of the segmentations among them.
    failures: (name of the case, why).
    """

    card: SegmentationCard
    cases: list[Case]
    options: dict[str, Any]
    show_3d: bool
    done: int = 0
    added: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rows: list[Results.Row] = field(default_factory=list)
    table_id: str | None = None
    failures: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


class SegmentationLogic:
    """Segments volume nodes and puts the results into the scene.

    scene: the vtkMRMLScene of the nodes. segmenter: a `hyperreg.worker.segmentation.RemoteSegmenter` or a stand-in.

    Callbacks, all optional, called on the thread that polls:
    on_change(): state, nodes or what can be done changed. on_progress(fraction, text): while running.
    on_result(node, segmented): a segmentation is in the scene. on_finished(run): all cases are done, or failed.
    on_error(message): in words for the user; never running any more then.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, segmenter: Any) -> None:
        self.scene = scene
        self.segmenter = segmenter
        self.on_change: Callable[[], None] = ignore
        self.on_progress: Callable[[float, str], None] = ignore
        self.on_result: Callable[[slicer.vtkMRMLSegmentationNode, Segmented], None] = ignore
        self.on_finished: Callable[[Run], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        self._run: Run | None = None
        self._last: Run | None = None
        segmenter.on_progress = self._progressed
        segmenter.on_done = self._done
        segmenter.on_error = self._case_failed
        segmenter.on_cancelled = self._cancelled
        self._observers = [scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._scene_closing)]

    # What can be asked

    @property
    def state(self) -> str:
        """IDLE, RUNNING, or CANCELLING (until the worker has let go, within a second or so)."""
        if self.segmenter.cancelling:
            return CANCELLING
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
        return any(node is not None and Regions.stamp(node) != stamps[node_id] for node_id, node in nodes.items())

    # What can be done

    def segment(
        self, images: Inputs.Nodes, model: str, *, device: str = "auto", flips: bool = False, align: bool = False,
        ensemble: bool = False, hyperparameters: Mapping[str, float] | None = None, show_3d: bool = True,
    ) -> None:  # fmt: skip
        """Starts segmenting one case and returns at once.

        images: volume nodes by the names of the model's inputs; the result lies on the first one's voxels.
        device, flips, align, ensemble, hyperparameters: see `RemoteSegmenter.segment`. show_3d: make surfaces.
        Raises InputError for nodes that cannot be segmented or while a run is going on, WeightsError without the model.
        """
        self._check_idle()
        card = find_model(model)
        volumes = Inputs.read(images, card)
        options = {"device": device, "flips": flips, "ensemble": ensemble, "hyperparameters": hyperparameters or {}}
        options["align"] = align and len(card.inputs) > 1
        self._start(Run(card, [_case(images, card)], options, show_3d), volumes)

    def segment_all(
        self, nodes: Sequence[slicer.vtkMRMLScalarVolumeNode], model: str, *, device: str = "auto", flips: bool = False,
        ensemble: bool = False, hyperparameters: Mapping[str, float] | None = None, show_3d: bool = False,
    ) -> None:  # fmt: skip
        """Starts segmenting several volumes one after another. One that fails is told at the end; the others go on.

        Raises InputError for no nodes, a model of several inputs, or while a run is going on; WeightsError.
        """
        self._check_idle()
        card = find_model(model)
        if len(card.inputs) != 1:
            raise InputError(
                f"The model '{card.title}' needs {len(card.inputs)} images of every patient. Segment one case at a "
                "time, or choose a model of one image."
            )
        if not nodes:
            raise InputError("Check at least one volume.")
        cases = [_case({card.inputs[0].name: node}, card) for node in nodes]
        options = {"device": device, "flips": flips, "ensemble": ensemble, "hyperparameters": hyperparameters or {}}
        self._start(Run(card, cases, options, show_3d))

    def cancel(self) -> None:
        """Gives up what is going on, within a second or so; cases of the run that are done stay in the scene."""
        if self.state == RUNNING:
            self.segmenter.cancel()
            self.on_change()

    def undo(self) -> None:
        """Takes everything out of the scene that the last run has put there. Harmless if nothing is left of it."""
        for node in self._added():
            Results.remove(self.scene, node)
        self._last = None
        self.on_change()

    def close(self) -> None:
        """Stops listening to scene and worker; the nodes stay. The logic is of no use afterwards."""
        self._run = None
        self.segmenter.close()
        for tag in self._observers:
            self.scene.RemoveObserver(tag)
        self._observers = []

    # The run

    def _check_idle(self) -> None:
        if self.state != IDLE:
            raise InputError("A segmentation is still running. Wait for it, or cancel it first.")

    def _start(self, run: Run, volumes: Mapping[str, Volume] | None = None) -> None:
        if volumes is not None:
            self.segmenter.segment(volumes, run.card.name, **run.options)
        self._run = run
        if volumes is None:
            self._next(run)
        self.on_change()

    def _next(self, run: Run) -> None:
        """Sends the next case that can be sent; ends the run if there is none."""
        while run.done < len(run.cases):
            try:
                volumes = Inputs.read(self._nodes(run.cases[run.done]), run.card)
                self.segmenter.segment(volumes, run.card.name, **run.options)
                return
            except HyperRegError as error:
                run.failures.append((run.cases[run.done].name, str(error)))
                run.done += 1
        self._end(run)

    def _end(self, run: Run) -> None:
        self._run = None
        if run.added:
            self._last = run
        self.on_change()
        if not run.added and run.failures:
            self.on_error("\n".join(failures(run)))
        else:
            self.on_finished(run)

    def _nodes(self, case: Case) -> dict[str, Any]:
        nodes = {name: self.scene.GetNodeByID(node_id) for name, node_id in case.nodes.items()}
        if None in nodes.values():
            raise InputError(f"'{case.name}' was deleted before it could be segmented.")
        return nodes

    # What the worker says

    def _progressed(self, fraction: float, text: str) -> None:
        run = self._run
        if run is None:
            return
        count = len(run.cases)
        said = text if count == 1 else f"{run.cases[run.done].name} ({run.done + 1} of {count}): {text}"
        self.on_progress((run.done + fraction) / count, said)

    def _done(self, segmented: Segmented) -> None:
        run = self._run
        if run is None:
            return
        case = run.cases[run.done]
        run.seconds += sum(segmented.seconds.values())
        node = None
        try:
            first = self._nodes(case)[run.card.inputs[0].name]
            # Somebody may have changed the image meanwhile: labels of other voxels would lie at the wrong place.
            if first.GetImageData() is None or first.GetImageData().GetDimensions() != segmented.labels.shape:
                raise InputError(f"'{case.name}' was changed while it was segmented. Segment it again.")
        except InputError as error:
            run.failures.append((case.name, str(error)))
        else:
            node = self._add(run, first, segmented)
        run.warnings += [text for text in segmented.warnings if text not in run.warnings]
        run.done += 1
        if node is not None:
            self.on_result(node, segmented)
        self._next(run)

    def _add(self, run: Run, reference: Any, segmented: Segmented) -> slicer.vtkMRMLSegmentationNode:
        undoable = self.scene.GetUndoFlag()
        if undoable and not run.added:
            self.scene.SaveStateForUndo()  # once in a run
        before = {self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes())}
        node = Results.add_segmentation(self.scene, reference, segmented, show_3d=run.show_3d)
        table = self.scene.GetNodeByID(run.table_id) if run.table_id else None
        if table is None:
            name = reference.GetName() if len(run.cases) == 1 else run.card.title
            table = Results.add_table(self.scene, name)
            run.table_id = table.GetID()
        image = reference.GetName()
        if any(row.image == image for row in run.rows):
            image = f"{image} ({reference.GetID()})"
        node.SetAttribute(Results.IMAGE_ATTRIBUTE, image)
        run.rows += [Results.Row(image, volume) for volume in segmented.volumes]
        Results.fill_table(table, run.rows)
        node.SetNodeReferenceID(Results.TABLE_ROLE, table.GetID())
        nodes = [self.scene.GetNthNode(n) for n in range(self.scene.GetNumberOfNodes())]
        added = [found for found in nodes if found.GetID() not in before]
        run.added += [found.GetID() for found in added]
        run.stamps[node.GetID()] = Regions.stamp(node)
        for found in added:
            found.SetUndoEnabled(undoable)
        return node

    def _case_failed(self, message: str) -> None:
        run = self._run
        if run is None:
            return
        run.failures.append((run.cases[run.done].name, message))
        run.done += 1
        self._next(run)

    def _cancelled(self) -> None:
        run, self._run = self._run, None
        if run is not None and run.added:
            self._last = run
        self.on_change()

    def _scene_closing(self, _caller: Any, _event: str) -> None:
        self._run = self._last = None
        self.segmenter.cancel()
        self.on_change()

    def _added(self) -> list[slicer.vtkMRMLNode]:
        """What is left of the last run, what refers to others first."""
        found = [self.scene.GetNodeByID(node_id) for node_id in (self._last.added if self._last is not None else [])]
        return [node for node in found if node is not None and not node.IsA("vtkMRMLDisplayNode")]


def _case(images: Inputs.Nodes, card: SegmentationCard) -> Case:
    nodes = {entry.name: images[entry.name] for entry in card.inputs}
    first = nodes[card.inputs[0].name]
    return Case(first.GetName(), {name: node.GetID() for name, node in nodes.items()})


def failures(run: Run) -> list[str]:
    """Why cases failed; with their names where there are several, which the engine's own messages may not say."""
    if len(run.cases) == 1:
        return [message for _name, message in run.failures]
    return [f"{name}: {message}" for name, message in run.failures]
