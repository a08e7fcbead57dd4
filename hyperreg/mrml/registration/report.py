"""What is told of a live result: the report of module and browser app, as JSON has it and on one page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hyperreg
from hyperreg.errors import InputError
from hyperreg.imaging.output import replacing
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.mrml.registration.results import Origin, Run
from hyperreg.registration.catalogue import ModelCard
from hyperreg.registration.stages import Stage
from hyperreg.worker.live.state import INCOMPLETE, Registration

if TYPE_CHECKING:
    from hyperreg.registration.page import PageImages


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that is told and written of one result, taken at one moment.

    transform: fixed to moving RAS; inverse: moving to fixed RAS; linear: `transform` without the deformation, which is
    `forward`. metrics: of what is shown, or empty. names: of the labels in the metrics, as far as they are known.
    stage: how far the field was improved; settings: what was set besides λ, in words. initial: where it began.
    card: of the model that made it.
    """

    lam: float
    stage: Stage
    settings: str
    fixed: Volume
    moving: Volume
    moving_labels: Volume | None
    transform: Transform
    inverse: Transform
    linear: Transform
    forward: DisplacementField
    metrics: Mapping[str, Any]
    names: Mapping[int, str]
    card: ModelCard
    device: str
    initial: str
    warnings: tuple[str, ...]


def result_of(
    registration: Registration, run: Run, origin: Origin, images: tuple[Volume, Volume, Volume | None]
) -> Result:
    """What is shown of a run. images: fixed, moving and the moving label map, as they lie in the world.

    Raises InputError while no field of exactly this λ is there.
    """
    transform, inverse, live = registration.transform(), registration.inverse_transform(), registration.state
    if live.pair is None or live.shown is None:
        raise InputError(INCOMPLETE)
    return Result(
        lam=live.shown.lam,
        stage=live.pair.stages[live.shown.stage],
        settings=origin.settings,
        fixed=images[0],
        moving=images[1],
        moving_labels=images[2],
        transform=transform,
        inverse=inverse,
        linear=Transform((live.pair.linear,)),
        forward=live.shown.forward,
        metrics=dict(live.metrics),
        names=run.label_names,
        card=run.card,
        device=live.device,
        initial=run.initial,
        warnings=tuple(dict.fromkeys([*live.warnings, *filter(None, [live.worse])])),
    )


def report_of(result: Result, packages: Sequence[str]) -> dict[str, Any]:
    """The report as JSON has it. packages: whose versions are told besides HyperReg's and Python's."""
    metrics = result.metrics
    dice = metrics.get("dice") or {}
    before = metrics.get("dice_before") or {}
    return {
        "lambda": result.lam,
        "stage": result.stage.describe(),
        "settings": result.settings,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fixed": _describe(result.fixed),
        "moving": _describe(result.moving),
        "initial": result.initial,
        "model": result.card.describe(),
        "device": result.device,
        "metrics": {name: _plain(value) for name, value in metrics.items() if not name.startswith("dice")},
        "dice": {
            "labels": {
                str(label): {
                    "name": result.names.get(int(label), f"Label {label}"),
                    "before": _plain(before.get(label)),
                    "after": _plain(dice[label]),
                }
                for label in dice
            },
            "mean_before": _plain(metrics.get("dice_mean_before")),
            "mean_after": _plain(metrics.get("dice_mean")),
        }
        if dice
        else None,
        "versions": {
            "hyperreg": hyperreg.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "warnings": list(result.warnings),
    }


def write_page(result: Result, report: Mapping[str, Any], path: Path) -> None:
    """Write a result on one page, PDF. report: of `report_of`. Raises FileError if it cannot be written."""
    from hyperreg.registration import page

    with replacing(path) as target:
        page.write_page(report, page_images(result), target)


def page_images(result: Result) -> PageImages:
    """What is drawn of a result."""
    from hyperreg.registration.page import PageImages

    names = result.fixed.name, result.moving.name
    return PageImages(result.fixed, result.moving, result.linear, result.transform, result.forward, names)


def _describe(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "shape": list(volume.shape), "ijk_to_ras": volume.ijk_to_ras.tolist()}


def _plain(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if value is None or value != value else float(value)
