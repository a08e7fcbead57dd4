"""Arguments and options that several commands have: declared once, so that they mean the same everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Fixed = Annotated[
    Path, typer.Argument(metavar="FIXED", help="The image that stays: NIfTI, NRRD, MHA, MGZ or a DICOM folder.")
]
Moving = Annotated[Path, typer.Argument(metavar="MOVING", help="The image that is deformed onto it.")]
FixedLabels = Annotated[
    Path | None, typer.Option("--fixed-labels", help="Label map of FIXED. With --moving-labels, Dice is measured.")
]
MovingLabels = Annotated[Path | None, typer.Option("--moving-labels", help="Label map of MOVING.")]
Initial = Annotated[
    str,
    typer.Option(
        "--init",
        metavar="none|com|rigid|affine|FILE",
        help="Linear alignment before the deformation: none, centres of mass, rigid, affine, or a transform file "
        "(.tfm, .h5, .txt, .mat) that maps fixed to moving space.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Name of the model (see `hyperreg models`).", show_default="the default one"),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        "--gamma",
        help="γ, for models that declare it: 0 follows the intensities, 1 the anatomical structures.",
        show_default="the model's",
    ),
]
DeviceChoice = Annotated[
    Device, typer.Option("--device", help="Where to compute. auto: the GPU if there is one with enough memory.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and errors only.")]


def chosen(gamma: float | None) -> dict[str, float]:
    """The hyperparameters other than λ that were given, by name."""
    return {} if gamma is None else {"gamma": gamma}
