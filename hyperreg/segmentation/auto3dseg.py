"""Auto3DSeg's models as 3D Slicer's extension MONAIAuto3DSeg distributes them: model.pt and labels.csv, as a card.

model.pt holds a dictionary: "config" (how images are prepared, which network) and "state_dict". It is read as data, and
prepared here as that extension does it. Sources: MONAI's SegResNet template of Auto3DSeg, and the extension's
inference script (github.com/lassoan/SlicerMONAIAuto3DSeg).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperreg.errors import WeightsError
from hyperreg.segmentation.bundle_cards import BRATS_AXES, PATTERNS, colours, plain, plain_network
from hyperreg.segmentation.model import new_card

STATE, LABELS = "model.pt", "labels.csv"

# Its "normalize_mode" -> how grey values are scaled here.
INTENSITIES = {
    "none": "none", "range": "soft_window", "ct": "soft_window", "meanstd": "nonzero", "mri": "nonzero",
    "meanstdtanh": "nonzero_tanh",
}  # fmt: skip
# Its models of brain tumours: the order of the images, and the labels of the nested regions that its channels are.
BRATS_INPUTS = {"T2F": ["flair", "fla", *PATTERNS["flair"]], "T1C": PATTERNS["t1c"], "T1N": PATTERNS["t1"],
                "T2W": ["t2", *PATTERNS["t2"]]}  # fmt: skip
BRATS_LABELS = (2, 1, 3)
PARTS = {"category": "Category", "type": "Type", "modifier": "TypeModifier"}


def card_of(checkpoint: Any, labels: Path, fallback: str, licence: str) -> dict[str, Any]:
    """The card's entries. fallback: the model's name. Raises WeightsError, naming what is not known."""
    config = checkpoint.get("config") if isinstance(checkpoint, Mapping) else None
    if not isinstance(config, Mapping):
        raise WeightsError(f"'{STATE}' holds no 'config': it is no model of Auto3DSeg.")
    network, inputs, channels = plain_network(config.get("network"), "network")
    _use_plain_norm(network["options"])
    sigmoid = bool(config.get("sigmoid", False))
    rows = _labels(labels)
    nested = sigmoid and channels == len(BRATS_LABELS) and set(rows) == set(BRATS_LABELS)
    if sigmoid and not nested:
        raise WeightsError("The model's regions overlap in a way that HyperReg does not know; it was not added.")
    if not nested and (not rows or max(rows) >= channels):
        raise WeightsError(f"'{LABELS}' names label values that the network, with {channels} channels, cannot give.")
    if not nested and not config.get("orientation_ras", False):
        raise WeightsError("The model does not say how its images lie (no orientation_ras): it would find nonsense.")
    method = _intensities(config)
    window = _three(config.get("roi_size"), "roi_size")
    spacing = config.get("resample_resolution")
    order = [(label, channel) for channel, label in enumerate(BRATS_LABELS)] if nested else [(n, n) for n in rows]
    return new_card(
        re.sub(r"[^\w.-]+", "-", fallback.strip().lower()),
        [
            {"label": label, "channel": channel, "colour": colour, **rows[label]}
            for (label, channel), colour in zip(order, colours(len(order)), strict=True)
        ],
        title=fallback,
        description="Model of Auto3DSeg.",
        version="unknown",
        licence=licence or "not stated",
        modality={"ct": "CT", "mri": "MR"}.get(str(config.get("modality", "")).lower(), "any"),
        inputs=_inputs(inputs, nested),
        output={"channels": channels, "activation": "sigmoid" if sigmoid else "softmax"},
        network=network,
        grid={
            "axes": BRATS_AXES if nested and not config.get("orientation_ras", False) else "ras",
            "spacing_mm": [None] * 3 if spacing is None else _three(spacing, "resample_resolution"),
            "window": [int(n) for n in window],
            "flips": [],
        },
        intensities=method,
    )


def _use_plain_norm(options: dict[str, Any]) -> None:
    """Instance norm without NVIDIA's fused kernel, which is on few machines: the same weights."""
    norm = options.get("norm")
    name, *more = norm if isinstance(norm, list | tuple) and norm else [norm]
    if str(name).upper() == "INSTANCE_NVFUSER":
        options["norm"] = ["INSTANCE", *more] if more else "INSTANCE"


def _intensities(config: Mapping[str, Any]) -> dict[str, Any]:
    modes = {str(config.get("normalize_mode", "none")), *map(str, dict(config.get("extra_modalities") or {}).values())}
    if len(modes) > 1 or not modes <= set(INTENSITIES):
        raise WeightsError(
            f"The model prepares images as {', '.join(sorted(modes))}; HyperReg knows one of {', '.join(INTENSITIES)} "
            "for all images. It was not added."
        )
    method = INTENSITIES[modes.pop()]
    if method != "soft_window":
        return {"method": method}
    bounds = config.get("intensity_bounds")
    if not isinstance(bounds, list | tuple) or len(bounds) != 2 or not float(bounds[0]) < float(bounds[1]):
        raise WeightsError("The model's intensity_bounds are not two rising numbers.")
    return {"method": method, "window": [float(n) for n in bounds]}


def _inputs(count: int, nested: bool) -> list[dict[str, Any]]:
    if nested and count == len(BRATS_INPUTS):
        return [{"name": name, "title": name, "patterns": patterns} for name, patterns in BRATS_INPUTS.items()]
    names = ["image"] if count == 1 else [f"image{n + 1}" for n in range(count)]
    return [{"name": name, "title": name} for name in names]


def _three(value: Any, name: str) -> list[float]:
    numbers = plain({name: value}, "config")[name]
    if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(float(n) > 0 for n in numbers):
        raise WeightsError(f"The model's {name} is not three numbers above zero.")
    return [float(n) for n in numbers]


def _labels(path: Path) -> dict[int, dict[str, Any]]:
    """Name and terminology by label value; background left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {
                int(row["LabelValue"]): {"name": row["Name"].replace("_", " ").strip(), **_terminology(row)}
                for row in csv.DictReader(file)
                if int(row["LabelValue"]) > 0
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise WeightsError(f"'{LABELS}' is missing or no table of label values and names: {error!r}") from error


def _terminology(row: Mapping[str, str]) -> dict[str, Any]:
    codes = {part: _code(row, f"SegmentedProperty{column}CodeSequence") for part, column in PARTS.items()}
    if codes["category"] is None or codes["type"] is None:
        return {}
    return {"terminology": {part: code for part, code in codes.items() if code is not None}}


def _code(row: Mapping[str, str], column: str) -> Sequence[str] | None:
    code = [row.get(f"{column}.{part}") or "" for part in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")]
    # These separate the parts of codes in files.
    return [re.sub(r"[~^|]", " ", part) for part in code] if all(code) else None
