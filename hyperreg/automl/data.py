"""What trials learn from: prepared cases in a cache, random patches of them, and boxes of held-out cases."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import (
    Compose,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandZoomd,
)
from torch import Tensor

from hyperreg.errors import Cancelled, FileError
from hyperreg.imaging.output import replacing
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.training.draws import Draws
from hyperreg.training.listed_cases import ListedCase, Numbering, cut, prepare

log = logging.getLogger(__name__)

# How often an augmentation that is on is applied (T-AutoML's).
PROBABILITY = 0.15
# Held-out cases are looked at in the box of their structures and so many voxels around it: a whole body takes as long
# as a trial.
MARGIN = 8


@dataclass(frozen=True)
class PreparedCase:
    """A case on the model's grid: images (C, I, J, K) float16, classes (I, J, K) uint8, known (channels,) bool.

    known: the classes that were contoured, and background. places: flat indices of the voxels of each class, by class.
    """

    name: str
    images: npt.NDArray[np.float16]
    classes: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    places: Mapping[int, npt.NDArray[np.int64]]

    def box(self) -> tuple[slice, slice, slice]:
        """The box of the structures and MARGIN voxels around it."""
        where = np.nonzero(self.classes)
        i, j, k = (
            slice(max(0, int(w.min()) - MARGIN), min(n, int(w.max()) + 1 + MARGIN))
            for w, n in zip(where, self.classes.shape, strict=True)
        )
        return i, j, k


@dataclass(frozen=True)
class CaseFile:
    """A prepared case in the cache. known: for background and every class, whether it was contoured."""

    name: str
    path: Path
    known: tuple[bool, ...]

    def load(self) -> PreparedCase:
        """Read it. Raises FileError."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                images, classes = arrays["images"], arrays["classes"]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise FileError(f"'{self.path}' cannot be read ({error}); delete it, and start again.") from error
        places = {int(index): np.flatnonzero(classes == index) for index in np.unique(classes) if index}
        return PreparedCase(self.name, images, classes, np.array(self.known), places)


@dataclass(frozen=True)
class Cases:
    """What trials learn from and are measured on: files that every machine of a search can read."""

    training: tuple[CaseFile, ...]
    held_out: tuple[CaseFile, ...]

    @lru_cache(maxsize=1)  # noqa: B019 (one search in a process, whose trials share its cases)
    def load(self) -> tuple[list[PreparedCase], list[PreparedCase]]:
        """Cases to train on and held-out ones, read once. Raises FileError."""
        return [one.load() for one in self.training], [one.load() for one in self.held_out]


def prepare_cases(
    cases: Sequence[ListedCase],
    card: SegmentationCard,
    table: Mapping[int, int],
    cache: Path,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> list[CaseFile]:
    """Bring cases to the model's grid, into `cache`, where a case lies under the digest of its making.

    table: label -> class. Raises InputError or FileError naming the file that cannot be used; Cancelled.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found, numbering = [], Numbering()
    for number, case in enumerate(cases):
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled; cases that were prepared are kept.")
        if progress is not None:
            progress(number / len(cases), f"Preparing case {number + 1} of {len(cases)}")
        path = cache.absolute() / f"{_digest(case, card, table)}.npz"
        if not path.exists():
            images, classes = prepare(case, card, dict(table), numbering)
            with replacing(path, images.nbytes + classes.array.nbytes) as target:
                np.savez(target, images=images, classes=classes.array)
        known = np.ones(card.channels, bool)
        if case.contoured is not None:
            for label, index in table.items():
                known[index] = label in case.contoured
        found.append(CaseFile(case.label.name.split(".")[0], path, tuple(known.tolist())))
    return found


def _digest(case: ListedCase, card: SegmentationCard, table: Mapping[int, int]) -> str:
    files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in (*case.images, case.label)]
    making = [files, dict(card.card)["grid"], dict(card.card)["intensities"], sorted(table.items())]
    return hashlib.sha256(json.dumps(making).encode()).hexdigest()[:20]


def augmentation(names: Sequence[str]) -> Compose:
    """MONAI's transforms of the names in `space.AUGMENTATIONS`, for {"image": (C, I, J, K), "classes": (1, I, J, K)}.

    Strengths are ours: zoom .8 to 1.25, noise of SD up to .1, shift up to .1, scale up to .1 of intensities in 0..1.
    """
    both = ["image", "classes"]
    makers: dict[str, Any] = {
        **{f"flip_{axis}": RandFlipd(both, prob=PROBABILITY, spatial_axis=axis) for axis in range(3)},
        "rotate_90": RandRotate90d(both, prob=PROBABILITY, spatial_axes=(0, 1)),
        "zoom": RandZoomd(
            both, prob=PROBABILITY, min_zoom=0.8, max_zoom=1.25, mode=("trilinear", "nearest"), padding_mode="edge"
        ),
        "noise": RandGaussianNoised(["image"], prob=PROBABILITY, std=0.1),
        "shift": RandShiftIntensityd(["image"], prob=PROBABILITY, offsets=0.1),
        "scale": RandScaleIntensityd(["image"], prob=PROBABILITY, factors=0.1),
    }
    return Compose([makers[name] for name in names])


class Patches:
    """An endless series of batches of random patches: batch number n is always the same for a seed.

    shape: of the patches, voxels. foreground: share of patches around a voxel of a structure.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        shape: tuple[int, int, int],
        batch: int,
        augmentations: Sequence[str],
        foreground: float,
        seed: int,
    ) -> None:
        self.cases = cases
        self.shape = shape
        self.batch = batch
        self.foreground = foreground
        self.seed = seed
        self._augment = augmentation(augmentations) if augmentations else None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, I, J, K) float32, classes (B, I, J, K) uint8, known (B, channels) bool."""
        draws = Draws(self.seed * 1_000_003 + number)
        parts = [self._patch(draws) for _ in range(self.batch)]
        images, classes, known = zip(*parts, strict=True)
        return torch.stack(images), torch.stack(classes), torch.stack(known)

    def _patch(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        case = draws.choose(self.cases)
        start = self._start(case, draws)
        image = torch.from_numpy(cut(case.images, start, self.shape).astype(np.float32))
        classes = torch.from_numpy(cut(case.classes[None], start, self.shape))
        if self._augment is not None:
            self._augment.set_random_state(seed=draws.integer(0, 2**31 - 1))
            varied = self._augment({"image": image, "classes": classes})
            image, classes = (torch.as_tensor(varied[name]) for name in ("image", "classes"))
            image, classes = (getattr(part, "as_tensor", lambda part=part: part)() for part in (image, classes))
        return image, classes[0].to(torch.uint8), torch.from_numpy(case.known)

    def _start(self, case: PreparedCase, draws: Draws) -> list[int]:
        """The first voxel of a patch: anywhere inside, or around a voxel of a structure that the case has."""
        sizes = case.classes.shape
        if not draws.chance(self.foreground):
            return [
                draws.integer(min(0, have - n), max(0, have - n)) for n, have in zip(self.shape, sizes, strict=True)
            ]
        places = case.places[draws.choose(sorted(case.places))]
        voxel = np.unravel_index(int(places[draws.integer(0, len(places) - 1)]), sizes)
        return [int(v) - draws.integer(0, n - 1) for v, n in zip(voxel, self.shape, strict=True)]
