"""Fusion of MRML nodes, without Qt: targets by a folder of atlases, or segmentations of the scene.

As `Logic`: the scene is touched only when a target is done, a run is one step for `undo`, and somebody calls the worker
client's `poll`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.worker.fusion import Fused
from HyperRegSlicerLib import Geometry, Regions
from HyperRegSlicerLib.Tuning import ignore
from SegmentationModuleLib import AtlasesInputs, AtlasesResults, Results
from SegmentationModuleLib.Logic import CANCELLING, IDLE, RUNNING


@dataclass
class FusionRun:
    """What the user asked for at once. targets: (name, node id). added: ids of the nodes that came into the scene."""

    targets: list[tuple[str, str]]
    start: Callable[[Any], None]
    show_3d: bool
    done: int = 0
    added: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    results: list[tuple[str, Fused]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        several = len(self.targets) > 1
        return [f"{name}: {text}" if several else text for name, fused in self.results for text in fused.warnings]


class AtlasesLogic:
    """Fuses, and puts the results into the scene.

    scene: the vtkMRMLScene of the nodes. fuser: a `hyperreg.worker.fusion.RemoteFuser` or a stand-in.

    Callbacks, on the thread that polls: on_change(); on_progress(fraction, text); on_result(node, fused);
    on_finished(run); on_error(message).
    """

    def __init__(self, scene: slicer.vtkMRMLScene, fuser: Any) -> None:
        self.scene, self.fuser = scene, fuser
        self.on_change: Callable[[], None] = ignore
        self.on_progress: Callable[[float, str], None] = ignore
        self.on_result: Callable[[slicer.vtkMRMLSegmentationNode, Fused], None] = ignore
        self.on_finished: Callable[[FusionRun], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        self._run: FusionRun | None = None
        self._last: FusionRun | None = None
        fuser.on_progress = self._progressed
        fuser.on_done = self._done
        fuser.on_error = self._failed
        fuser.on_cancelled = self._cancelled
        self._observers = [scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._scene_closing)]

    @property
    def state(self) -> str:
        """IDLE, RUNNING, or CANCELLING (until the worker has let go, within a second or so)."""
        if self.fuser.cancelling:
            return CANCELLING
        return IDLE if self._run is None else RUNNING

    @property
    def can_undo(self) -> bool:
        """Whether the last run left something in the scene that is still there."""
        return self.state == IDLE and bool(self._added())

    @property
    def was_edited(self) -> bool:
        """Whether a consensus of the last run has changed since: `undo` would lose that."""
        stamps = self._last.stamps if self._last is not None else {}
        nodes = {node_id: self.scene.GetNodeByID(node_id) for node_id in stamps}
        return any(node is not None and Regions.stamp(node) != stamps[node_id] for node_id, node in nodes.items())

    def fuse_atlases(
        self, targets: Sequence[slicer.vtkMRMLScalarVolumeNode], folder: str, *, show_3d: bool = False, **options: Any
    ) -> None:
        """Starts segmenting the targets one after another by the atlases of a folder.

        options: see `RemoteFuser.fuse_atlases`. A target that fails is told at the end; the others go on.
        Raises InputError for no target or no folder, or while a run is going on.
        """
        self._check_idle()
        if not targets:
            raise InputError("Check at least one volume to be segmented by the atlases.")
        if not folder.strip():
            raise InputError("Choose the folder of the atlases.")

        place = str(Path(folder.strip()).expanduser().absolute())  # the worker runs elsewhere

        def start(node: Any) -> None:
            if refused := Geometry.refusal(node, "target"):
                raise InputError(refused)
            self.fuser.fuse_atlases(Geometry.volume_from_node(node, node.GetParentTransformNode()), place, **options)

        self._begin(FusionRun([(node.GetName(), node.GetID()) for node in targets], start, show_3d))

    def fuse_segmentations(
        self, nodes: Sequence[slicer.vtkMRMLSegmentationNode], volume: slicer.vtkMRMLScalarVolumeNode | None, *,
        method: str = "vote", show_3d: bool = False,
    ) -> None:  # fmt: skip
        """Starts fusing segmentations of one image, by the names of their segments, on the voxels of `volume`.

        volume: None for the one that the first segmentation was drawn on. method: "vote" or "staple".
        Raises InputError for segmentations that cannot be used, or while a run is going on.
        """
        self._check_idle()
        volume = volume or next((found for node in nodes if (found := Results.reference_of(node)) is not None), None)
        if volume is None or volume.GetImageData() is None:
            raise InputError("Choose the volume that the segmentations were drawn on (Volume, at the top).")
        grid = Geometry.volume_from_node(volume, volume.GetParentTransformNode()).grid
        maps, structures = AtlasesInputs.reader_maps(nodes, grid)

        def start(_node: Any) -> None:
            self.fuser.fuse_maps(maps, grid, method=method, structures=structures)

        self._begin(FusionRun([(volume.GetName(), volume.GetID())], start, show_3d))

    def cancel(self) -> None:
        """Gives up what is going on, within a second or so; targets that are done stay in the scene."""
        if self.state == RUNNING:
            self.fuser.cancel()
            self.on_change()

    def undo(self) -> None:
        """Takes everything out of the scene that the last run has put there. Harmless if nothing is left of it."""
        for node in self._added():
            Results.remove(self.scene, node)
        self._last = None
        self.on_change()

    def close(self) -> None:
        """Stops listening to scene and worker; the nodes stay."""
        self._run = None
        self.fuser.close()
        for tag in self._observers:
            self.scene.RemoveObserver(tag)
        self._observers = []

    def _check_idle(self) -> None:
        if self.state != IDLE:
            raise InputError("A fusion is still running. Wait for it, or cancel it first.")

    def _begin(self, run: FusionRun) -> None:
        if len(run.targets) == 1:  # what is wrong with a single target is told at once
            run.start(self.scene.GetNodeByID(run.targets[0][1]))
        self._run = run
        if len(run.targets) > 1:
            self._next(run)
        self.on_change()

    def _next(self, run: FusionRun) -> None:
        while run.done < len(run.targets):
            name, node_id = run.targets[run.done]
            node = self.scene.GetNodeByID(node_id)
            try:
                if node is None:
                    raise InputError(f"'{name}' was deleted before it could be segmented.")
                run.start(node)
                return
            except HyperRegError as error:
                run.failures.append((name, str(error)))
                run.done += 1
        self._run = None
        if run.added:
            self._last = run
        self.on_change()
        if run.results:
            self.on_finished(run)
        elif run.failures:
            several = len(run.targets) > 1
            self.on_error("\n".join(f"{name}: {text}" if several else text for name, text in run.failures))

    def _progressed(self, fraction: float, text: str) -> None:
        run = self._run
        if run is not None:
            count = len(run.targets)
            said = text if count == 1 else f"{run.targets[run.done][0]} ({run.done + 1} of {count}): {text}"
            self.on_progress((run.done + fraction) / count, said)

    def _done(self, fused: Fused) -> None:
        run = self._run
        if run is None:
            return
        name, node_id = run.targets[run.done]
        reference = self.scene.GetNodeByID(node_id)
        run.done += 1
        image = None if reference is None else reference.GetImageData()
        if image is None or image.GetDimensions() != fused.labels.shape:
            run.failures.append((name, f"'{name}' was changed or deleted meanwhile. Fuse again."))
        else:
            node = self._add(run, reference, fused)
            run.results.append((name, fused))
            self.on_result(node, fused)
        self._next(run)

    def _add(self, run: FusionRun, reference: Any, fused: Fused) -> slicer.vtkMRMLSegmentationNode:
        undoable = self.scene.GetUndoFlag()
        if undoable and not run.added:
            self.scene.SaveStateForUndo()  # once in a run
        before = self._ids()
        node = AtlasesResults.add_consensus(self.scene, reference, fused, show_3d=run.show_3d)
        added = [node_id for node_id in self._ids() if node_id not in before]
        run.added += added
        run.stamps[node.GetID()] = Regions.stamp(node)
        for node_id in added:
            self.scene.GetNodeByID(node_id).SetUndoEnabled(undoable)
        return node

    def _ids(self) -> list[str]:
        return [self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes())]

    def _failed(self, message: str) -> None:
        run = self._run
        if run is not None:
            run.failures.append((run.targets[run.done][0], message))
            run.done += 1
            self._next(run)

    def _cancelled(self) -> None:
        run, self._run = self._run, None
        if run is not None and run.added:
            self._last = run
        self.on_change()

    def _scene_closing(self, _caller: Any, _event: str) -> None:
        self._run = self._last = None
        self.fuser.cancel()
        self.on_change()

    def _added(self) -> list[slicer.vtkMRMLNode]:
        """What is left of the last run, what refers to others first."""
        found = [self.scene.GetNodeByID(node_id) for node_id in (self._last.added if self._last is not None else [])]
        return [node for node in found if node is not None and not node.IsA("vtkMRMLDisplayNode")]
