"""`hyperreg fuse`: label maps, or atlases registered to a target, into one segmentation."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, messages, output, print_rows, progress_bar, warn
from hyperreg.errors import InputError

EXAMPLES = """Examples:

hyperreg fuse --target head.nii.gz --atlases ATLASES --lam 0.3 --out head.seg.nrrd --report head.json

hyperreg fuse --target head.nii.gz --atlases ATLASES --method dp --minutes 3 --out head.seg.nrrd --plot weights.png

hyperreg fuse --labels reader1.nii.gz reader2.nii.gz reader3.nii.gz --method staple --out consensus.nii.gz

hyperreg fuse --targets HEADS --atlases ATLASES --out RESULTS

hyperreg fuse --targets HEADS --atlases ATLASES --out RESULTS --executor ray --address head-node:6379"""


class Fusion(str, Enum):
    vote = "vote"
    staple = "staple"
    local = "local"
    dp = "dp"


@guarded
def command(
    context: typer.Context,
    target: Annotated[Path | None, typer.Option("--target", help="The image to segment by atlases.")] = None,
    targets: options.Targets = None,
    atlases: Annotated[
        Path | None,
        typer.Option(
            "--atlases",
            help="Folder of atlases: NAME_labels.* beside the image NAME*.*, or pairs listed in atlases.csv "
            "(columns image, labels; if wanted name, lambda). labels.csv (label, name) there names the structures.",
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", metavar="FILES...", help="Label maps of one image that lie on each other already."),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="With --labels: structures may overlap (.seg.nrrd with layers, in and out)."),
    ] = False,
    method: Annotated[
        Fusion | None,
        typer.Option(
            "--method",
            "-m",
            help="vote: majority. staple: by estimated sensitivity and specificity. local: by similarity of the "
            "images around each voxel. dp: by data parameters that a network learns (minutes).",
            show_default="local with atlases, vote with --labels",
        ),
    ] = None,
    lam: Annotated[
        float | None,
        typer.Option("--lam", "-l", help="λ of the registrations, 0 to 1.", show_default="the model's"),
    ] = None,
    atlas_lambda: Annotated[
        list[str] | None,
        typer.Option("--atlas-lambda", metavar="NAME=λ", help="λ of one atlas; as often as needed."),
    ] = None,
    model: options.Model = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Improve every registration on its images: better, but slower.")
    ] = False,
    select: Annotated[
        int | None,
        typer.Option("--select", min=1, help="Use only so many atlases: the most similar after the affine alignment."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="1,2,...", help="With --labels and vote: a weight for every label map."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="With dp: small lets the best atlas decide, large makes all alike."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="With dp: steps of learning; fewer give an early answer.",
                     show_default="250"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="With dp: learn so long at most and answer with what is known by then. What was "
                     "learned is kept in the cache: the same command again goes on from there."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The segmentation: .seg.nrrd (with names and colours), .nii.gz... With "
                     "--targets: a folder."),
    ] = None,
    disagreement: Annotated[
        Path | None, typer.Option("--disagreement", help="Image: the share of label maps that differ from it, 0..1.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", "-r", help="JSON: figures of every label map and structure, timing, warnings."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="With dp and one target: an image of the data parameters over the steps, and the "
                     "weights."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Registrations at once; with ray, targets.", show_default="what fits"),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Where registrations are kept for the next time.", show_default="the user's"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no registrations.")] = False,
    executor: options.Executor = options.Where.local,
    address: options.Address = None,
    cpus: options.Cpus = 1.0,
    memory: options.Memory = 3.0,
    gpus: options.Gpus = None,
    device: options.DeviceChoice = options.Device.auto,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Fuse label maps into one segmentation: of several readers, or of atlases registered to a target."""
    from hyperreg.fusion.atlases import AtlasSettings, Loader
    from hyperreg.fusion.cache import default_folder
    from hyperreg.fusion.cohort import fuse_cohort
    from hyperreg.fusion.library import find_atlases
    from hyperreg.fusion.run import Method, Outputs, fuse_maps, fuse_target

    maps = [*(labels or []), *(Path(extra) for extra in context.args)]
    _check_form(target, targets, atlases, maps, context.args, labels)
    several = executor == options.Where.ray
    if (several or address is not None) and targets is None:
        raise InputError("A cluster is for the many images of --targets; one image is done on this machine.")
    # The machines of a cluster share the targets, those of this one's processes the atlases of each target.
    place = options.place(executor, jobs if several else 1, device, address, cpus, memory, gpus)
    chosen = method or (Fusion.vote if maps else Fusion.local)
    how = Method(chosen.value, _numbers(weights), temperature, steps=steps, minutes=minutes)
    settings = AtlasSettings(
        lam, _named(atlas_lambda), model, refine, device.value, select, 1 if several else jobs,
        None if no_cache else cache or default_folder(),
    )  # fmt: skip
    outputs = Outputs(out, disagreement, report, plot)
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress:
        if maps:
            result = fuse_maps(maps, how, outputs, progress, cancelled, layers=layers)
        elif targets is not None and atlases is not None:
            if out is None:
                raise InputError("A cohort needs a folder for its results: give --out.")
            with place.open() as runner:
                rows = fuse_cohort(targets, atlases, settings, how, out, runner, progress, cancelled)
            print_rows(rows, quiet)
            return
        elif target is not None and atlases is not None:
            loader = Loader(find_atlases(atlases))
            result = fuse_target(target, loader, settings, how, outputs, progress, cancelled)
    warn(result.warnings)
    if not quiet:
        _print_summary(result.report)
    if not result.written:
        messages.print("No output was asked for, so nothing was saved (see --out, --report).")


def _check_form(
    target: Path | None,
    targets: Path | None,
    atlases: Path | None,
    maps: list[Path],
    extra: list[str],
    labels: list[Path] | None,
) -> None:
    if extra and not labels:
        raise InputError(f"What is '{extra[0]}'? Label maps follow --labels, images --target.")
    options_given = [word for word in extra if word.startswith("-")]
    if options_given:
        raise InputError(f"There is no option '{options_given[0]}' (see hyperreg fuse --help).")
    forms = [bool(maps), target is not None, targets is not None]
    if sum(forms) != 1 or (maps and atlases) or (not maps and atlases is None):
        raise InputError(
            "Give either --labels with label maps, or --target (one image) or --targets (a folder) together with "
            "--atlases."
        )


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"'{text}' is not a list of numbers; write for example --weights 1,1,2") from error


def _named(texts: list[str] | None) -> dict[str, float]:
    found = {}
    for text in texts or ():
        name, _, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise InputError(f"'{text}' is not a λ of an atlas; write for example --atlas-lambda 1001=0.4") from error
    return found


def _print_summary(report: dict[str, Any]) -> None:
    registered = {row["name"]: row for row in report.get("atlases", [])}
    columns = ["label map", "weight", "sensitivity", "specificity", "Dice with consensus"]
    table = Table(*columns, *(["λ", "similarity"] if registered else []))
    for row in report["label_maps"]:
        figures = [f"{row[name]:.3f}" for name in ("weight", "sensitivity", "specificity", "dice")]
        beside = registered.get(row["name"])
        if beside is not None:
            figures += [f"{beside['lam']:g}", f"{beside['similarity']:.3f}"]
        table.add_row(row["name"], *figures)
    output.print(table, markup=False)
    volumes = Table("label", "structure", "ml", "ml by the label maps: mean", "SD", "minimum", "maximum")
    names = ("volume_ml", "raters_mean_ml", "raters_sd_ml", "raters_minimum_ml", "raters_maximum_ml")
    for row in report["structures"]:
        volumes.add_row(str(row["label"]), row["name"], *(f"{row[name]:.2f}" for name in names))
    output.print(volumes, markup=False)
    seconds = report["timing_s"]
    learned = report.get("data_parameters")
    how = f", NOT LEARNED after {learned['steps']} steps: a majority vote" if learned and learned["alike"] else ""
    lines = [
        f"Method        {report['method']}{how}",
        f"Differing     the label maps differ in {report['disputed_voxels_percent']:.1f} % of the voxels",
        f"Time          {sum(seconds.values()):.1f} s ({', '.join(f'{n} {s:.1f}' for n, s in seconds.items())})",
        *(f"Saved         {path}" for path in report["outputs"].values()),
    ]
    output.print("\n".join(lines), markup=False)
