"""One model, ready to segment: volumes in, a label map with its uncertainty and volumes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hyperreg.errors import Cancelled, InputError, OutOfMemory
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.machine import choose_device, main_memory
from hyperreg.reporting import Cancel, Progress, Stopwatch
from hyperreg.segmentation import border, look, plausibility
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.segmentation.frame import Frame, make_frame
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.segmentation.islands import remove_islands
from hyperreg.segmentation.model import load_ensemble, load_model
from hyperreg.segmentation.prediction import Prediction
from hyperreg.segmentation.structures import Array, StructureVolume, decide

# Where the progress bar is when the network begins, and when it has ended.
SHOWN, PREDICTED = 0.05, 0.85
# Of all that was found: more removed as islands than this is worth a warning.
MUCH = 0.1
# Bytes per voxel of the part that is looked at: best, entropy, probability, one channel twice, labels, masks.
PART_BYTES = 26
# Bytes per voxel of the whole image: label map and uncertainty, once more while axes are turned back.
IMAGE_BYTES = 12


@dataclass(frozen=True)
class Segmentation:
    """labels: on the grid of the first image. uncertainty: entropy 0..1 there. volumes: in the card's order.

    frame: what the network saw. steps: in words, how it was computed. seconds: per stage.
    removed_ml: what the network had labelled and the card's postprocessing turned into background.
    verdict: whether this can be what the model is for; its sentences come first among the warnings.
    kept: what borders are moved with, if that was asked for and there is memory for it.
    """

    card: SegmentationCard
    labels: Volume
    uncertainty: Volume
    volumes: list[StructureVolume]
    frame: Frame
    device: str
    steps: list[str]
    warnings: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    removed_ml: float = 0.0
    verdict: plausibility.Verdict = field(default_factory=plausibility.Verdict)
    kept: border.Kept | None = None


class Segmenter:
    """A model on a device: "auto", "cpu" or "cuda".

    model: a card or its name. hyperparameters: values by name, for models that declare any (their defaults).
    ensemble: average over all of the model's weights, not the first ones alone.
    Raises WeightsError, or InputError for a device, hyperparameter or ensemble that is not there.
    """

    def __init__(
        self,
        model: SegmentationCard | str,
        device: str = "auto",
        hyperparameters: Mapping[str, float] | None = None,
        ensemble: bool = False,
    ) -> None:
        self.card = find_model(model) if isinstance(model, str) else model
        self.device = choose_device(device)
        if ensemble:
            self._network, *self._others = load_ensemble(self.card, self.device, hyperparameters)
        else:
            self._network, self._others = load_model(self.card, self.device, hyperparameters), []

    def segment(
        self,
        volumes: Mapping[str, Volume],
        *,
        first: str | None = None,
        transforms: Mapping[str, Transform] | None = None,
        flips: bool = False,
        islands: bool = False,
        keep: bool = False,
        sink: Callable[[Structure, Volume], None] | None = None,
        progress: Progress | None = None,
        cancelled: Cancel | None = None,
    ) -> Segmentation:
        """Segment one case.

        volumes: the images by input name. first: the one on whose grid the result is wanted (the card's first one).
        transforms: from its RAS points to those of inputs that are not aligned with it, by name.
        flips: average over the flips that the model was trained with. islands: keep those that the card says to remove.
        keep: hold what borders are moved with (`border.Kept`).
        sink: is given every structure's probabilities on the image's grid. Raises InputError, OutOfMemory or Cancelled.
        """
        report = _reporter(progress, cancelled)
        watch = Stopwatch()
        warnings: list[str] = []
        report(0.0, "Checking the images")
        if flips and not self.card.flips:
            raise InputError(
                f"The model '{self.card.name}' was not trained with flipped images, so averaging over flips would make "
                "it worse. Leave it out."
            )
        with watch.stage("prepare"):
            checked = check_inputs(volumes, self.card, warnings)
            check_memory(make_frame(checked[first or self.card.inputs[0].name], self.card), self.card)
            if not transforms:
                warnings += look.warnings(checked, self.card.inputs)
            images, frame = show(checked, self.card, first, warnings, transforms)
        run = Prediction(
            self._network,
            self.card.window,
            self.card.exclusive,
            self.device,
            self.card.flips if flips else (),
            lambda fraction, text: report(SHOWN + (PREDICTED - SHOWN) * fraction, text),
            cancelled,
            self._others,
            temperature=self.card.temperature,
        )
        with watch.stage("network"):
            probabilities = run(images).numpy()
        del images
        warnings += run.warnings()
        removed = 0
        if self.card.postprocessing is not None and not islands:
            with watch.stage("islands"):
                spacing = frame.model.spacing
                removed = remove_islands(
                    probabilities, self.card, spacing, lambda _share: report(PREDICTED, "Removing islands")
                )
        report(PREDICTED, "Bringing the result to the image")
        with watch.stage("result"):
            decided = decide(
                probabilities,
                self.card,
                float(np.prod(frame.part.spacing)) / 1000,
                frame.to_part,
                None if sink is None else lambda structure, values: sink(structure, _whole(frame, structure, values)),
                lambda share: report(PREDICTED + (1 - PREDICTED) * share, "Bringing the result to the image"),
            )
            labels = frame.to_image(decided.labels, "segmentation")
            uncertainty = frame.to_image(decided.uncertainty, "uncertainty")
        kept = border.keep(probabilities, self.card, frame, decided.labels) if keep else None
        removed_ml = removed * float(np.prod(frame.model.spacing)) / 1000
        share = removed_ml / max(removed_ml + sum(volume.volume_ml for volume in decided.volumes), 1e-9)
        if share > MUCH:
            warnings.append(
                f"{removed_ml:.0f} ml of islands were removed ({100 * share:.0f} % of all that the model found), "
                "such as scalp that was taken for brain. Look whether anything is missing."
            )
        sure = {volume.structure.label: volume.mean_probability for volume in decided.volumes}
        verdict = plausibility.judge(plausibility.measure(labels), self.card, sure)
        steps = [str(step) for step in run.steps]
        used = run.steps[-1].device
        return Segmentation(
            self.card,
            labels,
            uncertainty,
            decided.volumes,
            frame,
            used,
            steps,
            verdict.warnings(self.card) + warnings,
            dict(watch.seconds),
            removed_ml,
            verdict,
            kept,
        )


def check_memory(frame: Frame, card: SegmentationCard) -> None:
    """Raise OutOfMemory, with figures, if the arrays of a whole image cannot fit into the free main memory."""
    free, _ = main_memory()
    if free is None:
        return
    seen, part, image = (float(np.prod(grid.shape)) for grid in (frame.model, frame.part, frame.image))
    needed = seen * 4 * (2 * card.channels + 2 * len(card.inputs) + 1) + part * PART_BYTES + image * IMAGE_BYTES
    if needed > free:
        i, j, k = frame.image.shape
        raise OutOfMemory(
            f"Segmenting this image of {i} x {j} x {k} voxels with the model '{card.name}' needs about "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Crop the image to the region of "
            "interest, resample it to larger voxels, or close other programs."
        )


def _whole(frame: Frame, structure: Structure, values: Array) -> Volume:
    return frame.to_image(values, structure.name)


def _reporter(progress: Progress | None, cancelled: Cancel | None) -> Progress:
    """Tells `progress`, and raises Cancelled once `cancelled` says so."""

    def report(fraction: float, text: str) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        if progress is not None:
            progress(fraction, text)

    return report
