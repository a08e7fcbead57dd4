"""What a search is about: cases, structures and the grid, read from a data list and checked before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from hyperreg.automl.data import Cases, prepare_cases
from hyperreg.errors import InputError
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.catalogue import SegmentationCard, card_of
from hyperreg.segmentation.frame import make_frame
from hyperreg.segmentation.model import new_card
from hyperreg.training.listed_cases import ListedCase, list_content, read_list

# The grid and the window of grey values are told from so many cases at most.
LOOKED_AT = 20
# Of cases that the list does not keep apart itself, so many are held out.
HELD_OUT = 0.15
# Grey values of a CT between these percentiles of the structures' voxels are shown (nnU-Net's).
PERCENTILES = (0.5, 99.5)
MR_NAMES = ("MR", "T1", "T2", "FLAIR", "PD", "ADC", "DWI")


@dataclass(frozen=True)
class Task:
    """cards: the entries of the model's card. table: label -> class. Cases as the list names them."""

    entries: Mapping[str, Any]
    table: Mapping[int, int]
    training: tuple[ListedCase, ...]
    held_out: tuple[ListedCase, ...]

    @property
    def card(self) -> SegmentationCard:
        """The card of the model that is searched, without weights."""
        return card_of(Path(self.entries["name"]), {**self.entries, "sha256": ""})

    def prepared(self, cache: Path, progress: Progress | None = None, cancelled: Cancel | None = None) -> Cases:
        """The cases on the model's grid, in `cache`, prepared where they are not there.

        Raises InputError for a structure that no case has; FileError, Cancelled.
        """
        both = [*self.training, *self.held_out]
        files = prepare_cases(both, self.card, self.table, cache, progress, cancelled)
        found = Cases(tuple(files[: len(self.training)]), tuple(files[len(self.training) :]))
        for cases, use in zip(found.load(), ("to train on", "that is held out"), strict=True):
            there = {index for case in cases for index in case.places if case.known[index]}
            missing = [s.name for s in self.card.structures if s.channel not in there]
            if missing:
                raise InputError(
                    f"No case {use} has {', '.join(missing)}: check 'labels' and 'contoured' in the data list, or "
                    "hold out other cases (its entry 'validation')."
                )
        return found


def read_task(
    source: Path, name: str, window: tuple[int, int, int], spacing: tuple[float, float, float] | None = None
) -> Task:
    """The task of a data list (JSON as MSD's or nnU-Net's, or a folder that holds it as dataset.json).

    spacing: of the model's grid along R, A, S, mm; the median of the cases' if not given.
    Raises FileError or InputError, saying what is missing.
    """
    source = source / "dataset.json" if source.is_dir() else source
    content = list_content(source)
    structures = _structures(content, source)
    channels = content.get("channel_names") or content.get("modality") or {"0": "image"}
    if not isinstance(channels, dict):
        channels = {"0": str(channels)}
    training, held_out = read_list(source, len(channels), 0)
    if not held_out:
        count = max(1, round(HELD_OUT * len(training)))
        training, held_out = training[:-count], training[-count:]
    if not training:
        raise InputError(f"'{source}' lists one case alone: a search needs one to train on and one to measure with.")
    modality = _modality([str(title) for title in channels.values()])
    inputs = [
        {"name": "image" if len(channels) == 1 else f"image_{key}", "title": str(title)}
        for key, title in channels.items()
    ]
    table = {entry["label"]: entry["channel"] for entry in structures}
    grid = {"axes": "ras", "spacing_mm": [1.0, 1.0, 1.0], "window": list(window), "flips": []}
    # Whether the name can be a card's is found before anything is computed.
    entries = new_card(name, structures, modality=modality, inputs=inputs, grid=grid)
    seen_spacing, grey = _look(training[:LOOKED_AT], card_of(Path(name), {**entries, "sha256": ""}), table)
    grid["spacing_mm"] = list(spacing or seen_spacing)
    if modality == "CT":
        entries["intensities"] = {"method": "window", "window": grey}
    return Task(entries, table, tuple(training), tuple(held_out))


def _structures(content: Mapping[str, Any], source: Path) -> list[dict[str, Any]]:
    """Entries of the card from "labels": {"1": "liver"} (MSD) or {"liver": 1} (nnU-Net)."""
    named: dict[int, str] = {}
    try:
        for key, value in dict(content.get("labels", {})).items():
            label, name = (int(key), str(value)) if str(key).isdigit() else (int(value), str(key))
            named[label] = name
    except (TypeError, ValueError) as error:
        raise InputError(f"'labels' in '{source}' does not give one number and one name each: {error}") from error
    named.pop(0, None)
    if not named:
        raise InputError(f"'{source}' does not say in 'labels' which structures there are, as {{\"1\": \"liver\"}}.")
    colours = mpl.colormaps["tab20"]
    return [
        {"label": label, "channel": n, "name": name, "colour": [int(255 * part) for part in colours(n % 20)[:3]]}
        for n, (label, name) in enumerate(sorted(named.items()), start=1)
    ]


def _modality(titles: Sequence[str]) -> str:
    if all(title.upper().startswith("CT") for title in titles):
        return "CT"
    return "MR" if all(any(word in title.upper() for word in MR_NAMES) for title in titles) else "any"


def _look(
    cases: Sequence[ListedCase], card: SegmentationCard, table: Mapping[int, int]
) -> tuple[list[float], list[float]]:
    """Median voxel size along the model's axes, mm, and PERCENTILES of the structures' grey values."""
    spacings, values = [], []
    for case in cases:
        volume = read_volume(case.images[0])
        spacings.append(make_frame(volume, card).turned.spacing)
        labels = resample(read_label_map(case.label), volume.grid, interpolation="nearest").array
        inside = volume.array[np.isin(labels, list(table))]
        values.append(inside[:: max(1, inside.size // 10_000)])
    spacing = [round(float(value), 3) for value in np.median(spacings, axis=0)]
    every = np.concatenate(values)
    low, high = np.percentile(every, PERCENTILES) if every.size else (0.0, 1.0)
    return spacing, [float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))]
