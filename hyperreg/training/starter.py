"""The first configuration for a folder of images and label maps of one's own, with every choice explained.

`hyperreg train segmentation --init FOLDER` looks at what is there (which file belongs to which, labels and their names,
voxel sizes, CT or not), and writes a YAML file that trains as it is and that its user can read and change.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.intensity import CT_AIR
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.output import replacing
from hyperreg.imaging.structures import Meaning, Structure, structures_of
from hyperreg.imaging.volume import Volume
from hyperreg.training.listed_cases import ListedCase, Numbering, read_list
from hyperreg.training.segmentation_config import SegmentationConfig, read_segmentation_config

CONFIG, CASES = "training.yaml", "cases.json"
# How names of label maps end, beside their images; `NAME.seg.nrrd` is one, too.
LABEL = re.compile(r"[-_. ](labels?|labelmap|seg|segmentation|mask|gt)$", re.IGNORECASE)
# A structure with more voxels than this along one side is looked at in coarser ones: on a CPU it would take days.
MOST_VOXELS = 96
# Sides of the patches: multiples of what the network halves, within these.
STEP, LARGEST_PATCH = 16, 64
# So many cases are looked at for the grey values of a CT.
LOOKED_AT = 10
SHARE_HELD_OUT = 0.2


@dataclass(frozen=True)
class Found:
    """What a folder holds. missing: label -> in how many cases it is not."""

    cases: list[ListedCase]
    inputs: int
    structures: list[Structure]
    missing: Mapping[int, int]
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    window: tuple[float, float] | None


def init(
    folder: Path, name: str, licence: str, output: Path | None = None, steps: int = 2000
) -> tuple[Path, list[str]]:
    """Write a configuration (and, where it is needed, a list of the cases) for a folder; its path, and what to know.

    name: of the model. licence: under which others may use it. output: where to write; by default `hyperreg` in the
    folder. Raises InputError or FileError, saying what the folder should hold.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"'{name}' cannot be a model's name: use letters, digits, - and _, as in 'my-liver'.")
    if not licence.strip():
        raise InputError("Name the licence under which others may use the model, such as 'CC-BY-4.0', or 'none'.")
    output = (folder / "hyperreg" if output is None else output).absolute()
    path = output / CONFIG
    if path.exists():
        raise FileError(f"'{path}' is there already. Train with it (--config), or name another --output.")
    source, cases, inputs = find_cases(folder)
    found = look(cases, inputs)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"'{output}' cannot be written: {error.strerror}. Name another --output.") from error
    if source is None:
        source = output / CASES
        _write(source, json.dumps({"training": [_entry(case, output) for case in cases]}, indent=1) + "\n")
    held_out = max(1, round(SHARE_HELD_OUT * len(cases))) if len(cases) > 1 else 0
    _write(path, _text(found, name, licence, os.path.relpath(source, output), held_out, steps))
    read_segmentation_config(path)
    return path, _notes(found)


def find_cases(folder: Path) -> tuple[Path | None, list[ListedCase], int]:
    """(source, cases, inputs): a list or nnU-Net's folders, where there are; else None, and pairs of files by name.

    Raises InputError or FileError.
    """
    if not folder.is_dir():
        raise FileError(f"'{folder}' is no folder.")
    if (folder / "labelsTr").is_dir():
        listed = folder / "dataset.json"
        names = {path.name for path in (folder / "imagesTr").glob("*")}
        numbered = Counter(
            match[1] for name in names if (match := re.match(r"(.+)_(\d{4})\.(?:nii|nii\.gz|nrrd|mha)$", name))
        )
        inputs = max(numbered.values(), default=1)
        source = listed if listed.is_file() else folder
        return source, read_list(source, inputs, 0)[0], inputs
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        pairs = _paired(images_in(folder / "labels"), images_in(folder / "images"))
    else:
        files = images_in(folder)
        labels = [path for path in files if is_label(path)]
        pairs = _paired(labels, [path for path in files if path not in labels])
    if not pairs:
        raise InputError(
            f"'{folder}' has no images with label maps. Put them there as NAME.nii.gz with NAME_label.nii.gz (or "
            "NAME.seg.nrrd), or into two folders 'images' and 'labels' under the same names, or as nnU-Net does "
            "(imagesTr, labelsTr)."
        )
    return None, [ListedCase((image,), label) for image, label in pairs], 1


def look(cases: Sequence[ListedCase], inputs: int) -> Found:
    """Labels, voxel sizes and grey values of the cases. Raises InputError where there is nothing to learn from."""
    counts: Counter[int] = Counter()
    table: dict[int, Meaning] = {}
    sizes, extents, wholes, greys = [], [], [], []
    is_ct = False
    numbering = Numbering()
    for number, case in enumerate(cases):
        drawn = read_structures(case.label)
        numbering.check(case.label, drawn)
        labels = drawn.flat
        table.update(drawn.table)
        present = drawn.labels
        counts.update(present)
        axes, _ = closest_axes(labels.ijk_to_ras)
        sizes.append(labels.spacing[list(axes)])
        wholes.append((labels.spacing * labels.shape)[list(axes)])
        if present:
            extents.append(_extent(labels)[list(axes)])
        if number < LOOKED_AT:
            image = read_volume(case.images[0])
            if number == 0:
                is_ct = bool((image.array <= CT_AIR[1]).mean() > 0.01)
            if is_ct and present and image.grid.matches(labels.grid):
                greys.append(np.percentile(image.array[labels.array > 0], (0.5, 99.5)))
    if not counts:
        raise InputError("The label maps are all empty: there is nothing to learn from.")
    if min(counts) < 0:
        raise InputError(f"A label map has the label {min(counts)}; labels are whole numbers above 0.")
    spacing = np.maximum(np.median(sizes, axis=0), np.median(extents, axis=0) / MOST_VOXELS)
    i, j, k = (float(f"{size:.2g}") for size in spacing)
    patch = np.clip(np.median(wholes, axis=0) / spacing // STEP * STEP, STEP, LARGEST_PATCH).astype(int)
    missing = {label: len(cases) - count for label, count in counts.items() if count < len(cases)}
    window = None
    if is_ct and greys:
        # The median over cases: one with labels in the air would make the range useless for all.
        low, high = np.median(greys, axis=0)
        margin = 0.2 * (high - low)
        window = (float(round(low - margin)), float(round(high + margin)))
    structures = structures_of(sorted(counts), table)
    return Found(
        list(cases), inputs, structures, missing, (i, j, k), (int(patch[0]), int(patch[1]), int(patch[2])), window
    )


def seconds_per_step(config: SegmentationConfig) -> float:
    """How long one step takes on this machine, now: measured on noise of the patches' size."""
    from hyperreg.training.cases import SyntheticCase
    from hyperreg.training.segmentation_models import SegmentationObjective, trained_network

    generator = torch.Generator().manual_seed(0)
    objective = SegmentationObjective(trained_network(config).train(), config)
    images = torch.rand(1, len(config.inputs), *config.shape, generator=generator)
    target = torch.nn.functional.one_hot((images[:, 0] * config.classes).long().clamp_max(config.classes - 1))
    case = SyntheticCase(images, target.movedim(-1, 1).float())
    took = []
    for step in range(3):
        started = time.perf_counter()
        objective(case, step, generator)[0].backward()
        took.append(time.perf_counter() - started)
    return min(took)


def in_time(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def images_in(folder: Path) -> list[Path]:
    """The files of a folder that can be images or label maps, by name."""
    known = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz")
    return sorted(path for path in folder.iterdir() if path.is_file() and extension(path) in known)


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".seg.nrrd")
    return name if name != path.name else name[: len(name) - len(extension(path))]


def is_label(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd") or bool(LABEL.search(_stem(path)))


def _paired(labels: Sequence[Path], images: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each label map with the one image of its name."""
    pairs: list[tuple[Path, Path]] = []
    for label in labels:
        base = LABEL.sub("", _stem(label)).lower()
        same = [image for image in images if _stem(image).lower() == base]
        near = [image for image in images if re.match(rf"{re.escape(base)}[-_. ]", _stem(image).lower())]
        fits = same or near
        if len(fits) != 1:
            what = "no image" if not fits else f"{len(fits)} images ({', '.join(path.name for path in fits[:3])})"
            raise InputError(
                f"'{label.name}' has {what} of its name; each label map needs one: {base}{extension(label)}, say."
            )
        if before := next((other for image, other in pairs if image == fits[0]), None):
            raise InputError(
                f"'{before.name}' and '{label.name}' are label maps of one image, '{fits[0].name}': it would count as "
                "two cases. Leave one in the folder."
            )
        pairs.append((fits[0], label))
    return pairs


def _extent(labels: Volume) -> np.ndarray:
    """Of all labels together along the array's axes, mm."""
    where = np.argwhere(labels.array > 0)
    extent: np.ndarray = (where.max(0) - where.min(0) + 1) * labels.spacing
    return extent


def _entry(case: ListedCase, output: Path) -> dict[str, str]:
    return {"image": os.path.relpath(case.images[0], output), "label": os.path.relpath(case.label, output)}


def _sides(structures: Sequence[Structure]) -> list[tuple[int, int]]:
    """(right, left) labels of structures whose names differ in the side alone."""
    names = {structure.name.casefold(): structure.label for structure in structures}
    pairs = []
    for name, label in names.items():
        for right, left in (("right", "left"), ("rh", "lh")):
            other = re.sub(rf"(?<![a-z]){right}(?![a-z])", left, name)
            if other != name and other in names:
                pairs.append((label, names[other]))
    return pairs


def _notes(found: Found) -> list[str]:
    notes = [
        f"'{next(s.name for s in found.structures if s.label == label)}' (label {label}) is missing in {count} of "
        f"{len(found.cases)} cases. If it is there and was not drawn, say so in the list of cases: "
        f'"contoured": [the labels that were drawn]. Otherwise the model learns that it may be missing.'
        for label, count in sorted(found.missing.items())
        if 2 * count >= len(found.cases)
    ]
    if len(found.cases) < 8:
        notes.append(f"{len(found.cases)} cases are few: expect a model for cases like these, and look at its results.")
    return notes


def _text(found: Found, name: str, licence: str, source: str, held_out: int, steps: int) -> str:
    """The YAML file. JSON's strings are YAML's, too."""

    def quoted(text: Any) -> str:
        return json.dumps(text, ensure_ascii=False)

    structures = "\n".join(
        f"  - {{label: {s.label}, name: {quoted(s.name)}, colour: {list(s.colour)}, numbers: [{s.label}]}}"
        for s in found.structures
    )
    inputs = "\n".join(
        f"  - {{name: {quoted(f'image{n}'.lower())}, title: {quoted(f'Image {n}'.strip())}}}"
        for n in ([""] if found.inputs == 1 else range(1, found.inputs + 1))
    )
    sides = _sides(found.structures)
    intensities = (
        "# An MR image has no scale of its own: its robust minimum and maximum become 0 and 1.\n"
        "intensities: {method: robust}"
        if found.window is None
        else "# A CT in Hounsfield units: this range of what the structures show becomes 0 to 1.\n"
        f"intensities: {{method: window, window: [{found.window[0]:g}, {found.window[1]:g}]}}"
    )
    return f"""\
# A segmentation model from {len(found.cases)} cases. Train it with: hyperreg train segmentation --config {CONFIG} --add
name: {name}
title: {quoted(name)}
description: {quoted(f"Learned from {len(found.cases)} cases.")}
# The folder of the finished model; counts from this file, as all paths do.
output: {name}
# Under which others may use the model, and what it was trained on: its card tells it to whoever uses it.
licence: {quoted(licence)}
data: {quoted(f"{len(found.cases)} images with label maps of the user's.")}
modality: {"MR" if found.window is None else "CT"}
# The images of a case, in the order of their files.
inputs:
{inputs}
# What is to be found. numbers: the labels in the training's maps that count as this structure; several may be joined.
structures:
{structures}
# A residual encoder and decoder; more filters learn more, from more cases, and take longer.
network:
  name: segresnet
  options: {{filters: 8, blocks_down: [1, 1, 1, 1], blocks_up: [1, 1, 1], normed: true}}
# The voxel size at which the network looks, mm along R, A, S, and how much it sees at once.
grid: {{axes: ras, spacing_mm: {list(found.spacing)}, window: {list(found.patch)}}}
{intensities}
cases:
  source: {quoted(source)}
  # Voxels of the patches that are learned from; two thirds of them lie around a structure.
  shape: {list(found.patch)}
  # Mirrored cases are further cases, for a body that is the same on both sides: pairs of labels that change places,
  # [] without such pairs, null for no mirroring.
  mirror: {json.dumps([list(pair) for pair in sides]) if sides else "null"}
# Never trained on: the last cases of the list, and all others of the same patients.
validation: {{cases: {held_out}, every: {max(1, min(250, steps // 4))}}}
loss: {{dice: 1.0, cross_entropy: 1.0}}
steps: {steps}
optimiser: adamw
learning_rate: 1.0e-3
weight_decay: 1.0e-4
warm_up: {min(100, steps // 10)}
averaging: {0.99 if steps >= 500 else 0.9}
# The network in half precision, which new processors compute several times faster; float32 for old ones.
precision: bfloat16
device: auto
workers: 0
checkpoint_every: {max(1, min(100, steps // 4))}
seed: 1
"""


def _write(path: Path, text: str) -> None:
    with replacing(path) as target:
        target.write_text(text, encoding="utf-8")
