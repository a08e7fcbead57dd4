"""The images that a model wants: which file is which, whether they can be used, and how the network sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.files import extension
from hyperreg.imaging.intensity import CT_AIR, check_image, normalise, without_padding
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import Input, SegmentationCard
from hyperreg.segmentation.frame import Frame, make_frame, overlap

# Less of the first image covered by another one is worth a warning.
ENOUGH_OVERLAP = 0.8
# An image with fewer of the model's voxels along every side shows nothing that the model knows.
FEWEST_VOXELS = 16
# A CT in Hounsfield units has voxels at least as dark as this (lung, air around the patient), unless it shows
# inner parts only.
DARKEST_OF_CT = -100.0
# Grey values of water and soft tissue where nobody subtracted the scanner's offset (1000 or 1024, at some of Philips
# with padding of -2000 around), and the least share of voxels that then have them.
UNSHIFTED_TISSUE, LEAST_TISSUE = (850.0, 1250.0), 0.05
# An image is taken for a CT if at least this share of its voxels is as dark as air in Hounsfield units.
LEAST_AIR = 0.01


def assign(
    given: Sequence[str],
    card: SegmentationCard,
    look: Callable[[Sequence[Path], Sequence[Input]], Mapping[str, Path] | None] | None = None,
) -> dict[str, Path]:
    """Which file is which input: input name -> file, in the order of the card.

    given: files, or NAME=FILE where the name of the file does not tell. look: is asked which file is which where the
    names do not tell. Raises InputError naming what is missing, what is too much, or what cannot be told.
    """
    names = [entry.name for entry in card.inputs]
    chosen: dict[str, Path] = {}
    rest: list[Path] = []
    for text in given:
        name, sign, file = text.partition("=")
        if not sign or name not in names or Path(text).exists():
            rest.append(Path(text))
        elif name in chosen:
            raise InputError(f"Two images were given as {name}: '{chosen[name]}' and '{file}'. Give one.")
        else:
            chosen[name] = Path(file)
    if len(given) > len(names):
        raise InputError(
            f"The model '{card.name}' takes {_count(len(names))} ({_listed(card.inputs)}), but {len(given)} were "
            "given. To segment several cases, run the command once for each."
        )
    open_inputs = [entry for entry in card.inputs if entry.name not in chosen]
    if len(names) == 1 and rest:
        return {names[0]: rest[0]}
    found = list(_assignments(rest, open_inputs))
    if len(open_inputs) > len(rest):
        # Which one is missing can be told only if the others are recognised.
        sure = {name for name in names if name in chosen or (found and all(name in one for one in found))}
        missing = [entry for entry in card.inputs if entry.name not in sure]
        raise InputError(
            f"The model '{card.name}' needs {_count(len(names))} ({_listed(card.inputs)}); missing: "
            f"{_listed(missing)}. Name a file as NAME=FILE if its name does not tell, for example "
            f"{missing[0].name}=image.nii.gz."
        )
    if len(found) != 1 and look is not None and (seen := look(rest, open_inputs)) is not None:
        found = [dict(seen)]
    if len(found) != 1:
        what = "does not tell" if not found else "can be told in several ways"
        files = ", ".join(f"'{path.name}'" for path in rest)
        example = " ".join(f"{entry.name}=FILE" for entry in open_inputs)
        raise InputError(
            f"Which file is which {what} from the names {files}; the model '{card.name}' needs "
            f"{_listed(open_inputs)}. Write {example}."
        )
    chosen.update(found[0])
    return {name: chosen[name] for name in names}


def check_inputs(volumes: Mapping[str, Volume], card: SegmentationCard, warnings: list[str]) -> dict[str, Volume]:
    """The volumes, by input name, fit to be segmented; what had to be mended is added to `warnings`.

    Raises InputError for images that show nothing or too little, label maps, images of another modality than the
    model's, an image that was given twice, and missing inputs.
    """
    missing = [entry for entry in card.inputs if entry.name not in volumes]
    if missing:
        raise InputError(f"The model '{card.name}' needs {_listed(card.inputs)}; missing: {_listed(missing)}.")
    checked: dict[str, Volume] = {}
    for entry in card.inputs:
        volume = check_image(volumes[entry.name], warnings)
        _check_modality(volume, card)
        for name, other in checked.items():
            if volume.grid.matches(other.grid) and np.array_equal(volume.array, other.array):
                raise InputError(
                    f"'{other.name}' ({name}) and '{volume.name}' ({entry.name}) are the same image; the model "
                    f"'{card.name}' needs a different one for each."
                )
        checked[entry.name] = volume
    return checked


def show(
    volumes: Mapping[str, Volume],
    card: SegmentationCard,
    first: str | None,
    warnings: list[str],
    transforms: Mapping[str, Transform] | None = None,
) -> tuple[Tensor, Frame]:
    """What the network sees of checked volumes: (1, inputs, I, J, K) float32, and the frame of the result.

    first: the input on whose grid the result is wanted; by default the model's first. The others are resampled
    straight from their own grids to the model's. transforms: from the first image's RAS points to those of the inputs
    that are not aligned with it, by name.
    Raises InputError for images that do not overlap in space, and if the first shows too little.
    """
    reference = volumes[first or card.inputs[0].name]
    frame = make_frame(reference, card)
    if max(frame.model.shape) < FEWEST_VOXELS:
        extent = " x ".join(f"{side:.3g}" for side in frame.part.spacing * frame.part.shape)
        raise InputError(
            f"'{reference.name}' shows only {extent} mm, too small for the model '{card.name}', which looks at voxels "
            f"of {' x '.join(f'{s:.3g}' for s in frame.model.spacing)} mm. Does its header count in another unit than "
            "mm, or is it no human body?"
        )
    shown = np.empty((len(card.inputs), *frame.model.shape), dtype=np.float32)
    for channel, entry in enumerate(card.inputs):
        volume = volumes[entry.name]
        transform = (transforms or {}).get(entry.name)
        share = overlap(frame, volume.grid, transform)
        if share == 0:
            raise InputError(
                f"'{volume.name}' ({entry.name}) and '{reference.name}' do not overlap in space: they come from "
                "different patients or sessions, or one has a wrong header. Align them first (segment --align)."
            )
        if share < ENOUGH_OVERLAP:
            warnings.append(
                f"'{volume.name}' ({entry.name}) covers only {100 * share:.0f} % of '{reference.name}'; look closely "
                "at the rest."
            )
        shown[channel] = scaled(frame.shown(without_padding(volume), transform), card)
    return torch.from_numpy(shown)[None], frame


def scaled(array: npt.NDArray, card: SegmentationCard) -> npt.NDArray[np.float32]:
    """Grey values on the scale that the model knows: (I, J, K) float32.

    robust: 0..1 between robust extremes (`normalise`). nonzero: mean 0, SD 1 over the voxels that are not 0, which stay
    0 (MONAI's NormalizeIntensity of nonzero voxels). nonzero_tanh: that, with large values bent towards 3, as
    3 tanh(x / 3). standard: as nonzero, over all voxels. window: the card's range of values to 0..1, clipped.
    soft_window: that range to -1..1, and the logistic function of it (Auto3DSeg's way with CT). none: as they are.
    """
    if card.intensities == "robust":
        return normalise(array)
    values = array.astype(np.float32)
    if card.intensities in ("window", "soft_window"):
        low, high = card.intensity_window
        values = (values - np.float32(low)) / np.float32(high - low)
        return np.clip(values, 0, 1) if card.intensities == "window" else 1 / (1 + np.exp(1 - 2 * values))
    if card.intensities == "none":
        return values
    inside = np.ones(values.shape, dtype=bool) if card.intensities == "standard" else values != 0
    if inside.any():
        content = values[inside].astype(np.float64)
        spread = content.std()
        values[inside] = (content - content.mean()) / (spread if spread > 0 else 1.0)
    return 3 * np.tanh(values / 3) if card.intensities == "nonzero_tanh" else values


def _check_modality(volume: Volume, card: SegmentationCard) -> None:
    darkest = float(volume.array.min())
    # A few such voxels are the ringing of a resampled MR image.
    air = np.count_nonzero(volume.array <= CT_AIR[1]) / volume.array.size
    if card.modality == "MR" and air >= LEAST_AIR:
        raise InputError(
            f"'{volume.name}' looks like a CT (its darkest value is {darkest:.0f}, as of air), but the model "
            f"'{card.name}' is for MR images. Choose a model for CT (hyperreg models)."
        )
    if card.modality == "CT" and darkest > DARKEST_OF_CT:
        raise InputError(
            f"'{volume.name}' is no CT in Hounsfield units (its darkest value is {darkest:g}), but the "
            f"model '{card.name}' is for CT. Give the original CT (from scanner units, subtract the offset, mostly "
            "1024), or choose a model for MR (hyperreg models)."
        )
    if card.modality == "CT" and _in_scanner_units(volume):
        raise InputError(
            f"'{volume.name}' is a CT in scanner units: its soft tissue has values around 1000, and around 40 in "
            f"Hounsfield units, which the model '{card.name}' knows. Read the original DICOM series, or subtract the "
            "scanner's offset (the rescale intercept, mostly 1024 or 1000)."
        )


def _in_scanner_units(volume: Volume) -> bool:
    """Whether a CT has soft tissue where Hounsfield units have bone, and no air where these have it."""
    low, high = UNSHIFTED_TISSUE
    size = volume.array.size
    air = np.count_nonzero((volume.array >= CT_AIR[0]) & (volume.array <= CT_AIR[1])) / size
    tissue = np.count_nonzero((volume.array > low) & (volume.array < high)) / size
    return bool(air < LEAST_AIR and tissue >= LEAST_TISSUE)


def _assignments(files: Sequence[Path], inputs: Sequence[Input]) -> Iterator[dict[str, Path]]:
    """Every way to give each file an input that its name fits."""
    if not files:
        yield {}
        return
    for index, entry in enumerate(inputs):
        if entry.fits(_stem(files[0])):
            for rest in _assignments(files[1:], [*inputs[:index], *inputs[index + 1 :]]):
                yield {entry.name: files[0], **rest}


def _stem(path: Path) -> str:
    """The file's name without its ending, which may have two parts."""
    return path.name[: len(path.name) - len(extension(path))] or path.name


def _count(number: int) -> str:
    return "one image" if number == 1 else f"{number} images"


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(
        entry.name if entry.title.lower() == entry.name.lower() else f"{entry.name} ({entry.title})" for entry in inputs
    )
