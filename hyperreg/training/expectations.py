"""What a model's structures were like in the people that it learned from, for its card; see `plausibility`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.output import replacing
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.plausibility import CUT, Found, measure
from hyperreg.training.cases import ClassTable
from hyperreg.training.label_maps import LabelMap

# Rounds in which the people's frames are shifted onto their mean.
ROUNDS = 10
# Few people say little of others: the range of their volumes is widened by a share of 1 / people, and their places are
# taken to spread as if one more person's structures had been this far off, mm.
NEXT_PERSON_MM = 20.0


def expectations(people: Sequence[Volume], unknown: Sequence[Iterable[int]], classes: int) -> dict[int, dict[str, Any]]:
    """The card's entry "expected" of every class (1 ...) that at least one of the people has.

    people: their label maps, of classes, in RAS. unknown: classes that were not looked for in each. A place is only as
    good as the structures that people share: their frames are shifted, not turned, onto each other.
    """
    looked_for = [set(range(1, classes)) - set(missing) for missing in unknown]
    found = [
        {label: one for label, one in measure(labels).items() if label in wanted}
        for labels, wanted in zip(people, looked_for, strict=True)
    ]
    centres = np.full((len(found), classes, 3), np.nan)
    for number, one in enumerate(found):
        for label, measured in one.items():
            centres[number, label] = measured.centre_mm
    middle, off = _common_frame(centres)
    entries = {}
    for label in range(1, classes):
        seen = [one[label] for one in found if label in one]
        if seen:
            missing = len(seen) < sum(label in wanted for wanted in looked_for)
            entries[label] = _entry(seen, missing, middle[label], off[:, label])
    return entries


def people_of(maps: Sequence[LabelMap], table: ClassTable) -> tuple[list[Volume], list[tuple[int, ...]]]:
    """The people of label maps to synthesise from, for `expectations`. table: see `cases.class_table`."""
    classes = table.astype(np.uint8)
    people = [
        Volume(
            classes[0 if one.right is None else one.right.astype(int), one.labels],
            np.diag([one.spacing, one.spacing, one.spacing, 1.0]), "",
        )
        for one in maps
    ]  # fmt: skip
    return people, [()] * len(people)


def expect(config_path: Path, folder: Path, label_maps: Sequence[Path]) -> None:
    """Write what to expect into the card of a model that is there already, from more label maps than it saw.

    config_path: the configuration that it was trained with. Raises FileError, InputError.
    """
    from hyperreg.training.label_maps import brain_from_file
    from hyperreg.training.segmentation_config import read_segmentation_config

    config = read_segmentation_config(config_path)
    table = config.class_table
    found = expectations(*people_of([brain_from_file(path) for path in label_maps], table), config.classes)
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    for index, (entry, structure) in enumerate(zip(card["structures"], config.structures, strict=True), start=1):
        entry.pop("expected", None)
        if structure.expected and index in found:
            entry["expected"] = found[index]
    with replacing(path) as target:
        target.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _entry(
    seen: Sequence[Found], missing: bool, middle: npt.NDArray[np.float64], off: npt.NDArray[np.float64]
) -> dict[str, Any]:
    volumes = [one.volume_ml for one in seen]
    wider = 1 + 1 / len(seen)
    spread = np.sqrt((np.nansum(off**2) + NEXT_PERSON_MM**2) / len(seen))
    return {
        "ml": [0.0 if missing else round(min(volumes) / wider, 3), round(max(volumes) * wider, 3)],
        "centre_mm": [round(float(n), 1) for n in middle],
        "spread_mm": round(float(spread), 1),
        "cut": any(one.border > CUT for one in seen),
    }


def _common_frame(centres: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centres (people, classes, 3), NaN where there is none -> mean places (classes, 3), and how far each person's are
    from them (people, classes), mm.
    """
    shifted = centres - _mean(centres, 1)[:, None]
    for _ in range(ROUNDS):
        shifted = shifted - _mean(shifted - _mean(shifted, 0), 1)[:, None]
    middle = _mean(shifted, 0)
    return middle, np.linalg.norm(shifted - middle, axis=-1)


def _mean(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """The mean without NaN; NaN where there is nothing else, without a warning."""
    count = np.isfinite(values).sum(axis)
    mean: npt.NDArray[np.float64] = np.nansum(values, axis) / np.where(count, count, np.nan)
    return mean
