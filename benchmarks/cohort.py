"""`python -m benchmarks cohort`: pairs by one process, two, and Ray; what 100,000 would cost; a template of brains."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.pairs import DATA, OASIS_PAIRS, check_data
from benchmarks.readme import BENCHMARKS, replace_section
from benchmarks.registration.peers import SEED, from_ants, to_ants
from benchmarks.segmentation.measure import THREAD_VARIABLES
from hyperreg.cohort.pair import PairTask, register_pair
from hyperreg.cohort.template import TRANSFORM, TemplateSettings, make_template
from hyperreg.errors import HyperRegError
from hyperreg.execution.executors import LocalExecutor, Place, mark
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Grid
from hyperreg.registration.pairs import Pair
from hyperreg.reporting import Cancel, Progress

OUTPUT = Path("build/benchmarks/cohort")
SUBJECTS = ("1000", "1001", "1002", "1004", "1005", "1006")
PLACES = {
    "one process": Place(jobs=1, device="cpu"),
    "two processes": Place(jobs=2, device="cpu"),
    "Ray on this machine, two workers": Place("ray", jobs=2, device="cpu"),
}
SIZES = (1_000, 100_000)
CORES = (2, 64, 1_000)


def files_of(subject: str) -> tuple[Path, Path]:
    """A subject's image and label map."""
    folder = DATA / "brain_oasis"
    return folder / f"{subject}_T1_brain.nii.gz", folder / f"{subject}_labels.nii.gz"


def measured(task: PairTask, progress: Progress, cancelled: Cancel | None) -> float:
    """Do a pair; the CPU-seconds that this process spent on it."""
    before = time.process_time()
    register_pair(task, progress, cancelled)
    return time.process_time() - before


def throughput(count: int, fast: bool, output: Path) -> list[dict[str, Any]]:
    """The same pairs in every place, one place after the other: wall and CPU seconds, bytes read and written."""
    # Ray's workers import this file.
    os.environ["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)))
    rows = []
    for name, place in PLACES.items():
        if place.kind == "ray" and find_spec("ray") is None:
            rows.append({"place": name, "note": "not installed"})
            continue
        folder = output / "pairs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        word = mark(folder.absolute())
        tasks = []
        for fixed, moving in itertools.islice(itertools.cycle(OASIS_PAIRS), count):
            (image, labels), (other, other_labels) = files_of(fixed), files_of(moving)
            pair = Pair(image, other, labels, other_labels, device="cpu")
            tasks.append(PairTask(f"{len(tasks)}", pair, folder.absolute(), fast=fast, mark=word))
        with place.open() as executor:
            # The first task starts processes and loads libraries; what follows is what a long cohort sees.
            warm = [replace(tasks[n], name=f"warm{n}", fast=True) for n in range(2)]
            list(executor.results(measured, warm, lambda *_told: None))
            start = time.perf_counter()
            cpu = []
            for _task, result in executor.results(measured, tasks, lambda *_told: None):
                if isinstance(result, HyperRegError):
                    raise result
                cpu.append(result)
            wall = time.perf_counter() - start
        read = sum(path.stat().st_size for task in tasks for path in task.pair.files if path is not None)
        written = sum(path.stat().st_size for task in tasks for path in task.place.iterdir())
        rows.append(
            {
                "place": name, "pairs": count, "wall_s": wall, "cpu_s": float(np.mean(cpu)),
                "read_mb": read / count / 1e6, "written_mb": written / count / 1e6, "load": os.getloadavg()[0],
            }
        )  # fmt: skip
        typer.echo(json.dumps(rows[-1]), err=True)
    return rows


def overlap(maps: Sequence[npt.NDArray]) -> float:
    """The mean Dice of structures between all pairs of label maps on one grid."""
    found = []
    for first, second in itertools.combinations(maps, 2):
        sizes, others = (np.bincount(one.ravel(), minlength=256)[1:] for one in (first, second))
        both = np.bincount(first[first == second].ravel(), minlength=256)[1:]
        there = (sizes > 0) & (others > 0)
        found.append(float((2 * both[there] / (sizes + others)[there]).mean()))
    return float(np.mean(found))


def on_template(place: Grid, transforms: Mapping[str, Transform]) -> list[npt.NDArray]:
    """The label maps of subjects on the grid of a template. transforms: template RAS to subject RAS, by subject."""
    return [
        resample(read_label_map(files_of(name)[1]), place, transform, "nearest").array
        for name, transform in transforms.items()
    ]


def template(fast: bool, output: Path) -> list[dict[str, Any]]:
    """A template of brains, ours and antspyx's: how well their labels lie on each other there, and what it costs.

    One thread each; the costs are those of the template and of the maps from it to every subject.
    """
    one_thread()
    out, fields = output / "template.nii.gz", output / "fields"
    start, before = time.perf_counter(), cpu_seconds()
    report = make_template(
        [files_of(name)[0] for name in SUBJECTS], out, TemplateSettings(fast=fast, device="cpu"),
        LocalExecutor(1, "cpu"), fields, lambda fraction, text: typer.echo(f"{fraction:4.0%} {text}", err=True),
    )  # fmt: skip
    spent, wall = cpu_seconds() - before, time.perf_counter() - start
    place = read_volume(out).grid
    transforms = {name: read_transform(fields / f"{name}_T1_brain" / TRANSFORM) for name in SUBJECTS}
    linear = {name: Transform((transform.linear,)) for name, transform in transforms.items()}
    rows: list[dict[str, Any]] = [{"method": "HyperReg, linear alone", "dice": overlap(on_template(place, linear))}]
    rounds = f"{report['settings']['iterations']} rounds{', quick results' if fast else ''}"
    dice = overlap(on_template(place, transforms))
    rows.append({"method": f"HyperReg template ({rounds})", "dice": dice, "cpu_s": spent, "wall_s": wall})
    typer.echo(json.dumps(rows), err=True)
    return [*rows, ants_template()]


def ants_template() -> dict[str, Any]:
    """The same by antspyx' own template, with its defaults: three rounds of SyN, and a last one for the maps."""
    name = "ANTs, build_template (3 rounds) and SyN (antspyx)"
    if find_spec("ants") is None:
        return {"method": name, "note": "not installed"}
    import ants

    volumes = {subject: read_volume(files_of(subject)[0]) for subject in SUBJECTS}
    start, before = time.perf_counter(), cpu_seconds()
    images = {subject: to_ants(volume) for subject, volume in volumes.items()}
    made = ants.build_template(image_list=list(images.values()), random_seed=SEED)
    with TemporaryDirectory() as folder:
        transforms = {}
        for subject, image in images.items():
            found = ants.registration(made, image, "SyN", outprefix=f"{folder}/{subject}", random_seed=SEED)
            transforms[subject] = from_ants(found["fwdtransforms"])
    spent, wall = cpu_seconds() - before, time.perf_counter() - start
    # antspyx' template lies on the grid of the first image.
    dice = overlap(on_template(volumes[SUBJECTS[0]].grid, transforms))
    return {"method": name, "dice": dice, "cpu_s": spent, "wall_s": wall}


def one_thread() -> None:
    """Let this process, and the libraries that it loads from now on, compute in one thread."""
    import SimpleITK as sitk
    import torch

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def pairs_tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of what was measured of pairs, and of what follows from it for large cohorts."""
    lines = ["| | pairs | wall s | throughput, ratio | CPU-s a pair | load average |", "|---|---|---|---|---|---|"]
    first = rows[0]
    for row in rows:
        if "note" in row:
            lines.append(f"| {row['place']} | {row['note']} | | | | |")
            continue
        ratio = first["wall_s"] / first["pairs"] / (row["wall_s"] / row["pairs"])
        figures = f"{row['wall_s']:.0f} | {ratio:.2f} | {row['cpu_s']:.1f} | {row['load']:.1f}"
        lines.append(f"| {row['place']} | {row['pairs']} | {figures} |")
    cores = " | ".join(f"hours on {number:,} cores" for number in CORES)
    lines += ["", f"| pairs | CPU-h | {cores} | read, GB | written, GB |", "|---" * (4 + len(CORES)) + "|"]
    for size in SIZES:
        hours = size * first["cpu_s"] / 3600
        spread = " | ".join(f"{hours / number:,.1f}" for number in CORES)
        moved = " | ".join(f"{size * first[name] / 1e3:.0f}" for name in ("read_mb", "written_mb"))
        lines.append(f"| {size:,} | {hours:,.0f} | {spread} | {moved} |")
    return "\n".join(lines)


def template_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the templates."""
    lines = ["| template of six brains | Dice among subjects | CPU-s | wall s |", "|---|---|---|---|"]
    for row in rows:
        if "note" in row:
            lines.append(f"| {row['method']} | {row['note']} | | |")
            continue
        costs = " | ".join(f"{row[name]:.0f}" if name in row else "" for name in ("cpu_s", "wall_s"))
        lines.append(f"| {row['method']} | {row['dice']:.3f} | {costs} |")
    return "\n".join(lines)


class Part(str, Enum):
    pairs = "pairs"
    template = "template"


def command(
    only: Annotated[Part | None, typer.Option(help="Measure one part alone.", show_default="both")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs in each place.", min=2)] = 4,
    full: Annotated[bool, typer.Option("--full", help="Full resolution, instead of the quick result.")] = False,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = OUTPUT,
    readme: Annotated[bool, typer.Option(help="Also replace the tables in docs/benchmarks.")] = False,
) -> None:
    """Cohorts and templates on brains (images: beside the repository); what large cohorts would cost."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        check_data()
        for part in Part if only is None else [only]:
            rows = throughput(pairs, not full, output) if part == Part.pairs else template(not full, output)
            (output / f"{part.value}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            text = pairs_tables(rows) if part == Part.pairs else template_table(rows)
            typer.echo(text)
            if readme:
                replace_section(BENCHMARKS, f"cohort-{part.value}", text)
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
