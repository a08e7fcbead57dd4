"""A MONAI bundle's configuration as a card: read as data, refused where it is not plain or not known."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hyperreg.errors import WeightsError
from hyperreg.segmentation.model import new_card

# Networks that are made, and their settings that may be given; "in_channels" and "out_channels" go without saying.
KNOWN_NETWORKS: dict[str, tuple[str, ...]] = {
    "SegResNet": ("spatial_dims", "init_filters", "dropout_prob", "act", "norm", "num_groups", "use_conv_final",
                  "blocks_down", "blocks_up", "upsample_mode"),
    "SegResNetDS": ("spatial_dims", "init_filters", "act", "norm", "blocks_down", "blocks_up", "dsdepth",
                    "upsample_mode", "resolution"),
    "UNet": ("spatial_dims", "channels", "strides", "kernel_size", "up_kernel_size", "num_res_units", "act", "norm",
             "dropout", "bias", "adn_ordering"),
}  # fmt: skip
MOST_INPUTS, MOST_CHANNELS = 64, 4096
# Steps of preprocessing that change nothing here, or that reading and turning do anyway.
HARMLESS = ("LoadImaged", "EnsureChannelFirstd", "EnsureTyped", "ToTensord", "CastToTyped", "CropForegroundd")
# What BraTS calls the parts that remain when nested regions are painted over each other, largest first.
BRATS = {
    "whole tumor": (2, "Oedema around the tumour"),
    "tumor core": (1, "Tumour core, not enhancing"),
    "enhancing tumor": (4, "Enhancing tumour"),
}
# BraTS's images are stored so, and its bundle does not turn them.
BRATS_AXES = "lps"
# Words in file names for channels that bundles name.
PATTERNS = {
    "t1c": ["t1ce", "t1gd", "t1post", "t1contrast"],
    "t1": ["t1n", "t1w", "t1pre"],
    "t2": ["t2w"],
    "flair": ["t2f", "fla", "t2flair"],
}


def bundle_card(
    metadata: Mapping[str, Any], inference: Mapping[str, Any], fallback: str, licence: str
) -> dict[str, Any]:
    """The card's entries. fallback: its name, if the bundle has none. Raises WeightsError, naming what is not known."""
    data = metadata.get("network_data_format", {})
    image = _first(data, "inputs")
    prediction = _first(data, "outputs")
    network, inputs, channels = plain_network(_resolved(inference.get("network_def"), inference), "network_def")
    name = str(metadata.get("name") or fallback)
    window = plain(_resolved(inference.get("inferer"), inference), "inferer").get("roi_size")
    activation = _activation(inference)
    names = _channel_names(prediction, channels)
    nested = {n.lower() for n in names} == set(BRATS)
    grid = {"axes": BRATS_AXES if nested else "ras", "spacing_mm": [1.0, 1.0, 1.0]}
    intensities: dict[str, Any] = {"method": "none"}
    for step in _transforms(inference, "preprocessing"):
        _preprocess(step, grid, intensities)
    if not isinstance(window, list) or len(window) != 3:
        raise WeightsError("The bundle's inferer has no roi_size of three numbers.")
    references = metadata.get("references", [])
    return new_card(
        re.sub(r"[^\w.-]+", "-", name.strip().lower()),
        _structures(names, activation, nested),
        title=str(metadata.get("task") or name),
        description=str(metadata.get("description", "")),
        version=str(metadata.get("version", "unknown")),
        licence=licence or "not stated",
        citation=str(references[0]) if isinstance(references, list) and references else "",
        modality=image.get("modality") if image.get("modality") in ("MR", "CT") else "any",
        inputs=[_input(n) for n in _channel_names(image, inputs)],
        output={"channels": channels, "activation": activation},
        network=network,
        grid={**grid, "window": [int(n) for n in window], "flips": []},
        intensities=intensities,
        data=str(metadata.get("data_source", "")),
        intended_use=str(metadata.get("intended_use", "")),
        bundle={"version": str(metadata.get("version", "")), "monai_version": str(metadata.get("monai_version", ""))},
    )


def plain_network(definition: Any, place: str) -> tuple[dict[str, Any], int, int]:
    """A card's "network", inputs and channels, of a network that a MONAI configuration defines at `place`.

    Raises WeightsError for one that HyperReg does not know, or settings of it that are code or not known.
    """
    options = plain(definition, place)
    target = str(options.pop("_target_", "")).rsplit(".", 1)[-1]
    if target not in KNOWN_NETWORKS:
        raise WeightsError(
            f"The model's network is '{target}'; HyperReg knows {', '.join(KNOWN_NETWORKS)}. Other code is never run."
        )
    inputs, channels = int(options.pop("in_channels", 1)), int(options.pop("out_channels", 2))
    if not (1 <= inputs <= MOST_INPUTS and 1 <= channels <= MOST_CHANNELS):
        raise WeightsError(
            f"The model's network takes {inputs} images and gives {channels} channels; that is no model."
        )
    unknown = set(options) - set(KNOWN_NETWORKS[target])
    if unknown or options.get("spatial_dims", 3) != 3:
        raise WeightsError(f"The model's {target} has settings that HyperReg does not take: {sorted(unknown)}.")
    return {"name": f"monai_{target.lower()}", "options": options}, inputs, channels


def colours(count: int) -> list[list[int]]:
    """Hues a golden section apart: neighbours differ, however many there are."""
    hues = (colorsys.hsv_to_rgb(index * 0.618 % 1, 0.65, 0.95) for index in range(count))
    return [[round(255 * part) for part in hue] for hue in hues]


def _preprocess(step: Mapping[str, Any], grid: dict[str, Any], intensities: dict[str, Any]) -> None:
    """Take one step of preprocessing into the card."""
    target = str(step.get("_target_", "")).rsplit(".", 1)[-1]
    settings = {key: step[key] for key in step if key not in ("_target_", "keys")}
    if target in HARMLESS:
        return
    settings = plain(settings, target)
    if target == "Orientationd" and isinstance(settings.get("axcodes"), str):
        grid["axes"] = settings["axcodes"].lower()
    elif target == "Spacingd" and isinstance(settings.get("pixdim"), list) and len(settings["pixdim"]) == 3:
        grid["spacing_mm"] = [float(n) for n in settings["pixdim"]]
    elif target == "NormalizeIntensityd" and set(settings) <= {"nonzero", "channel_wise"}:
        intensities["method"] = "nonzero" if settings.get("nonzero") else "standard"
    elif target == "ScaleIntensityRanged" and (settings.get("b_min"), settings.get("b_max")) == (0, 1):
        if not settings.get("clip"):
            raise WeightsError("The bundle scales intensities without clipping them, which HyperReg does not do.")
        intensities.update(method="window", window=[float(settings["a_min"]), float(settings["a_max"])])
    else:
        raise WeightsError(
            f"The bundle prepares images with '{target}' in a way that HyperReg does not know, so its results would be "
            "wrong. It was not added."
        )


def _activation(inference: Mapping[str, Any]) -> str:
    for step in _transforms(inference, "postprocessing"):
        target = str(step.get("_target_", "")).rsplit(".", 1)[-1]
        if target == "Activationsd" and step.get("sigmoid") is True:
            return "sigmoid"
        if (target == "Activationsd" and step.get("softmax") is True) or (
            target == "AsDiscreted" and step.get("argmax") is True
        ):
            return "softmax"
    raise WeightsError("The bundle's postprocessing does not say whether its channels exclude each other.")


def _structures(names: Sequence[str], activation: str, nested: bool) -> list[dict[str, Any]]:
    if nested:
        by_name = {name.lower(): channel for channel, name in enumerate(names)}
        parts = [(label, by_name[name], title) for name, (label, title) in BRATS.items()]
    else:
        first = 1 if activation == "softmax" else 0
        parts = [(n + 1 - first, n, name) for n, name in enumerate(names) if n >= first]
    return [
        {"label": label, "channel": channel, "name": title, "colour": colour}
        for (label, channel, title), colour in zip(parts, colours(len(parts)), strict=True)
    ]


def _input(name: str) -> dict[str, Any]:
    return {"name": name, "title": name, "patterns": PATTERNS.get(name.lower(), [])}


def _channel_names(part: Mapping[str, Any], count: int) -> list[str]:
    names = part.get("channel_def", {})
    found = [str(names.get(str(n), f"channel {n}")) for n in range(count)] if isinstance(names, Mapping) else []
    return found if len(set(found)) == count else [f"channel {n}" for n in range(count)]


def _first(data: Any, key: str) -> Mapping[str, Any]:
    """The only input or output that a bundle's metadata describes."""
    parts = data.get(key, {}) if isinstance(data, Mapping) else {}
    if not isinstance(parts, Mapping) or len(parts) != 1:
        raise WeightsError(f"The bundle's metadata describes no {key}, or several; HyperReg takes bundles with one.")
    part = next(iter(parts.values()))
    return part if isinstance(part, Mapping) else {}


def _transforms(inference: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    part = _resolved(inference.get(key), inference)
    steps = part.get("transforms") if isinstance(part, Mapping) else None
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise WeightsError(f"The bundle's {key} is not a plain list of transforms, so HyperReg cannot do the same.")
    return steps


def _resolved(value: Any, inference: Mapping[str, Any]) -> Any:
    """A reference to another entry ("@name") followed, once."""
    if isinstance(value, str) and re.fullmatch(r"@\w+", value):
        return inference.get(value[1:])
    return value


def plain(value: Any, place: str) -> dict[str, Any]:
    """A JSON object without expressions. Raises WeightsError: expressions are code, which is never evaluated."""

    def check(part: Any) -> None:
        if isinstance(part, str) and part[:1] in ("$", "@", "%"):
            raise WeightsError(
                f"The model's '{place}' holds the expression '{part}'. Expressions are code, which HyperReg never "
                "runs; write plain values instead."
            )
        for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ():
            check(inner)

    if not isinstance(value, Mapping):
        raise WeightsError(f"The model's '{place}' is missing or is no plain description.")
    check(value)
    return dict(value)
