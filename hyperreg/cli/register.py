"""`hyperreg register`: one pair, one lambda, files out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, messages, output, progress_bar, warn
from hyperreg.errors import InputError

EXAMPLES = """Examples:

hyperreg register fixed.nii.gz moving.nii.gz --lam 0.3 --out-volume warped.nii.gz --out-transform warp.h5

hyperreg register fixed.nii.gz moving.nii.gz --init rigid --fixed-labels fl.nii.gz --moving-labels ml.nii.gz
--out-labels warped-labels.nii.gz --report report.json

hyperreg register fixed.nii.gz moving.nii.gz --regions bones.nii.gz --region-lambda 1=1 --out-volume warped.nii.gz

hyperreg register fixed.nii.gz moving.nii.gz --fixed-points f.mrk.json --moving-points m.mrk.json --pull 0.5
--out-volume warped.nii.gz

hyperreg register first-visit.nii.gz second-visit.nii.gz --init rigid --symmetric --out-jacobian change.nii.gz

hyperreg register fixed.nii.gz moving.nii.gz --rigid vertebrae.seg.nrrd --out-transform warp.h5

hyperreg register fixed.nii.gz moving.nii.gz --lam auto --fast --out-volume warped.nii.gz --report report.json

hyperreg register fixed.nii.gz moving.nii.gz --out-report registration.pdf

hyperreg register FIRST_STUDY SECOND_STUDY#2 --out-dicom registered --leave-out-patient-data

The transform maps points of FIXED to MOVING, as ITK, ANTs and 3D Slicer expect for resampling MOVING onto FIXED.
Outputs are checked for writability first, appear together at the end, and replace older files of the same name."""


class Linear(str, Enum):
    com = "com"
    rigid = "rigid"
    similarity = "similarity"
    affine = "affine"


class Contrast(str, Enum):
    auto = "auto"
    same = "same"
    different = "different"


@guarded
def command(
    fixed: options.Fixed,
    moving: options.Moving,
    lam: Annotated[
        str | None,
        typer.Option(
            "--lam",
            "-l",
            metavar="NUMBER|auto",
            help="λ from 0 (most flexible) to 1 (most rigid). auto: search for it, by the overlap of the label maps if "
            "both are given, else by landmarks, else by the fine detail of the images.",
            show_default="the model's",
        ),
    ] = None,
    out_volume: Annotated[
        Path | None,
        typer.Option("--out-volume", "-o", help="MOVING on the grid of FIXED (.nii.gz, .nrrd, .mha, .mgz)."),
    ] = None,
    out_transform: Annotated[
        Path | None,
        typer.Option(
            "--out-transform", "-t", help="Transform: ITK composite (.h5, .tfm) or displacement field (.nii.gz, .nrrd)."
        ),
    ] = None,
    out_inverse: Annotated[
        Path | None, typer.Option("--out-inverse", help="Inverse transform (moving to fixed space), same formats.")
    ] = None,
    out_jacobian: Annotated[
        Path | None,
        typer.Option(
            "--out-jacobian",
            help="Local change of volume by the deformation on the grid of FIXED: 1 is unchanged, 2 doubled.",
        ),
    ] = None,
    moving_labels: options.MovingLabels = None,
    out_labels: Annotated[
        Path | None, typer.Option("--out-labels", help="The label map of MOVING on the grid of FIXED.")
    ] = None,
    fixed_labels: options.FixedLabels = None,
    fixed_points: options.FixedPoints = None,
    moving_points: options.MovingPoints = None,
    pull: Annotated[
        float,
        typer.Option(
            "--pull",
            metavar="WEIGHT",
            help="How much the landmarks pull at each other: 0, they are only measured, to 1, at the points the images "
            "have no say. They bring the points together at every λ below 1.",
        ),
    ] = 0.0,
    initial: options.Initial = "affine",
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    rigid: Annotated[
        Path | None,
        typer.Option(
            "--rigid",
            metavar="LABELMAP",
            help="Label map in FIXED's space: each of its labels (a vertebra, an implant) moves as one rigid body.",
        ),
    ] = None,
    symmetric: Annotated[
        bool,
        typer.Option(
            "--symmetric",
            help="Prefer neither image: with FIXED and MOVING swapped, the result is the inverse. For follow-up scans; "
            "takes about twice the time.",
        ),
    ] = False,
    model: options.Model = None,
    gamma: options.Gamma = None,
    regions: options.Regions = None,
    region_lambda: options.RegionLambda = None,
    only: Annotated[
        Linear | None,
        typer.Option("--only", help="The linear alignment alone, of this kind, as a linear transform; no deformation."),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Stop at the quick result (voxels twice as long as the images'): seconds instead of about half a "
            "minute on a CPU, a little less exact.",
        ),
    ] = False,
    refine: Annotated[bool, typer.Option("--refine", hidden=True)] = False,
    contrast: Annotated[
        Contrast,
        typer.Option(
            "--contrast",
            help="Whether both images show tissues alike (same) or not (different, such as T1 and T2: the field is "
            "kept smoother). auto: told from the images.",
        ),
    ] = Contrast.auto,
    device: options.DeviceChoice = options.Device.auto,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            "-r",
            help="JSON: Dice, landmarks, folding, displacements, timing, versions, model SHA256, warnings.",
        ),
    ] = None,
    out_report: Annotated[
        Path | None,
        typer.Option(
            "--out-report",
            metavar="PDF",
            help="One page for people: pictures before and after, local volume change, measures, how it was made.",
        ),
    ] = None,
    patient_on_page: Annotated[
        bool,
        typer.Option(
            "--patient-on-page",
            help="With --out-report: the patient's name and ID, series and date, where the images are DICOM. Without "
            "it DICOM images are called by their modality; other files stand there with their names.",
        ),
    ] = False,
    out_dicom: options.OutDicom = None,
    leave_out_patient_data: options.LeaveOutPatient = False,
    quiet: options.Quiet = False,
) -> None:
    """Register MOVING to FIXED at one λ and save the results."""
    from hyperreg.registration.pairs import Pair
    from hyperreg.registration.run import Outputs, register

    if only is not None and initial != "affine":
        raise InputError("The linear alignment alone (--only) is found from the images: leave --init out.")
    pair = Pair(
        fixed, moving, fixed_labels, moving_labels, only.value if only else initial, model, device.value,
        options.chosen(gamma), regions, options.region_lambdas(region_lambda), fixed_points, moving_points,
        contrast.value, fixed_mask, moving_mask, pull, rigid, symmetric,
    )  # fmt: skip
    dicom = options.dicom_request(out_dicom, leave_out_patient_data)
    outputs = Outputs(
        out_volume, out_transform, out_inverse, out_labels, report, out_jacobian, dicom, out_report, patient_on_page
    )  # fmt: skip
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress:
        result = register(
            pair, options.number_or_auto(lam), outputs, progress, cancelled, fast=fast, only_linear=only is not None
        )
    if refine:
        warn(["--refine is no longer needed: every result is at the images' own resolution, unless --fast is given."])
    warn(result.warnings)
    if not quiet:
        _print_summary(result.report)
    if not result.written:
        messages.print("No output was asked for, so nothing was saved (see --out-volume, --out-transform, --report).")


def _print_summary(report: dict[str, Any]) -> None:
    metrics = report["metrics"]
    model = report["model"]
    choice = report["lambda_choice"]
    before = "at the start" if report["deformed_start"] else "after the linear alignment"
    lines = [
        f"λ {report['lambda']:g}, model {model['name']} {model['version']}, on {report['device']}",
        f"Stage         {report['stage']['title']} ({report['stage']['spacing_mm']:.2g} mm)",
        f"Similarity    {metrics['similarity_before']:.4f} {before}, {metrics['similarity']:.4f} now",
        f"Displacement  {metrics['displacement_mean_mm']:.2f} mm mean, {metrics['displacement_max_mm']:.2f} mm at most",
        f"Folding       {metrics['folding_percent']:.4f} % of the voxels",
    ]
    if report["regions"]["lambdas"]:
        own = ", ".join(f"{lam:g} in region {label}" for label, lam in report["regions"]["lambdas"].items())
        lines.insert(1, f"Regions       λ {own}")
    if choice["response"]:
        lines.insert(1, f"Chosen λ      {choice['reason']}")
    if report["contrast"]["note"]:
        lines.insert(2, f"Contrast      {report['contrast']['note']}")
    if dice := report["dice"]:
        lines.append(
            f"Dice          {dice['mean_before']:.4f} {before}, {dice['mean_after']:.4f} now "
            f"(mean over {len(dice['labels'])} labels)"
        )
    for name, title in (("landmarks_mm", "Landmarks    "), ("pulled_mm", "Pulled points")):
        if name in metrics:
            lines.append(f"{title} {metrics[f'{name}_before']:.2f} mm apart {before}, {metrics[name]:.2f} now")
    seconds = {name: value for name, value in report["timing_s"].items() if not isinstance(value, dict)}
    lines.append(
        f"Time          {sum(seconds.values()):.1f} s ({', '.join(f'{n} {s:.1f}' for n, s in seconds.items())})"
    )
    lines.extend(f"Saved         {path}" for path in report["outputs"].values())
    output.print("\n".join(lines), markup=False)
