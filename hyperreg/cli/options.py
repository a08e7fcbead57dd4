"""Arguments and options that several commands have: declared once, so that they mean the same everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hyperreg.errors import InputError

if TYPE_CHECKING:
    from hyperreg.execution.executors import Place
    from hyperreg.imaging.dicom.results import DicomRequest


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Where(str, Enum):
    local = "local"
    ray = "ray"


Fixed = Annotated[
    Path, typer.Argument(metavar="FIXED", help="The image that stays: NIfTI, NRRD, MHA, MGZ or a DICOM folder.")
]
Moving = Annotated[Path, typer.Argument(metavar="MOVING", help="The image that is deformed onto it.")]
FixedLabels = Annotated[
    Path | None, typer.Option("--fixed-labels", help="Label map of FIXED. With --moving-labels, Dice is measured.")
]
MovingLabels = Annotated[Path | None, typer.Option("--moving-labels", help="Label map of MOVING.")]
FixedMask = Annotated[
    Path | None,
    typer.Option(
        "--fixed-mask",
        help="Label map in FIXED's space: 1 counts for the similarity, 0 is left out (a resection, a lesion, metal).",
    ),
]
MovingMask = Annotated[Path | None, typer.Option("--moving-mask", help="The same for MOVING.")]
FixedPoints = Annotated[
    Path | None,
    typer.Option(
        "--fixed-points",
        help="Landmarks of FIXED: a point list of 3D Slicer (.mrk.json, .fcsv), or a table x,y,z in RAS mm (.csv). "
        "With --moving-points, their distance is measured, and --pull brings them together.",
    ),
]
MovingPoints = Annotated[
    Path | None, typer.Option("--moving-points", help="The same landmarks in MOVING, in the same order.")
]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", "--yes", "-y", help="Accept the licence of the model, without being asked."),
]
Initial = Annotated[
    str,
    typer.Option(
        "--init",
        metavar="none|com|rigid|similarity|affine|landmarks|FILE",
        help="What the deformation starts from: the images as they lie (none), centres of mass, a rigid map, one with "
        "a scale, an affine one, the landmarks alone, or the file of any transform from fixed to moving space, linear "
        "(.tfm, .h5, .txt, .mat) or not (also .nii.gz, .nrrd, .mha): λ = 1 shows that start.",
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
Regions = Annotated[
    Path | None,
    typer.Option("--regions", help="Label map in the space of FIXED whose regions get a λ of their own."),
]
RegionLambda = Annotated[
    list[str] | None,
    typer.Option(
        "--region-lambda",
        metavar="LABEL=λ",
        help="λ of one region, for example 3=0.9; as often as needed. The rest of the image keeps --lam.",
    ),
]
OutDicom = Annotated[
    Path | None,
    typer.Option(
        "--out-dicom",
        metavar="FOLDER",
        help="A new folder for the results as DICOM objects, with a report as PDF, CSV and JSON. The images must be "
        "DICOM.",
    ),
]
LeaveOutPatient = Annotated[
    bool,
    typer.Option(
        "--leave-out-patient-data",
        help="With --out-dicom: no names, IDs, dates and descriptions. UIDs stay, so that objects refer to the images.",
    ),
]
DeviceChoice = Annotated[
    Device, typer.Option("--device", help="Where to compute. auto: the GPU if there is one with enough memory.")
]
Executor = Annotated[
    Where,
    typer.Option("--executor", help="local: processes on this machine. ray: a Ray cluster (hyperreg[ray])."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="How many tasks at once; of several GPUs each has one.", show_default="what fits"
    ),
]
Targets = Annotated[
    Path | None,
    typer.Option(
        "--targets",
        help="A folder of images to segment one by one, into the folder --out. Started again, it goes on.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT|auto",
        help="With --executor ray: the cluster, which this machine belongs to.",
        show_default="Ray on this machine, for the while",
    ),
]
Cpus = Annotated[float, typer.Option("--cpus-per-task", min=0.01, help="With ray: CPUs for each task.")]
Memory = Annotated[float, typer.Option("--memory-per-task", min=0.01, help="With ray: memory for each task, GB.")]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-task",
        min=0.0,
        help="With ray: GPUs for each task; 0.25 lets four share one.",
        show_default="1 with --device cuda, else 0",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings and errors only.")]


def dicom_request(folder: Path | None, leave_out_patient: bool) -> DicomRequest | None:
    """What --out-dicom and --leave-out-patient-data ask for. Raises InputError for the second without the first."""
    from hyperreg.imaging.dicom.results import DicomRequest

    if folder is None and leave_out_patient:
        raise InputError("--leave-out-patient-data belongs to --out-dicom, which was not given.")
    return None if folder is None else DicomRequest(folder, leave_out_patient)


def place(
    executor: Where,
    jobs: int | None,
    device: Device,
    address: str | None,
    cpus: float,
    memory: float,
    gpus: float | None,
) -> Place:
    """Where tasks are done, as the options say it."""
    from hyperreg.execution.executors import Place

    return Place(executor.value, jobs, device.value, address, cpus, memory, gpus)


def chosen(gamma: float | None) -> dict[str, float]:
    """The hyperparameters other than λ that were given, by name."""
    return {} if gamma is None else {"gamma": gamma}


def number_or_auto(text: str | None) -> float | Literal["auto"] | None:
    """The value of --lam. Raises InputError if it is neither a number nor "auto"."""
    if text is None:
        return None
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError as error:
        raise InputError(f"λ is a number from 0 to 1 or the word auto, not '{text}'.") from error


def region_lambdas(texts: list[str] | None) -> dict[int, float]:
    """The values of --region-lambda. Raises InputError if one is not LABEL=NUMBER, or a label comes twice."""
    found: dict[int, float] = {}
    for text in texts or ():
        label, _, lam = text.partition("=")
        try:
            key, value = int(label), float(lam)
        except ValueError as error:
            raise InputError(f"'{text}' is not a λ of a region; write for example --region-lambda 3=0.9") from error
        if key in found:
            raise InputError(f"Region {key} was given two values of λ; give it one.")
        found[key] = value
    return found
