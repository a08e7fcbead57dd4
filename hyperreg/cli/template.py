"""`hyperreg template`: the mean of a population, in shape and grey values; and the way from it to every subject."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, output, progress_bar, warn

EXAMPLES = """Examples:

hyperreg template heads/*.nii.gz --out template.nii.gz

hyperreg template heads/*.nii.gz --out template.nii.gz --out-dir FIELDS --iterations 5 --lam 0.2

hyperreg template heads/*.nii.gz --out template.nii.gz --fast --executor ray --address head-node:6379

Started again after it was stopped, the same command goes on where it was."""


@guarded
def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="One image of each subject, at least two.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The template (.nii.gz, .nrrd, .mha, .mgz).")],
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            metavar="FIELDS",
            help="A folder for each subject's transform, its inverse, and the logarithm of its local volume.",
        ),
    ] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Rounds of registration and averaging.")] = 4,
    lam: Annotated[
        float | None, typer.Option("--lam", "-l", help="λ of the registrations, 0 to 1.", show_default="the model's")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="The last round, too, stops at the quick result, as those before it do.")
    ] = False,
    initial: Annotated[
        str,
        typer.Option(
            "--init", metavar="affine|rigid|none", help="How subjects are aligned first. rigid keeps their sizes."
        ),
    ] = "affine",
    spacing: Annotated[
        float | None, typer.Option("--spacing", help="Of the template's voxels, mm.", show_default="the median")
    ] = None,
    model: options.Model = None,
    executor: options.Executor = options.Where.local,
    jobs: options.Jobs = None,
    address: options.Address = None,
    cpus: options.Cpus = 1.0,
    memory: options.Memory = 3.0,
    gpus: options.Gpus = None,
    device: options.DeviceChoice = options.Device.auto,
    quiet: options.Quiet = False,
) -> None:
    """Make an unbiased template of a population: its mean shape, with the mean of the grey values."""
    from hyperreg.cohort.template import TemplateSettings, make_template

    settings = TemplateSettings(iterations, lam, fast, initial, spacing, model, device.value)
    place = options.place(executor, jobs, device, address, cpus, memory, gpus)
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress, place.open() as runner:
        report = make_template(images, out, settings, runner, out_dir, progress, cancelled)
    warn(report["warnings"])
    if quiet:
        return
    shape, changes = report["shape"], report["changed_percent"]
    lines = [
        f"Template      {len(report['subjects'])} subjects, λ {report['settings']['lam']:g}",
        f"Grid          {' x '.join(map(str, shape))} voxels of {report['spacing_mm']:.2g} mm",
        f"Rounds        changed it by {', '.join(f'{value:.1f}' for value in changes)} % of its grey values",
        f"Time          {sum(report['timing_s'].values()):.1f} s",
        f"Saved         {out}",
    ]
    if out_dir is not None:
        lines.append(f"Saved         {out_dir}")
    output.print("\n".join(lines), markup=False)
