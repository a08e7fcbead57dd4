"""What a panel says of a registration, in words for clinicians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperreg.mrml.i18n import tr as _
from hyperreg.registration import contrast
from hyperreg.registration.response import Suggestion
from hyperreg.worker.live.state import LiveState

GIBIBYTE = 1 << 30
# Titles of what can be chosen, by what `RegistrationLogic.register` is told.
ALIGNMENT_TITLES = {
    "affine": _("Affine (recommended)"),
    "similarity": _("Similarity: rigid and one scale"),
    "rigid": _("Rigid"),
    "com": _("Centres of mass"),
    "landmarks": _("Landmarks alone"),
    "none": _("None: already aligned"),
}
DEVICE_TITLES = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("GPU")}
CONTRAST_TITLES = {
    contrast.AUTOMATIC: _("Told from the images"),
    contrast.SAME: _("The same in both images"),
    contrast.DIFFERENT: _("Different (T1 and T2, CT and MRI)"),
}


def lambda_words(lam: float) -> str:
    """What a λ means."""
    if lam < 0.1:
        return _("Most flexible: follows the finest detail; look out for folding")
    if lam < 0.35:
        return _("Flexible: follows single structures")
    if lam < 0.65:
        return _("Balanced: follows larger structures smoothly")
    if lam < 0.9:
        return _("Stiff: follows broad differences of shape only")
    return _("Most rigid: hardly bends; mostly the initial alignment")


def stage_text(live: LiveState) -> str:
    """What the views show; "" before the first field."""
    if live.shown is None:
        return ""
    if not live.is_at_lambda:
        # At one end of the slider no field is known yet: the picture has the nearest λ that has one.
        return f"Shows λ = {live.shown.lam:.2f} until λ = {live.lam:.2f} is computed"
    return live.shown.title


def state_text(live: LiveState) -> str:
    """What the views show, in a sentence with its λ."""
    if live.shown is None:
        return _("The first result is being computed.")
    stage = stage_text(live)
    return _("λ = {lam:.2f}: {stage}").format(lam=live.lam, stage=stage) if live.is_at_lambda else f"{stage}."


def work_text(live: LiveState) -> str:
    """What is being computed; "" for nothing."""
    return "" if live.work is None else f"{live.work.stage.text} at λ = {live.work.lam:.2f}"


def unmeasured(before: str, lam: float) -> str:
    """Stands where metrics of another λ or result stood, in as many lines: what is below does not jump."""
    if not before:
        return ""
    return _("At λ = {lam:.2f}: not measured yet").format(lam=lam) + "\n " * before.count("\n")


def metrics_text(metrics: Mapping[str, Any], lam: float) -> str:
    """The metrics of one λ, a line each."""
    lines = [
        _("At λ = {lam:.2f}: similarity {before:.3f} before, {after:.3f} now").format(
            lam=lam, before=metrics["similarity_before"], after=metrics["similarity"]
        ),
        _("Moves up to {largest:.1f} mm ({mean:.1f} mm on average); {folding}").format(
            largest=metrics["displacement_max_mm"],
            mean=metrics["displacement_mean_mm"],
            folding=_folding(metrics["folding_percent"]),
        ),
    ]
    if "volume_change_low_percent" in metrics:
        lines.append(
            _("Local volume changes by {low:+.0f} % to {high:+.0f} % in 9 of 10 places").format(
                low=metrics["volume_change_low_percent"], high=metrics["volume_change_high_percent"]
            )
        )
    if metrics.get("dice"):
        lines.append(
            _("Overlap of label maps (Dice): {before:.3f} before, {after:.3f} now").format(
                before=metrics["dice_mean_before"], after=metrics["dice_mean"]
            )
        )
    if distance := landmarks_text(metrics):
        lines.append(distance)
    return "\n".join(lines)


def landmarks_text(metrics: Mapping[str, Any]) -> str:
    """The distance of the landmarks; "" if there are none."""
    titles = {
        "landmarks_mm": _("Distance of landmarks: {before:.2f} mm before, {after:.2f} mm now"),
        "pulled_mm": _("Distance of landmarks that pull: {before:.2f} mm before, {after:.2f} mm now"),
    }
    return "\n".join(
        title.format(before=metrics[f"{name}_before"], after=metrics[name])
        for name, title in titles.items()
        if name in metrics
    )


def overlap_text(metrics: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """The overlap of every label, by its name; "" if there are no label maps."""
    dice = metrics.get("dice") or {}
    rows = sorted(dice.items(), key=lambda item: int(item[0]))
    called = {label: names.get(int(label)) or _("Label {label}").format(label=label) for label in dice}
    return "\n".join(f"{called[label]}: {value:.3f}" for label, value in rows)


def suggestion_text(suggestion: Suggestion | None) -> str:
    """Why a λ is suggested; what it waits for if there is none yet."""
    if suggestion is None:
        return _("A λ is suggested once the curve is complete. You can move λ meanwhile.")
    return suggestion.reason


def gpu_text(devices: Sequence[Mapping[str, Any]]) -> str:
    """The choice "GPU" with its name and memory, from the worker's list of devices."""
    cards = [device for device in devices if device["name"] != "cpu"]
    if not cards:
        return _("GPU (none found)")
    card = cards[0]
    return _("GPU: {title}, {free:.1f} of {total:.1f} GB free").format(
        title=card["title"], free=card["free_bytes"] / GIBIBYTE, total=card["total_bytes"] / GIBIBYTE
    )


def cpu_text(devices: Sequence[Mapping[str, Any]]) -> str:
    """The choice "CPU" with its cores and memory."""
    device = next(device for device in devices if device["name"] == "cpu")
    if device["free_bytes"] is None:
        return str(device["title"])
    return _("{title}, {free:.1f} GB free").format(title=device["title"], free=device["free_bytes"] / GIBIBYTE)


def _folding(percent: float) -> str:
    if percent == 0:
        return _("no folding")
    amount = f"{percent:.2g} %" if percent >= 0.01 else _("less than 0.01 %")
    return _("folding in {amount} of the voxels").format(amount=amount)
