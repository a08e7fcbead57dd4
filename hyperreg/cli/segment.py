"""`hyperreg segment`: one case, one model, files out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, messages, output, print_rows, progress_bar, warn
from hyperreg.cli.models import confirm_licence
from hyperreg.errors import InputError

if TYPE_CHECKING:
    from hyperreg.imaging.transform import Matrix
    from hyperreg.imaging.volume import Volume
    from hyperreg.reporting import Cancel, Progress

EXAMPLES = """Examples:

hyperreg segment head.nii.gz --model NAME --out structures.seg.nrrd --report volumes.json

hyperreg segment --targets HEADS --model NAME --out RESULTS

hyperreg segment case_t1c.nii.gz case_t1n.nii.gz case_flair.nii.gz T2=last.nii.gz --model NAME --out tumour.nii.gz
--uncertainty doubt.nii.gz

The segmentation is on the grid of the first INPUT. .seg.nrrd files hold names, colours and codes of the structures and
open in 3D Slicer as a segmentation; other formats hold the label values only, which the report explains."""


@guarded
def command(
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model (see `hyperreg models`).")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT...]",
            help="The images that the model wants (see `hyperreg models`): NIfTI, NRRD, MHA, MGZ or a DICOM folder. "
            "Which is which is told by the files' names, or by NAME=FILE.",
        ),
    ] = None,
    targets: options.Targets = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The segmentation (.seg.nrrd, .nii.gz, .nrrd, .mha, .mgz). With --targets: a folder."
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probabilities of every structure beside --out.")
    ] = False,
    uncertainty: Annotated[
        Path | None,
        typer.Option("--uncertainty", "-u", help="Where the model doubts: entropy from 0 to 1, not calibrated."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="One mask of everything that was found: of a brain, the image without skull."),
    ] = None,
    flips: Annotated[
        bool,
        typer.Option(
            "--flips", help="Average over flipped images, if the model was trained with them: slower, steadier."
        ),
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over all weights of the model, if it has several: slower.")
    ] = False,
    islands: Annotated[
        bool,
        typer.Option("--islands", help="Keep islands (parts far from the rest) that the model's card says to remove."),
    ] = False,
    hyper: Annotated[
        list[str] | None,
        typer.Option("--hyper", metavar="NAME=VALUE", help="A hyperparameter, 0 to 1, if the model declares any."),
    ] = None,
    lam: Annotated[
        float | None,
        typer.Option("--lam", min=0, max=1, help="λ, if the model declares it: short for --hyper lambda=VALUE."),
    ] = None,
    align: Annotated[
        bool,
        typer.Option("--align", help="Align the other images rigidly with the first one; else headers are trusted."),
    ] = False,
    device: options.DeviceChoice = options.Device.auto,
    accept_licence: options.AcceptLicence = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", "-r", help="JSON: volumes and their spread, timing, versions, model SHA256, warnings."
        ),
    ] = None,
    out_dicom: options.OutDicom = None,
    leave_out_patient_data: options.LeaveOutPatient = False,
    executor: options.Executor = options.Where.local,
    jobs: options.Jobs = None,
    address: options.Address = None,
    cpus: options.Cpus = 1.0,
    memory: options.Memory = 3.0,
    gpus: options.Gpus = None,
    quiet: options.Quiet = False,
) -> None:
    """Segment an image (or the several images of one case), or a folder of images, with a model and save the result."""
    from hyperreg.segmentation.plausibility import ALARM
    from hyperreg.segmentation.run import Case, Outputs, segment

    _settle_licence(model, accept_licence)
    values = dict(_value(text) for text in hyper or ())
    if lam is not None:
        values["lambda"] = lam
    case = Case(tuple(images or ()), model, device.value, flips, ensemble, values, islands)
    place = options.place(executor, jobs, device, address, cpus, memory, gpus)
    if targets is not None:
        if images or probabilities or uncertainty or mask or align or report or out_dicom or out is None:
            raise InputError(
                "With --targets, --out names the folder of the results: a label map and a report of each image. INPUT "
                "and other outputs belong to a single case."
            )
        from hyperreg.cohort.segmenting import segment_images

        with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress, place.open() as runner:
            rows = segment_images(targets, case, out, runner, progress, cancelled)
        wrong = [row["target"] for row in rows if row.get("plausible") is False]
        warn([f"{ALARM}: {name}. Its report says why." for name in wrong], ALARM)
        print_rows(rows, quiet)
        return
    if not images:
        raise InputError("Name the image (INPUT...), or a folder of images (--targets).")
    if place.kind == "ray" or jobs is not None or address is not None:
        raise InputError("Jobs and clusters are for the many images of --targets; one case is done here.")
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress:
        dicom = options.dicom_request(out_dicom, leave_out_patient_data)
        outputs = Outputs(out, uncertainty, probabilities, report, mask, dicom)
        result = segment(case, outputs, progress, cancelled, _align if align else None)
    warn(result.warnings, ALARM)
    if not quiet:
        _print_summary(result.report)
    if not result.written:
        messages.print("No output was asked for, so nothing was saved (see --out, --report).")


def _value(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise InputError(f"'{text}' is no hyperparameter; write NAME=VALUE, as in lambda=0.3.") from error


def _settle_licence(model: str, accepted: bool) -> None:
    """Before the first use of a model that was added: show its licence and ask, or take `accepted` for the answer."""
    from hyperreg.segmentation import licences
    from hyperreg.segmentation.catalogue import find_model

    card = find_model(model)
    if licences.is_accepted(card):
        return
    if not accepted:
        if not sys.stdin.isatty():
            raise InputError(
                f"The licence of the model '{model}' ({card.licence}) was not accepted yet. Read it in "
                f"'{card.folder}', and repeat the command with --accept-licence if you accept it."
            )
        confirm_licence(licences.licence_of(card), "nothing was segmented")
    licences.accept(card)


def _align(first: Volume, other: Volume, progress: Progress | None, cancelled: Cancel | None) -> Matrix:
    from hyperreg.registration import linear

    return linear.align(first, other, "rigid", progress, cancelled)


def _print_summary(report: dict[str, Any]) -> None:
    table = Table("label", "structure", "ml", "ml, sure", "ml, doubtful")
    for row in report["structures"]:
        figures = (f"{row[name]:.2f}" for name in ("volume_ml", "volume_sure_ml", "volume_doubtful_ml"))
        table.add_row(str(row["label"]), row["name"], *figures)
    output.print(table, markup=False)
    seconds = report["timing_s"]
    islands = (
        [f"Islands       {report['islands']['removed_ml']:.1f} ml removed"] if report["islands"]["removed"] else []
    )
    lines = [
        f"Model         {report['model']['name']} {report['model']['version']}, {report['steps'][-1]}",
        f"Time          {sum(seconds.values()):.1f} s ({', '.join(f'{n} {s:.1f}' for n, s in seconds.items())})",
        *islands,
        *(f"Saved         {path}" for path in report["outputs"].values()),
    ]
    output.print("\n".join(lines), markup=False)
