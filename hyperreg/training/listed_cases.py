"""Images with label maps of one's own to learn segmentation from: lists, preparation, random patches.

Lists are those of the Medical Segmentation Decathlon ({"training": [{"image", "label"}], "validation"}) or of nnU-Net
(imagesTr/CASE_0000.nii.gz for the first input, labelsTr/CASE.nii.gz). A case of a list in which not every structure
was drawn says which labels were: {"image", "label", "contoured": [1, 2, 5]}. A patient with several cases is either
trained on or validated with: told by the entry "patient", else by names such as sub-07_ses-2 or p7_visit1.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.label_checks import check_on_image
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.structures import LabelMap, key_of
from hyperreg.imaging.volume import Volume
from hyperreg.registration.field import sample
from hyperreg.segmentation.catalogue import SLICES_LAST, SegmentationCard
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.training.appearance import thick_slices
from hyperreg.training.cases import SyntheticCase
from hyperreg.training.deformation import positions, rotation, smooth_noise
from hyperreg.training.draws import Draws
from hyperreg.training.segmentation_config import CasesConfig

log = logging.getLogger(__name__)

# What tells visits of one person apart, at the end of a file's name.
VISIT = re.compile(
    r"([-_. ]+(ses|session|visit|scan|exam|time|timepoint|tp|baseline|followup|follow-up|pre|post|day|week|month|year)"
    r"[-_]?[a-z]?\d*)+([-_.](labels?|seg|mask))?$"
)
# Distance of the control points of a patch's random warp, mm: about the size of an organ of the neck or of a lobe.
WARP_CONTROL_MM = 48.0


@dataclass(frozen=True)
class ListedCase:
    """The images of a case, in the order of the model's inputs, and its label map.

    contoured: the labels that were looked for in this case; None if all were. The others are unknown where the map has
    background. patient: whose images these are; by the label map's name if it is not given.
    """

    images: tuple[Path, ...]
    label: Path
    contoured: frozenset[int] | None = None
    patient: str = ""

    @property
    def person(self) -> str:
        return self.patient or person_of(self.label)


def read_list(source: Path, inputs: int, held_out: int) -> tuple[list[ListedCase], list[ListedCase]]:
    """Cases to train on and to validate with: the list's own "validation", else the last `held_out` ones.

    Raises FileError or InputError, naming what is missing.
    """
    folder = source if source.is_dir() else source.parent
    content = list_content(source) if source.is_file() else {}
    if "training" in content:
        training = [_entry(entry, folder, inputs) for entry in content["training"]]
    else:
        training = _in_folder(folder, inputs, str(content.get("file_ending", ".nii.gz")))
    validation = [_entry(entry, folder, inputs) for entry in content.get("validation", []) if "label" in entry]
    if validation:
        _check_people(training, validation, source)
    elif held_out:
        training, validation = split_by_person(training, held_out)
    if not training:
        raise InputError(f"'{source}' lists no case to train on (besides {len(validation)} for validation).")
    missing = [path for case in (*training, *validation) for path in (*case.images, case.label) if not path.exists()]
    if missing:
        raise FileError(f"'{source}' names {len(missing)} files that do not exist, the first is '{missing[0]}'.")
    return training, validation


def person_of(path: Path) -> str:
    """Whose image a file is, by its name: BIDS' subject, else the name without what tells a visit apart."""
    name = path.name[: len(path.name) - len(extension(path))].lower()
    subject = re.match(r"sub-[a-z0-9]+", name)
    return subject[0] if subject else VISIT.sub("", name) or name


def split_by_person(cases: Sequence[ListedCase], held_out: int) -> tuple[list[ListedCase], list[ListedCase]]:
    """Cases to train on, and at least the last `held_out` to validate with: nobody is in both."""
    people = {case.person for case in cases[len(cases) - held_out :]}
    training = [case for case in cases if case.person not in people]
    return training, [case for case in cases if case.person in people]


def _check_people(training: Sequence[ListedCase], validation: Sequence[ListedCase], source: Path) -> None:
    both = sorted({case.person for case in training} & {case.person for case in validation})
    if both:
        raise InputError(
            f"'{source}' has the same patients in training and in validation ({len(both)}, such as '{both[0]}'): the "
            "model would be validated with people that it knows. Move all cases of a patient to one of them; if the "
            'names deceive, give each case its "patient".'
        )


class Numbering:
    """What the numbers of several label maps mean, as far as their files say it: the same in all of them."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, str]] = {}
        self._numbers: dict[str, tuple[int, str]] = {}

    def check(self, path: Path, drawn: LabelMap) -> None:
        """Raise InputError if a label map numbers its structures otherwise than one before it.

        3D Slicer numbers the segments of every file in the order in which they were made.
        """
        for number, meaning in ((number, drawn.table[number]) for number in drawn.labels if number in drawn.table):
            name, first = self._names.setdefault(number, (meaning.name, path.name))
            place, other = self._numbers.setdefault(meaning.key, (number, path.name))
            if key_of(name) != meaning.key:
                told = f"'{path.name}' calls label {number} '{meaning.name}', and '{first}' calls it '{name}'"
            elif place != number:
                told = f"'{meaning.name}' is label {number} in '{path.name}', and label {place} in '{other}'"
            else:
                continue
            raise InputError(f"{told}: the model would learn both as one. Number the structures of all cases alike.")


def prepare(
    case: ListedCase, card: SegmentationCard, table: dict[int, int], numbering: Numbering | None = None
) -> tuple[np.ndarray, Volume]:
    """A case as the network will see it at inference: images (C, I, J, K) float16, classes (I, J, K) uint8 in space.

    table: label -> class; other labels are background. numbering: of the cases before this one.
    Raises InputError or FileError naming the file that cannot be used.
    """
    names = [entry.name for entry in card.inputs]
    volumes = {name: read_volume(path) for name, path in zip(names, case.images, strict=True)}
    images, frame = show(check_inputs(volumes, card, []), card, None, [])
    drawn = read_structures(case.label)
    (numbering or Numbering()).check(case.label, drawn)
    for text in (*drawn.warnings, *check_on_image(drawn.flat, volumes[names[0]])):
        log.warning("%s", text)
    labels = resample(drawn.flat, frame.model, interpolation="nearest").array
    classes = np.zeros(labels.shape, np.uint8)
    for label, index in table.items():
        classes[labels == label] = index
    if not classes.any():
        raise InputError(f"'{case.label}' has none of the labels {sorted(table)} where the image lies.")
    return images[0].numpy().astype(np.float16), Volume(classes, frame.model.ijk_to_ras, case.label.name)


class ListedCases(Dataset[SyntheticCase]):
    """An endless series of random patches of prepared cases: patch number n is always the same for a seed.

    cache: folder where prepared cases are kept while training (patches are read from there, not whole cases).
    people: the class maps of the cases, in space, read from there too. numbering: of other cases of the same model.
    flips: axes along which patches are flipped; with `config.mirror` also the one from left to right, where the sides'
    labels change places.
    """

    def __init__(
        self,
        cases: Sequence[ListedCase],
        card: SegmentationCard,
        table: dict[int, int],
        config: CasesConfig,
        cache: Path,
        seed: int = 0,
        numbering: Numbering | None = None,
    ) -> None:
        self.config = config
        self.classes = card.channels
        self.flips = card.flips
        self.seed = seed
        self.sides = _sides(config, card, table)
        self.unknown = [_unknown(case, table) for case in cases]
        self.stems: list[Path] = []
        self.people: list[Volume] = []
        cache.mkdir(parents=True, exist_ok=True)
        numbering = numbering or Numbering()
        for number, case in enumerate(cases):
            stem = cache / f"{number:05d}"
            log.info("preparing case %d of %d", number + 1, len(cases))
            images, classes = prepare(case, card, table, numbering)
            np.save(f"{stem}-images.npy", images)
            np.save(f"{stem}-classes.npy", classes.array)
            self.stems.append(stem)
            self.people.append(Volume(self._arrays(number)[1], classes.ijk_to_ras, classes.name))

    def whole(self, index: int) -> SyntheticCase:
        """A case as it is: to validate with."""
        images, classes = self._arrays(index)
        target = self._target(torch.from_numpy(np.array(classes)))
        return SyntheticCase(_tensor(images)[None], target, self.unknown[index])

    def __getitem__(self, number: int) -> SyntheticCase:
        draws = Draws(self.seed * 1_000_003 + number)
        index = draws.integer(0, len(self.stems) - 1)
        images, classes = self._arrays(index)
        zoom = draws.uniform(*self.config.zoom)
        shape = [max(1, round(n / zoom)) for n in self.config.shape]
        start = self._start(classes, shape, draws)
        bent = self._bent(index, start, shape, draws) if self.config.turn or self.config.warp_mm else None
        if bent is not None:
            patch, target = self._sampled(images, classes, bent)
        else:
            patch = _tensor(cut(images, start, shape))[None]
            target = self._target(torch.from_numpy(cut(classes[None], start, shape)[0]))
        if bent is None and shape != list(self.config.shape):
            patch, target = (
                F.interpolate(part, size=self.config.shape, mode="trilinear", align_corners=False)
                for part in (patch, target)
            )
        axes = [axis + 2 for axis in self.flips if draws.chance(0.5)]
        patch, target = (part.flip(axes) if axes else part for part in (patch, target))
        unknown = self.unknown[index]
        if self.sides is not None and draws.chance(0.5):
            axis, order = self.sides
            patch, target = patch.flip(axis + 2), target.flip(axis + 2)[:, order]
            unknown = tuple(sorted(order[n] for n in unknown))
        return SyntheticCase(self._varied(patch, draws), target, unknown)

    def _bent(self, index: int, start: Sequence[int], shape: Sequence[int], draws: Draws) -> Tensor:
        """Where the voxels of a patch lie in a case, (3, *config.shape) of its voxels: the box from `start` on of
        `shape` voxels, turned about its middle and warped, both in mm.
        """
        size = torch.from_numpy(self.people[index].spacing).float().view(3, 1)
        box, wanted = (torch.tensor(sides, dtype=torch.float32).view(3, 1) for sides in (shape, self.config.shape))
        points = positions(self.config.shape, 1.0).flatten(1) * (size * box / wanted)
        points = rotation(draws.uniforms(-1, 1, 3) * math.radians(self.config.turn)) @ points
        control = WARP_CONTROL_MM / float(size.mean())
        warp = smooth_noise(self.config.shape, control, draws.fields)[0].flatten(1)
        points = points + warp * draws.uniform(0, self.config.warp_mm)
        middle = torch.tensor(start, dtype=torch.float32).view(3, 1) + (box - 1) / 2
        return (points / size + middle).view(3, *self.config.shape)

    def _sampled(self, images: np.ndarray, classes: np.ndarray, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Images and target at `voxels` (3, ...) of a case; the target is of shares, as partial volumes are."""
        low, high = voxels.flatten(1).amin(1).floor(), voxels.flatten(1).amax(1).ceil()
        start, shape = [int(n) for n in low], [int(n) + 1 for n in high - low]
        middle = torch.tensor([(n - 1) / 2 for n in voxels.shape[1:]]).view(3, 1, 1, 1)
        own = positions(voxels.shape[1:], 1.0) + middle
        displacement = (voxels - low.view(3, 1, 1, 1) - own)[None]
        patch = sample(_tensor(cut(images, start, shape))[None], displacement)
        block = torch.from_numpy(cut(classes[None], start, shape)[0])
        target = torch.zeros(1, self.classes, *voxels.shape[1:])
        present = [int(n) for n in block.unique() if n]
        if present:
            target[:, present] = sample(torch.stack([block == n for n in present])[None].float(), displacement)
        target[:, 0] = 1 - target[:, 1:].sum(1)
        return patch, target

    def _varied(self, images: Tensor, draws: Draws) -> Tensor:
        config = self.config
        varied = []
        for image in images[0]:
            if draws.chance(config.thick):
                image = thick_slices(image, draws.integer(0, 2), draws.integer(2, config.thickest))  # noqa: PLW2901
            bias = smooth_noise(image.shape, max(image.shape) / 3, draws.fields, channels=1)[0, 0]
            image = image * (bias * draws.uniform(0, config.bias)).exp()  # noqa: PLW2901
            image = image + draws.normals(*image.shape) * draws.uniform(0, config.noise)  # noqa: PLW2901
            scale, shift = (draws.uniform(-most, most) for most in (config.scale, config.shift))
            varied.append(image * (1 + scale) + shift)
        return torch.stack(varied)[None]

    def _start(self, classes: np.ndarray, shape: Sequence[int], draws: Draws) -> list[int]:
        """The first voxel of a patch: anywhere inside, or around a voxel of a structure that the case has."""
        if not draws.chance(self.config.foreground):
            return [
                draws.integer(min(0, have - n), max(0, have - n)) for n, have in zip(shape, classes.shape, strict=True)
            ]
        found = np.unique(classes)
        places = np.flatnonzero(classes == int(draws.choose([int(n) for n in found if n])))
        voxel = np.unravel_index(int(places[draws.integer(0, len(places) - 1)]), classes.shape)
        return [int(v) - draws.integer(0, n - 1) for v, n in zip(voxel, shape, strict=True)]

    def _arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        stem = self.stems[index]
        images, classes = (np.load(f"{stem}-{name}.npy", mmap_mode="r") for name in ("images", "classes"))
        return images, classes

    def _target(self, classes: Tensor) -> Tensor:
        return F.one_hot(classes.long(), self.classes).permute(3, 0, 1, 2)[None].float()


def _sides(config: CasesConfig, card: SegmentationCard, table: dict[int, int]) -> tuple[int, list[int]] | None:
    """The network's axis from left to right, and which class each class is after mirroring; None without mirroring.

    Raises InputError where that cannot be: no fixed axes, labels that no structure has.
    """
    if config.mirror is None:
        return None
    axis = next((n for n, letter in enumerate(card.axes) if letter in "rl"), None)
    if card.axes == SLICES_LAST or axis is None:
        raise InputError("cases.mirror needs fixed axes (grid.axes: ras): with slices_last no axis is always the one.")
    order = list(range(card.channels))
    for pair in config.mirror:
        if not set(pair) <= set(table):
            raise InputError(f"cases.mirror names the labels {pair[0]} and {pair[1]}: not all have a structure.")
        one, two = (table[label] for label in pair)
        order[one], order[two] = two, one
    return axis, order


def _unknown(case: ListedCase, table: dict[int, int]) -> tuple[int, ...]:
    """The classes that were not looked for. Raises InputError for a case in which nothing was."""
    if case.contoured is None:
        return ()
    unknown = sorted({index for label, index in table.items() if label not in case.contoured})
    if len(unknown) == len(set(table.values())):
        raise InputError(f"'{case.label}': none of the labels that were contoured there has a structure.")
    return tuple(unknown)


def cut(array: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """(C, *shape) of (C, I, J, K) from `start` on; zeros (background) beyond the ends."""
    cut = np.zeros((array.shape[0], *shape), array.dtype)
    inside, place = [slice(None)], [slice(None)]
    for first, size, have in zip(start, shape, array.shape[1:], strict=True):
        low, high = max(0, first), min(have, first + size)
        inside.append(slice(low, max(low, high)))
        place.append(slice(low - first, max(low, high) - first))
    cut[tuple(place)] = array[tuple(inside)]
    return cut


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _entry(entry: Any, folder: Path, inputs: int) -> ListedCase:
    try:
        images = [entry["image"]] if isinstance(entry["image"], str) else list(entry["image"])
        case = ListedCase(
            tuple(folder / image for image in images),
            folder / entry["label"],
            _contoured(entry.get("contoured")),
            str(entry.get("patient", "")),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"A case of the data list has no image or no label: {entry!r}.") from error
    if len(images) != inputs:
        raise InputError(f"'{images[0]}': the list names {len(images)} images for this case, the model wants {inputs}.")
    return case


def _contoured(labels: Any) -> frozenset[int] | None:
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, int) for label in labels)):
        raise InputError(f"'contoured' of a case of the data list is a list of labels, and not {labels!r}.")
    return None if labels is None else frozenset(labels)


def _in_folder(folder: Path, inputs: int, ending: str) -> list[ListedCase]:
    labels = sorted((folder / "labelsTr").glob(f"*{ending}"))
    if not labels:
        raise FileError(
            f"'{folder}' has no label maps (labelsTr/*{ending}), nor a data list with the entry 'training'."
        )
    cases = []
    for label in labels:
        name = label.name[: -len(ending)]
        images = tuple(folder / "imagesTr" / f"{name}_{n:04d}{ending}" for n in range(inputs))
        cases.append(ListedCase(images, label))
    return cases


def list_content(path: Path) -> dict[str, Any]:
    """The JSON object of a data list. Raises FileError if it cannot be read, InputError if it is no data list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"The data list '{path}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("training", []), list):
        raise InputError(f"'{path}' is no data list: it is no JSON object with a list 'training'.")
    return content
