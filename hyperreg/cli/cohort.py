"""`hyperreg cohort`: many pairs, on this machine or on many; a table of how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli import options
from hyperreg.cli.console import ExitCode, cancel_on_interrupt, guarded, messages, output, progress_bar
from hyperreg.errors import InputError

EXAMPLES = """Examples:

hyperreg cohort pairs.csv --out RESULTS

hyperreg cohort --fixed template.nii.gz --moving HEADS --fast --lam 0.3 --out RESULTS

hyperreg cohort --all-to-all HEADS --keep transform --out RESULTS --executor ray --address head-node:6379

pairs.csv: fixed,moving,name,fixed_labels,moving_labels (the last three as needed); paths count from its folder.
Started again, the same command does only what is missing. RESULTS/quality.html shows the worst pairs first."""

# So many failed pairs are named on the terminal; the table has all.
NAMED = 10


@guarded
def command(
    pairs: Annotated[Path | None, typer.Argument(metavar="[PAIRS.csv]", help="The list of pairs.")] = None,
    fixed: Annotated[Path | None, typer.Option("--fixed", help="One fixed image, for all of --moving.")] = None,
    moving: Annotated[
        Path | None, typer.Option("--moving", metavar="FOLDER", help="The images that are registered to --fixed.")
    ] = None,
    all_to_all: Annotated[
        Path | None, typer.Option("--all-to-all", metavar="FOLDER", help="Each image of a folder to each other one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder for results: one folder a pair.")] = None,
    lam: Annotated[
        str | None,
        typer.Option(
            "--lam", "-l", metavar="NUMBER|auto", help="λ, 0 to 1; auto: searched for each pair.",
            show_default="the model's",
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Stop at the quick result: half the time or less.")] = False,
    keep: Annotated[
        str,
        typer.Option("--keep", help="What is written of each pair: volume, transform, labels, inverse, jacobian."),
    ] = "volume,transform,labels",
    fixed_labels: options.FixedLabels = None,
    initial: options.Initial = "affine",
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Prefer neither image of a pair.")] = False,
    model: options.Model = None,
    gamma: options.Gamma = None,
    executor: options.Executor = options.Where.local,
    jobs: options.Jobs = None,
    address: options.Address = None,
    cpus: options.Cpus = 1.0,
    memory: options.Memory = 3.0,
    gpus: options.Gpus = None,
    device: options.DeviceChoice = options.Device.auto,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Register many pairs, resumable, on one machine or many, and make a table of their quality."""
    from hyperreg.cohort import listing
    from hyperreg.cohort.pair import RESULTS, PairTask
    from hyperreg.cohort.run import run_cohort
    from hyperreg.cohort.tables import PAGE
    from hyperreg.registration.pairs import Pair
    from hyperreg.registration.start import ALIGNMENTS

    if out is None:
        raise InputError("A cohort needs a folder for its results: give --out.")
    wanted = tuple(part.strip() for part in keep.split(",") if part.strip())
    if unknown := [name for name in wanted if name not in RESULTS]:
        raise InputError(f"--keep knows {', '.join(RESULTS)}, not '{unknown[0]}'.")
    if pairs is not None and fixed is None and moving is None and all_to_all is None:
        listed = listing.from_table(pairs)
    elif fixed is not None and moving is not None and pairs is None and all_to_all is None:
        listed = listing.one_to_many(fixed, moving, fixed_labels)
    elif all_to_all is not None and pairs is None and fixed is None and moving is None:
        listed = listing.all_to_all(all_to_all)
    else:
        raise InputError("Give either a list of pairs, or --fixed and --moving, or --all-to-all.")
    if fixed_labels is not None and fixed is None:
        raise InputError("--fixed-labels belongs to --fixed; a list of pairs has a column for label maps.")
    # Where else a task may run, this machine's working folder means nothing.
    where = out.absolute()
    number = options.number_or_auto(lam)
    start = initial if initial in ALIGNMENTS else str(Path(initial).absolute())
    tasks = [
        PairTask(
            one.name,
            Pair(
                one.fixed.absolute(), one.moving.absolute(), _absolute(one.fixed_labels), _absolute(one.moving_labels),
                start, model, device.value,
                options.chosen(gamma), symmetric=symmetric,
            ),
            where, number, fast, wanted,
        )
        for one in listed
        if not one.problem
    ]  # fmt: skip
    problems = {one.name: one.problem for one in listed if one.problem}
    place = options.place(executor, jobs, device, address, cpus, memory, gpus)
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress, place.open() as runner:
        rows = run_cohort(tasks, problems, where, runner, progress, cancelled)
    failed = [row for row in rows if row["state"] == "failed"]
    for row in failed[:NAMED]:
        messages.print(f"hyperreg: {row['name']}: {row['error']}", style="red", markup=False)
    if len(failed) > NAMED:
        messages.print(f"hyperreg: and {len(failed) - NAMED} others, see the table.", style="red", markup=False)
    if not quiet:
        output.print(f"{len(rows) - len(failed)} of {len(rows)} pairs done. Table: {out / PAGE}", markup=False)
    if failed:
        raise typer.Exit(ExitCode.OTHER)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
