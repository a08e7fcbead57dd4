"""Fusion of MRML nodes, without Qt: targets by a folder of atlases, or segmentations of the scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from hyperreg.errors import InputError
from hyperreg.worker.fusion import Fused
from HyperRegSlicerLib import Geometry
from SegmentationModuleLib import AtlasesInputs, AtlasesResults, Results
from SegmentationModuleLib.Runs import Case, Run, RunLogic


@dataclass
class FusionRun(Run):
    """Targets. start(node): sends one to the worker. results: (name of the target, what came of it)."""

    start: Callable[[Any], None] = field(kw_only=True)
    results: list[tuple[str, Fused]] = field(default_factory=list)


class AtlasesLogic(RunLogic):
    """Fuses, and puts the results into the scene. remote: a `hyperreg.worker.fusion.RemoteFuser` or a stand-in."""

    BUSY = "A fusion is still running. Wait for it, or cancel it first."

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
            self.remote.fuse_atlases(Geometry.volume_from_node(node, node.GetParentTransformNode()), place, **options)

        self._start(FusionRun([_case(node) for node in targets], show_3d, start=start))

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
            self.remote.fuse_maps(maps, grid, method=method, structures=structures)

        self._start(FusionRun([_case(volume)], show_3d, start=start))

    def _send(self, run: FusionRun, nodes: dict[str, Any]) -> None:
        run.start(nodes["target"])

    def _add(self, run: FusionRun, reference: Any, result: Fused) -> slicer.vtkMRMLSegmentationNode:
        name = run.case.name
        run.results.append((name, result))
        run.warnings += [f"{name}: {text}" if len(run.cases) > 1 else text for text in result.warnings]
        return AtlasesResults.add_consensus(self.scene, reference, result, show_3d=run.show_3d)


def _case(node: slicer.vtkMRMLScalarVolumeNode) -> Case:
    return Case(node.GetName(), {"target": node.GetID()})
