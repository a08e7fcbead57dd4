"""Whether a result can be what the model is for: sizes, places and doubt against the people that it learned from.

A network finds its structures in any image: cortex in a heart, a brain that lies on its head. What its card expects
(`imaging.structures.Expected`) is compared with what was found, and said in one sentence that nobody can mistake. What
cannot be seen here: a head mirrored left to right looks as an ordinary head does, and a diseased brain may well be
outside of what was expected. SimpleITK only, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.structures import Expected, Structure
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard

# A volume is out of the ordinary beyond the smallest and largest that were learned from, times this.
VOLUME_FACTOR = 1.6
# A place is, if it is further off than this many times what people differ by, and than this many mm.
SPREADS, LEAST_MM = 3.0, 12.0
# If a larger share of the structures than this is out of the ordinary, the result is taken for wrong.
MOST_ODD = 0.3
# Mean probability of the labelled voxels below which the result is taken for wrong: the network guesses.
LEAST_SURE = 0.55
# A structure reaches the image's border with more of its voxels than this.
CUT = 0.002
# Of two sides of one structure, one is larger than the other by less than this.
SIDES_FACTOR = 4.0
# So many findings are named, the worst first.
NAMED = 4
# How the sentence begins that says that a result is wrong; front-ends show it in red.
ALARM = "DO NOT USE THIS RESULT"


@dataclass(frozen=True)
class Found:
    """One structure as it was found: volume, ml; centre of mass, RAS mm; share of its voxels on the image's border."""

    volume_ml: float
    centre_mm: npt.NDArray[np.float64]
    border: float


@dataclass(frozen=True)
class Verdict:
    """Whether a result can be right. odd: what is out of the ordinary, in words, the worst first. notes: what else has
    to be known. wrong: taken all together, it is no result of what the model is for.
    """

    wrong: bool = False
    odd: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def warnings(self, card: SegmentationCard) -> list[str]:
        """What the user reads; [] for a result that nothing speaks against."""
        if not self.wrong:
            return list(self.notes)
        named = "; ".join(self.odd[:NAMED]) + (f"; and {len(self.odd) - NAMED} more" if len(self.odd) > NAMED else "")
        alarm = (
            f"{ALARM}: it cannot be what '{card.name}' ({card.title}) is for ({named}). The image probably shows "
            "another part of the body or another kind of image than the model knows, or its header is wrong (turned or "
            "mirrored). Choose another model, or look at the image."
        )
        return [alarm, *self.notes]


def measure(labels: Volume) -> dict[int, Found]:
    """Every label of a map, as it lies in space; absent ones are left out."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputePerimeterOff()
    statistics.Execute(itk.volume_to_itk(labels))
    return {
        label: Found(
            statistics.GetPhysicalSize(label) / 1000,
            itk.RAS_LPS[:3, :3] @ np.array(statistics.GetCentroid(label)),
            statistics.GetNumberOfPixelsOnBorder(label) / statistics.GetNumberOfPixels(label),
        )
        for label in statistics.GetLabels()
    }


def judge(found: Mapping[int, Found], card: SegmentationCard, sure: Mapping[int, float] | None = None) -> Verdict:
    """Compare what was found, by label, with what the card expects; nothing is odd where it expects nothing.

    sure: mean probability of each label's voxels, where it is known.
    """
    known = [(structure, expected) for structure in card.structures if (expected := structure.expected) is not None]
    if not found:
        nothing = "nothing at all was found"
        return Verdict(any(e.ml[0] > 0 for _, e in known), (nothing,), (f"In this image {nothing}.",))
    if not known:
        return Verdict(notes=tuple(_sides(found, card)))
    shift = _shift(found, known)
    odd: list[tuple[float, str]] = []
    for structure, expected in known:
        one = found.get(structure.label)
        told = (_size(structure, expected, one), _place(structure, expected, one, shift))
        worst = max((each for each in told if each is not None), default=None)
        if worst is not None:
            odd.append(worst)
    texts = [text for _, text in sorted(odd, reverse=True)]
    mean = _mean_probability(found, sure) if sure is not None else 1.0
    if mean < LEAST_SURE:
        texts.insert(0, f"the network is sure of no more than {100 * mean:.0f} % on average")
    cut = [s.name for s, e in known if s.label in found and found[s.label].border > CUT and not e.cut]
    notes = _sides(found, card)
    if cut:
        notes.append(
            f"The image ends inside of {_listed(cut)}: what is cut off is missing in the volumes, and beside the cut "
            "the result is less certain."
        )
    return Verdict(len(odd) > MOST_ODD * len(known) or mean < LEAST_SURE, tuple(texts), tuple(notes))


def _shift(found: Mapping[int, Found], known: Sequence[tuple[Structure, Expected]]) -> npt.NDArray[np.float64]:
    """Where the frame of the expectations lies, (3,) RAS mm: the median over the structures, so that a few that are
    elsewhere do not move it.
    """
    offsets = [found[s.label].centre_mm - np.array(e.centre_mm) for s, e in known if s.label in found]
    middle: npt.NDArray[np.float64] = np.median(offsets, axis=0) if offsets else np.zeros(3)
    return middle


def _mean_probability(found: Mapping[int, Found], sure: Mapping[int, float]) -> float:
    """Over all labelled voxels."""
    seen = [label for label in found if label in sure]
    weights = [found[label].volume_ml for label in seen]
    return float(np.average([sure[label] for label in seen], weights=weights)) if seen else 1.0


def _size(structure: Structure, expected: Expected, found: Found | None) -> tuple[float, str] | None:
    low, high = expected.ml
    if found is None:
        return (math.inf, f"{structure.name} was not found") if low else None
    # What the image cuts off may be as small as it likes.
    whole = found.border <= CUT or expected.cut
    factor = max(low / found.volume_ml if whole else 0.0, found.volume_ml / high)
    if factor <= VOLUME_FACTOR:
        return None
    return factor, f"{structure.name} {_ml(found.volume_ml)}, expected {_ml(low)} to {_ml(high)}"


def _place(
    structure: Structure, expected: Expected, found: Found | None, shift: npt.NDArray[np.float64]
) -> tuple[float, str] | None:
    if found is None or (found.border > CUT and not expected.cut):
        return None
    off = float(np.linalg.norm(found.centre_mm - shift - np.array(expected.centre_mm)))
    most = max(LEAST_MM, SPREADS * expected.spread_mm)
    return (off / most, f"{structure.name} is {off:.0f} mm from its place") if off > most else None


def _sides(found: Mapping[int, Found], card: SegmentationCard) -> list[str]:
    """What is wrong with the two sides of a structure that the card has apart."""
    sides: dict[tuple[str, str], dict[str, Structure]] = {}
    for structure in card.structures:
        terms = structure.terminology
        if terms is not None and terms.modifier is not None:
            sides.setdefault((terms.type.scheme, terms.type.value), {})[terms.modifier.meaning.lower()] = structure
    texts = []
    for pair in sides.values():
        if set(pair) != {"left", "right"} or any(structure.label not in found for structure in pair.values()):
            continue
        right, left = (found[pair[side].label] for side in ("right", "left"))
        names = f"{pair['right'].name} and {pair['left'].name}"
        if right.centre_mm[0] < left.centre_mm[0]:
            texts.append(f"{names} lie on each other's side: the image's header may be mirrored.")
        larger, smaller = max(right.volume_ml, left.volume_ml), min(right.volume_ml, left.volume_ml)
        if larger > SIDES_FACTOR * smaller:
            texts.append(f"{names} differ in size by more than {SIDES_FACTOR:g} to 1: look at both.")
    return texts


def _ml(value: float) -> str:
    return f"{value:.0f} ml" if value >= 10 else f"{value:.1f} ml"


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:NAMED]) + ([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
