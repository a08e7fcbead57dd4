"""`hyperreg search`: a network, augmentation, learning rate and loss for one's own data."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, output, progress_bar
from hyperreg.errors import InputError

EXAMPLES = """Examples:

hyperreg search --data dataset.json --name my-organs --budget 8h --out runs/search

hyperreg search --data dataset.json --name my-organs --budget 12h --out runs/search --device cuda --jobs 2 --resume

hyperreg search --data dataset.json --name my-organs --budget 8h --out runs/search --executor ray
--address head-node:6379 --memory-per-task 8

The data list is that of the Medical Segmentation Decathlon or of nnU-Net; a case in which not every structure was
contoured says which were: "contoured": [1, 2]. Needs `pip install 'hyperreg[search]'`."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@guarded
def command(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="The data list (JSON), or the folder of its dataset.json.")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the model that comes out.")],
    budget: Annotated[str, typer.Option("--budget", "-b", help="Time in all, over all resumes: 45m, 8h, 2d.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search: trials, report, model.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")] = False,
    rungs: Annotated[
        str, typer.Option(help="Steps after which the better third of the trials goes on.")
    ] = "120,360,1080",
    first: Annotated[int, typer.Option(help="Random configurations to begin with.", min=2)] = 27,
    each: Annotated[int, typer.Option(help="Configurations that the predictor proposes in a round.", min=1)] = 9,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of the predictor at most.", show_default="what the budget allows", min=0)
    ] = None,
    final: Annotated[
        float, typer.Option(help="Share of the budget for training the best one further; 0: none.", min=0, max=0.99)
    ] = 0.25,
    patch: Annotated[str, typer.Option(help="Sides of the patches that trials learn from, voxels.")] = "64,64,64",
    window: Annotated[str, typer.Option(help="Sides of what the model looks at, voxels.")] = "96,96,96",
    batch: Annotated[int, typer.Option(help="Patches in a step.", min=1)] = 2,
    width: Annotated[int, typer.Option(help="Channels at the finest level.", min=2)] = 16,
    spacing: Annotated[
        str | None, typer.Option(help="Voxel size along R, A, S, mm.", show_default="the cases' median")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="Memory of the device that one trial may take, GB.",
            show_default="most of what is free; with ray on CPUs --memory-per-task",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another search.")] = 0,
    add: Annotated[bool, typer.Option("--add/--no-add", help="Put the model into the catalogue.")] = True,
    executor: options.Executor = options.Where.local,
    jobs: options.Jobs = None,
    address: options.Address = None,
    cpus: options.Cpus = 1.0,
    memory_per_task: options.Memory = 3.0,
    gpus: options.Gpus = None,
    device: options.DeviceChoice = options.Device.auto,
    quiet: options.Quiet = False,
) -> None:
    """Search a network, augmentation, learning rate and loss that learn one's own structures well (T-AutoML's way).

    Ends with a trained model, which `hyperreg segment` runs, and a report. Ctrl+C keeps everything for --resume.
    """
    if find_spec("optuna") is None:
        raise InputError("A search needs optuna: `pip install 'hyperreg[search]'`.")
    from hyperreg.automl.search import search
    from hyperreg.automl.settings import SearchSettings
    from hyperreg.automl.trial import TrialSettings
    from hyperreg.catalogue import own_models

    settings = SearchSettings(
        name=name,
        data=data.resolve(),
        budget_s=seconds(budget),
        rungs=whole_numbers(rungs),
        first=first,
        each=each,
        rounds=rounds,
        final=final,
        seed=seed,
        memory_gb=memory,
        spacing_mm=None if spacing is None else three_sizes(spacing),
        trial=TrialSettings(patch=three(patch), window=three(window), batch=batch, width=width),
    )
    place = options.place(executor, jobs, device, address, cpus, memory_per_task, gpus)
    with progress_bar(quiet) as progress, cancel_on_interrupt() as cancelled:
        found = search(settings, out, place, resume, progress, cancelled, own_models() if add else None)
    best = found.best
    output.print(
        f"Best of the search: score {best.score or 0:.3f}, Dice {best.dice or 0:.3f} after {best.steps} steps "
        f"({best.source}).\nThe model '{found.card.name}' is in {found.card.folder}.\nReport: {found.report}",
        markup=False,
    )


def seconds(text: str) -> float:
    """The seconds of 90s, 45m, 8h or 2d. Raises InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if match is None or not float(match[1]):
        raise InputError(f"The budget is a time such as 45m, 8h or 2d, not '{text}'.")
    return float(match[1]) * UNITS[match[2]]


def whole_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list with commas. Raises InputError unless all are whole and above zero."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"'{text}' is no list of whole numbers such as 64,64,64.") from error
    if min(found) < 1:
        raise InputError(f"The numbers of '{text}' are not all above zero.")
    return found


def three(text: str) -> tuple[int, int, int]:
    """Three whole numbers. Raises InputError."""
    found = whole_numbers(text)
    if len(found) != 3:
        raise InputError(f"'{text}' does not give three sides, such as 64,64,64.")
    return found[0], found[1], found[2]


def three_sizes(text: str) -> tuple[float, float, float]:
    """Three sizes in mm. Raises InputError."""
    try:
        i, j, k = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"'{text}' does not give three voxel sizes in mm, such as 1,1,2.5.") from error
    if not min(i, j, k) > 0:
        raise InputError(f"The voxel sizes of '{text}' are not all above zero.")
    return i, j, k
