"""What a panel says of a segmentation, in words for clinicians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperreg.mrml.i18n import tr as _
from hyperreg.mrml.segmentation.borders import Borders
from hyperreg.mrml.segmentation.logic import SegmentationRun
from hyperreg.segmentation.border import RESULT
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.doubt import DoubtfulRegion

# More names than this are no help any more in a sentence.
NAMES_SHOWN = 8
# The slider that moves a border: its ends, and what it does.
ONLY_SURE, ALL_THAT_MAY_BE = _("only what is sure"), _("all that may be")
BORDER_HINT = _(
    "Moves the border of the chosen structure: to the left only what the model is sure of, in the middle its result, "
    "to the right all that may belong to it. Other structures lend what this one takes, and have it back when it "
    "shrinks. Parts changed by hand stay."
)
UNDO_QUESTION = _("The segmentation was edited since. Remove it with everything that was changed in it?")
AGAIN_QUESTION = _(
    "The segmentation was edited since. Segment again, without what was changed in it? Save it first to keep it."
)
MODALITIES = {"MR": _("MRI"), "CT": _("CT"), "any": _("any modality")}


def describe_model(card: SegmentationCard | None) -> str:
    """What the model is for, wants, finds and takes; "" for none."""
    if card is None:
        return ""
    names = _kinds([structure.name for structure in card.structures])
    found = ", ".join(names[:NAMES_SHOWN]) + (_(" and others") if len(names) > NAMES_SHOWN else "")
    lines = [
        card.description,
        _("For {modality}; finds {count}: {names}.").format(
            modality=MODALITIES[card.modality], count=len(card.structures), names=found
        ),
    ]
    seconds = [
        (_("{seconds:.0f} s on a GPU") if device == "cuda" else _("{seconds:.0f} s on a CPU")).format(seconds=value)
        for device, value in card.seconds.items()
    ]
    if seconds:
        lines.append(_("Takes about {seconds} for a whole image.").format(seconds=", ".join(seconds)))
    lines.append(_("Version {version}, licence {licence}.").format(version=card.version, licence=card.licence or "?"))
    return "\n".join(line for line in lines if line)


def _kinds(names: list[str]) -> list[str]:
    """The names, in which a left and a right structure that are called alike are one: "Thalamus (left, right)"."""
    kinds = [name.removeprefix("Left ").removeprefix("Right ").capitalize() for name in names]
    both = _("{structure} (left, right)")
    named = [
        both.format(structure=kind) if kinds.count(kind) > 1 else name for kind, name in zip(kinds, names, strict=True)
    ]
    return list(dict.fromkeys(named))


def recognised(images: Mapping[str, Any], guess: str) -> str:
    """Which image was taken for which input. images: volume nodes by the names of the inputs; {} for none."""
    if not images:
        return _("It cannot be told which image is which. Choose each one yourself.")
    return guess or _("The names of the volumes say which image is which.")


def all_structures(card: SegmentationCard | None) -> str:
    """Every structure, and what to cite: for a tooltip."""
    if card is None:
        return ""
    lines = [_("Structures: {names}").format(names=", ".join(structure.name for structure in card.structures))]
    return "\n".join(lines + ([_("Cite: {citation}").format(citation=card.citation)] if card.citation else []))


def summary(run: SegmentationRun) -> str:
    """What has become of a run that left something in the scene."""
    images = list(dict.fromkeys(row.image for row in run.rows))
    lines = [
        _("'{image}', {model}: {found} of {all} structures found in {seconds:.0f} s.").format(
            image=images[0], model=run.card.title, found=sum(row.volume.volume_ml > 0 for row in run.rows),
            all=len(run.rows), seconds=run.seconds,
        )
        if len(run.cases) == 1
        else _("{done} of {all} volumes segmented with {model} in {seconds:.0f} s.").format(
            done=len(images), all=len(run.cases), model=run.card.title, seconds=run.seconds
        )
    ]  # fmt: skip
    if run.failures:
        lines += [_("Not segmented:"), *run.reasons]
    return "\n".join(lines)


def millilitres(volume: float) -> str:
    """Three digits that count."""
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.1f}" if volume >= 10 else f"{volume:.2f}"


def spread(volume: float, sure: float, doubtful: float) -> str:
    """Volumes in ml, from where the model is sure to where it is doubtful."""
    if volume == doubtful == 0:
        return _("not found")
    return f"{millilitres(sure)} – {millilitres(doubtful)}"


def border(borders: Borders) -> str:
    """The structure whose border can be moved, with its volume; or why none can."""
    if borders.reason or borders.structure is None:
        return borders.reason
    now, result = (millilitres(volume) for volume in borders.volumes_ml)
    words = _("Border of {structure}: {now} ml").format(structure=borders.structure.name, now=now)
    return words + ("" if borders.position == RESULT else _(" ({result} ml in the result)").format(result=result))


def uncertain_region(number: int, regions: list[DoubtfulRegion], inside: str) -> str:
    """Which of the uncertain regions is shown. inside: the structure at its most uncertain place; "" for none."""
    if not regions:
        return _("There is no doubtful region: the model was sure everywhere.")
    region = regions[number]
    words = _("Doubtful region {number} of {count}: {size} ml").format(
        number=number + 1, count=len(regions), size=millilitres(region.volume_ml)
    )
    return words + (_(", in {structure}.").format(structure=inside) if inside else ".")
