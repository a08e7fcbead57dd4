"""Whether probabilities can be believed: how often the structure that a model takes is the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.pairs import DATA
from benchmarks.segmentation.structures import found_structures, manual_structures
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.segmentation.model import load_model
from hyperreg.segmentation.prediction import Prediction

# Probabilities from 0 to 1 are looked at in so many parts.
BINS = 10


def brain(subject: str, model: str, threads: int) -> dict[str, Any]:
    """A subject with manual labels, see `_measured`; both sides of a structure are one."""
    folder = DATA / "brain_oasis"
    return _measured(folder / f"{subject}_T1_brain.nii.gz", folder / f"{subject}_labels.nii.gz", model, threads, True)


def head_neck(patient: str, model: str, threads: int) -> dict[str, Any]:
    """A patient with clinical contours, see `_measured`."""
    folder = DATA / "head_neck_ct"
    return _measured(folder / f"{patient}_ct.nii.gz", folder / f"{patient}_labels.nii.gz", model, threads, False)


def _measured(image: Path, labels: Path, model: str, threads: int, by_hand: bool) -> dict[str, Any]:
    """Before (temperature 1) and after (the card's): the expected calibration error, and by part of the probabilities
    how many voxels there are, their mean probability, and how many are right.

    On the model's voxels, where the model or the truth has a structure. by_hand: the truth has manual labels of brains.
    """
    torch.set_num_threads(threads)
    card = find_model(model)
    images, frame = show(check_inputs({card.inputs[0].name: read_volume(image)}, card, []), card, None, [])
    truth = resample(read_label_map(labels), frame.model, interpolation="nearest").array
    wanted, parts = (manual_structures(truth), _parts_of_brains(card)) if by_hand else (truth, _own_parts(card))
    figures: dict[str, Any] = {"temperature": card.temperature}
    for name, temperature in (("before", 1.0), ("after", card.temperature)):
        run = Prediction(load_model(card), card.window, card.exclusive, temperature=temperature)
        sure, right = judged(run(images).numpy(), parts, wanted)
        figures |= {f"{name}_{what}": value for what, value in reliability(sure, right).items()}
    return figures


def _parts_of_brains(card: SegmentationCard) -> npt.NDArray[np.intp]:
    """The structure of NUMBERS of every channel; those that are not compared are background."""
    labels = np.zeros(card.channels, np.intp)
    for one in card.structures:
        labels[one.channel] = found_structures(np.array([one.label]), card)[0]
    return labels


def _own_parts(card: SegmentationCard) -> npt.NDArray[np.intp]:
    labels = np.zeros(card.channels, np.intp)
    labels[[one.channel for one in card.structures]] = [one.label for one in card.structures]
    return labels


def judged(
    probabilities: npt.NDArray[np.float32], parts: npt.NDArray[np.intp], wanted: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Of the voxels in which the model or the truth has a structure: the probability of the one that the model takes,
    and whether it is right.

    probabilities: (channels, ...). parts: the structure of each channel, 0 background. wanted: structures.
    """
    together = np.zeros((int(parts.max()) + 1, *wanted.shape), np.float32)
    np.add.at(together, parts, probabilities)
    taken = together.argmax(0)
    seen = (taken > 0) | (wanted > 0)
    return together.max(0)[seen], (taken == wanted)[seen]


def reliability(sure: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """ece: the mean over voxels of |probability - share that is right| of their part (Guo et al. 2017).

    For every part that holds voxels: voxels_N, sure_N (mean probability) and right_N (share).
    """
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    figures, error = {}, 0.0
    for part in np.unique(places):
        mine = places == part
        probability, share = float(sure[mine].mean()), float(right[mine].mean())
        figures |= {f"voxels_{part}": int(mine.sum()), f"sure_{part}": probability, f"right_{part}": share}
        error += mine.mean() * abs(probability - share)
    return {"ece": float(error), **figures}
