"""What a panel says of a fusion, in words for clinicians."""

from __future__ import annotations

from hyperreg.fusion.records import AtlasProgress, Learned
from hyperreg.mrml.fusion.logic import FusionRun
from hyperreg.mrml.i18n import tr as _
from hyperreg.mrml.segmentation.texts import millilitres
from hyperreg.segmentation.doubt import DoubtfulRegion

# How label maps are fused: name -> title, and what it does.
METHODS = {
    "local": (
        _("Local: where images look alike"),
        _("Weighs each atlas, place by place, by how similar its image is there. The best on brains; about a minute."),
    ),
    "vote": (_("Majority vote"), _("The label that most atlases give. Seconds.")),
    "staple": (_("STAPLE"), _("Weighs each atlas by its estimated sensitivity and specificity. Seconds.")),
    "dp": (
        _("Data parameters (learned)"),
        _("A small network learns how good each atlas' labels are. Minutes; for some structures, not all of a brain."),
    ),
}
# What segmentations of the scene can be fused by: the other methods compare images of atlases.
OF_READERS = ("vote", "staple")
# States of an atlas that takes no part.
NOT_USED = ("left out", "not selected")
STATES = {"waiting": _("Waiting"), "cached": _("Registered before"), "done": _("Registered")}


def fused(run: FusionRun) -> str:
    """What has become of a fusion that left something in the scene."""
    lines = []
    for name, result in run.results:
        used = sum(rater.state == "used" for rater in result.raters)
        found = sum(entry.volumes.volume_ml > 0 for entry in result.structures)
        lines.append(
            _("'{image}': {found} structures from {used} of {all} label maps, which differ in {share:.1f} % of voxels; "
              "{seconds:.0f} s.").format(
                image=name, found=found, used=used, all=len(result.raters), share=result.disputed_percent,
                seconds=result.seconds,
            )
        )  # fmt: skip
        lines += [f"{rater.name} ({rater.state}): {rater.reason}" for rater in result.raters if rater.reason]
    if run.failures:
        lines += [_("Not segmented:"), *(f"{name}: {text}" for name, text in run.failures)]
    return "\n".join(lines)


def atlas_state(atlas: AtlasProgress) -> str:
    """How far an atlas is, with the reason if it takes no part."""
    if atlas.state == "left out":
        return _("Left out: {reason}").format(reason=atlas.text)
    if atlas.state == "not selected":
        return _("Not selected: {reason}").format(reason=atlas.text)
    return str(STATES.get(atlas.state, atlas.text))


def early(learned: Learned) -> str:
    """What an early answer is."""
    words = _("Step {steps} of {wanted}: the views show the consensus so far.").format(
        steps=learned.steps, wanted=learned.wanted
    )
    if all(value == 0 for atlas in learned.atlases for value in atlas.history):
        return words + " " + _("All atlases still count alike; their weights come in the next steps.")
    return words + " " + _("It improves; keep it if it is good enough.")


def disagreement(number: int, regions: list[DoubtfulRegion], inside: str) -> str:
    """Which place of disagreement is shown. inside: the structure of the consensus there; "" for none."""
    if not regions:
        return _("The label maps agree everywhere.")
    region = regions[number]
    words = _(
        "Disagreement {number} of {count}: {size} ml, on average {share:.0f} % of the label maps say something else"
    ).format(number=number + 1, count=len(regions), size=millilitres(region.volume_ml), share=100 * region.mean)
    return words + (
        _(" than the consensus: {structure}.").format(structure=inside)
        if inside
        else _(" than the consensus: background.")
    )
