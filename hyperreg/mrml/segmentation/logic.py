"""Segmentation of MRML nodes, without Qt: the Slicer module and the browser app both use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import slicer

from hyperreg.errors import InputError
from hyperreg.mrml import geometry, linked, nodes, regions
from hyperreg.mrml.segmentation import inputs, results
from hyperreg.mrml.segmentation.borders import Borders
from hyperreg.mrml.segmentation.runs import Case, Run, RunLogic
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.worker.segmentation import Segmented

# A look at more volumes than these takes too long, and one patient seldom has more.
MOST_VOLUMES = 8


@dataclass
class SegmentationRun(Run):
    """Cases with one model. options: see `RemoteSegmenter.segment`. rows: of the table, which all cases share."""

    card: SegmentationCard = field(kw_only=True)
    options: dict[str, Any] = field(kw_only=True)
    rows: list[results.Row] = field(default_factory=list)
    table_id: str | None = None
    seconds: float = 0.0


class SegmentationLogic(RunLogic):
    """Segments volume nodes and puts the results into the scene. remote: a `RemoteSegmenter` or a stand-in.

    borders: moves the borders of the last result.
    """

    BUSY = "A segmentation is still running. Wait for it, or cancel it first."

    def __init__(self, scene: slicer.vtkMRMLScene, remote: Any) -> None:
        super().__init__(scene, remote)
        self.borders = Borders(scene, remote, self.surfaces)

    def segment(
        self, images: inputs.Nodes, model: str, *, device: str = "auto", flips: bool = False, align: bool = False,
        ensemble: bool = False, hyperparameters: Mapping[str, float] | None = None, show_3d: bool = True,
    ) -> None:  # fmt: skip
        """Starts segmenting one case and returns at once.

        images: volume nodes by the names of the model's inputs; the result lies on the first one's voxels.
        device, flips, align, ensemble, hyperparameters: see `RemoteSegmenter.segment`. show_3d: make surfaces.
        Raises InputError for nodes that cannot be segmented or while a run is going on, WeightsError without the model.
        """
        self._check_idle()
        card = find_model(model)
        inputs.read(images, card)
        options = {"device": device, "flips": flips, "ensemble": ensemble, "hyperparameters": hyperparameters or {}}
        options["align"] = align and len(card.inputs) > 1
        self._start(SegmentationRun([_case(images, card)], show_3d, card=card, options=options))

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
        self._start(SegmentationRun(cases, show_3d, card=card, options=options))

    def recognise(
        self,
        nodes: Sequence[slicer.vtkMRMLScalarVolumeNode],
        model: str,
        on_done: Callable[[dict[str, Any], str], None],
        on_error: Callable[[str], None],
    ) -> None:
        """Asks which volume is which input of a model, by names and by a look at the images; returns at once.

        nodes: of one patient; uncertainty maps are passed over. on_done(images, guess): volume nodes by the names of
        the inputs, {} where it cannot be told; what was guessed, for the user to check, "" where names told it.
        Raises InputError for too few or too many volumes, WeightsError without the model.
        """
        self._check_idle()
        card = find_model(model)
        usable = [n for n in nodes if not geometry.refusal(n, "input") and n.GetID() not in self._map_ids()]
        if len(usable) < len(card.inputs):
            raise InputError(
                f"The model '{card.title}' needs {len(card.inputs)} images of one patient; only {len(usable)} are open."
            )
        if len(usable) > MOST_VOLUMES:
            raise InputError(
                f"{len(usable)} volumes are open; which of at most {MOST_VOLUMES} is which can be told. Choose each "
                "image yourself, or close those of other patients."
            )
        ids = [node.GetID() for node in usable]

        def told(inputs: dict[str, int], guess: str) -> None:
            images = {name: self.scene.GetNodeByID(ids[index]) for name, index in inputs.items()}
            on_done({} if None in images.values() else images, guess)

        volumes = [geometry.volume_from_node(node, linked.original_parent(node)) for node in usable]
        self.remote.recognise(volumes, card.name, told, on_error)

    def _scene_closing(self, *event: Any) -> None:
        super()._scene_closing(*event)
        self.borders.forget()

    def _map_ids(self) -> set[str]:
        """Of uncertainty and disagreement maps, which are volumes too."""
        segmentations = nodes.of_class(self.scene, regions.SEGMENTATION)
        return {found.GetID() for node in segmentations if (found := results.uncertainty_of(node)) is not None}

    def _send(self, run: SegmentationRun, images: dict[str, Any]) -> None:
        self.remote.segment(inputs.read(images, run.card), run.card.name, **run.options)

    def _add(self, run: SegmentationRun, reference: Any, result: Segmented) -> slicer.vtkMRMLSegmentationNode:
        node = results.add_segmentation(self.scene, reference, result)
        table = self.scene.GetNodeByID(run.table_id) if run.table_id else None
        if table is None:
            name = reference.GetName() if len(run.cases) == 1 else run.card.title
            table = results.add_table(self.scene, name)
            run.table_id = table.GetID()
        image = reference.GetName()
        if any(row.image == image for row in run.rows):
            image = f"{image} ({reference.GetID()})"
        node.SetAttribute(results.IMAGE_ATTRIBUTE, image)
        run.rows += [results.Row(image, volume) for volume in result.volumes]
        results.fill_table(table, run.rows)
        node.SetNodeReferenceID(results.TABLE_ROLE, table.GetID())
        self.borders.arrived(node, result)
        run.warnings += [text for text in result.warnings if text not in run.warnings]
        run.seconds += sum(result.seconds.values())
        return node


def _case(images: inputs.Nodes, card: SegmentationCard) -> Case:
    chosen: dict[str, Any] = {entry.name: images[entry.name] for entry in card.inputs}
    first = chosen[card.inputs[0].name]
    return Case(first.GetName(), {name: node.GetID() for name, node in chosen.items()})
