"""Fusion of MRML nodes, without Qt: targets by atlases, from disk or from the scene, or segmentations of the scene."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import FileError, InputError
from hyperreg.fusion.records import AtlasFiles, AtlasProgress
from hyperreg.imaging.structures import Structure
from hyperreg.mrml import geometry, nodes
from hyperreg.mrml.fusion import inputs, results, scene_atlases
from hyperreg.mrml.lifecycle import ignore
from hyperreg.mrml.segmentation.results import keep_terminology, reference_of
from hyperreg.mrml.segmentation.runs import Case, Run, RunLogic
from hyperreg.worker.fusion import EarlyAnswer, FoundAtlas, Fused


@dataclass
class FusionRun(Run):
    """Targets. start(node): sends one to the worker. results: (name of the target, what came of it).

    files: the atlases of the scene, as long as the worker reads them. skipped: what of the scene is no atlas, and why.
    terminology: of the structures, where they come from segmentations of the scene, see `inputs.Numbering`.
    atlases: of the current target, how far each is. early: what is known of it while data parameters are learned.
    """

    start: Callable[[Any], None] = field(kw_only=True)
    results: list[tuple[str, Fused]] = field(default_factory=list)
    files: Any = None
    skipped: dict[str, str] = field(default_factory=dict)
    terminology: dict[str, str] = field(default_factory=dict)
    atlases: dict[str, AtlasProgress] = field(default_factory=dict)
    early: EarlyAnswer | None = None


class AtlasesLogic(RunLogic):
    """Fuses, and puts the results into the scene. remote: a `hyperreg.worker.fusion.RemoteFuser` or a stand-in.

    Further callbacks: on_atlases(): `atlases` has changed. on_early(node): an early consensus is in the scene, until a
    better one takes its place; `early` describes it.
    """

    BUSY = "A fusion is still running. Wait for it, or cancel it first."

    def __init__(self, scene: slicer.vtkMRMLScene, remote: Any) -> None:
        self.on_atlases: Callable[[], None] = ignore
        self.on_early: Callable[[slicer.vtkMRMLSegmentationNode], None] = ignore
        self._early_id: str | None = None
        super().__init__(scene, remote)
        remote.on_atlas = self._atlas_reported
        remote.on_answer = self._answered

    # What can be asked

    @property
    def atlases(self) -> list[AtlasProgress]:
        """How far every atlas of the current target is; [] while nothing runs."""
        return [] if self._run is None else list(self._run.atlases.values())

    @property
    def early(self) -> EarlyAnswer | None:
        """What is known of the current target while data parameters are learned."""
        return None if self._run is None else self._run.early

    # What can be done

    def fuse_atlases(
        self,
        targets: Sequence[slicer.vtkMRMLScalarVolumeNode],
        folder: str,
        *,
        in_scene: bool = False,
        show_3d: bool = False,
        **options: Any,
    ) -> None:
        """Starts segmenting the targets one after another by atlases.

        folder: on disk, or with `in_scene` the path of one in the subject hierarchy (see `scene_atlases.folders`).
        options: see `RemoteFuser.fuse_atlases`. A target that fails is told at the end; the others go on.
        Raises InputError for no target or no folder, or while a run is going on.
        """
        self._check_idle()
        if not targets:
            raise InputError("Choose the volume to be segmented by the atlases.")
        run = FusionRun([_case(node) for node in targets], show_3d, start=ignore)
        atlases: str | list[AtlasFiles]
        if in_scene:
            atlases, options["structures"] = self._written(run, folder)
        else:
            atlases = _on_disk(folder)

        def start(node: Any) -> None:
            if refused := geometry.refusal(node, "target"):
                raise InputError(refused)
            run.atlases, run.early = {}, None
            self.remote.fuse_atlases(geometry.volume_from_node(node, node.GetParentTransformNode()), atlases, **options)

        run.start = start
        self._start(run)

    def fuse_segmentations(
        self, drawn: Sequence[slicer.vtkMRMLSegmentationNode], volume: slicer.vtkMRMLScalarVolumeNode | None, *,
        method: str = "vote", show_3d: bool = False,
    ) -> None:  # fmt: skip
        """Starts fusing segmentations of one image, by the names of their segments, on the voxels of `volume`.

        volume: None for the one that the first segmentation was drawn on. method: "vote" or "staple".
        Raises InputError for segmentations that cannot be used, or while a run is going on.
        """
        self._check_idle()
        volume = volume or next((found for node in drawn if (found := reference_of(node)) is not None), None)
        if volume is None or volume.GetImageData() is None:
            raise InputError("Choose the volume that the segmentations were drawn on (Volume, at the top).")
        grid = geometry.volume_from_node(volume, volume.GetParentTransformNode()).grid
        maps, numbering = inputs.reader_maps(drawn, grid)

        def start(_node: Any) -> None:
            self.remote.fuse_maps(maps, grid, method=method, structures=numbering.structures)

        self._start(FusionRun([_case(volume)], show_3d, start=start, terminology=numbering.terminology))

    def find_atlases(
        self, folder: str, on_found: Callable[[list[FoundAtlas]], None], on_error: Callable[[str], None], *,
        in_scene: bool = False,
    ) -> None:  # fmt: skip
        """Looks through a folder: which atlases can be used, which not and why. folder, in_scene: as `fuse_atlases`.

        Raises InputError for no folder, or one of the scene without atlases.
        """
        if not in_scene:
            self.remote.find_atlases(_on_disk(folder), on_found, on_error)
            return
        look = FusionRun([], False, start=ignore)
        pairs, _structures = self._written(look, folder)

        def found(atlases: list[FoundAtlas]) -> None:
            look.files.cleanup()
            unusable = [FoundAtlas(name, "", "", reason, None) for name, reason in look.skipped.items()]
            on_found([*atlases, *unusable])

        def failed(message: str) -> None:
            look.files.cleanup()
            on_error(message)

        self.remote.find_atlases(pairs, found, failed)

    def keep_early(self) -> None:
        """Takes the early answer for the result: the run ends with it, or goes on with the next target."""
        if self.early is not None:
            self.remote.finish()

    # The run

    def _send(self, run: FusionRun, images: dict[str, Any]) -> None:
        run.start(images["target"])

    def _add(self, run: FusionRun, reference: Any, result: Fused) -> slicer.vtkMRMLSegmentationNode:
        name = run.case.name
        run.results.append((name, result))
        left_out = [f"{atlas}: {reason}" for atlas, reason in run.skipped.items()] if len(run.results) == 1 else []
        run.warnings += left_out + [f"{name}: {text}" if len(run.cases) > 1 else text for text in result.warnings]
        node = results.add_consensus(self.scene, reference, result)
        keep_terminology(node, run.terminology)
        return node

    def _tidy(self, run: FusionRun | None) -> None:
        node = self.scene.GetNodeByID(self._early_id) if self._early_id else None
        self._early_id = None
        if node is not None:
            nodes.remove(self.scene, node)
        if run is not None and run.files is not None and (self._run is not run or run.done >= len(run.cases)):
            run.files.cleanup()

    def _written(self, run: FusionRun, folder: str) -> tuple[list[AtlasFiles], list[Structure]]:
        """The files of a folder of the scene, and what their labels mean."""
        if not folder:
            raise InputError("Choose the folder of the scene that holds the atlases.")
        pairs = scene_atlases.find_pairs(self.scene, folder)
        try:
            run.files = tempfile.TemporaryDirectory(prefix="hyperreg-", ignore_cleanup_errors=True)
        except OSError as error:
            raise FileError(f"The atlases cannot be written for the worker: {error.strerror or error}.") from error
        try:
            files, numbering, run.skipped = scene_atlases.write_pairs(pairs, Path(run.files.name))
        except BaseException:
            run.files.cleanup()
            raise
        run.terminology = numbering.terminology
        return files, numbering.structures

    # What the worker says

    def _atlas_reported(self, atlas: AtlasProgress) -> None:
        if self._run is not None:
            self._run.atlases[atlas.name] = atlas
            self.on_atlases()

    def _answered(self, answer: EarlyAnswer) -> None:
        run = self._run
        if run is None:
            return
        run.early = answer
        reference = self.scene.GetNodeByID(run.case.nodes["target"])
        image = None if reference is None else reference.GetImageData()
        if image is None or image.GetDimensions() != answer.labels.shape:
            return
        self._tidy(None)
        node = results.add_early(self.scene, reference, answer)
        self._early_id = node.GetID()
        self.on_early(node)


def _on_disk(folder: str) -> str:
    if not folder.strip():
        raise InputError("Choose the folder of the atlases.")
    return str(Path(folder.strip()).expanduser().absolute())  # the worker runs elsewhere


def _case(node: slicer.vtkMRMLScalarVolumeNode) -> Case:
    return Case(node.GetName(), {"target": node.GetID()})
