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
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.pairs import DATA, OASIS_PAIRS, check_data
from benchmarks.readme import BENCHMARKS, replace_section
from hyperreg.cohort.pair import PairTask, register_pair
from hyperreg.cohort.template import TRANSFORM, TemplateSettings, make_template
from hyperreg.errors import HyperRegError
from hyperreg.execution.executors import Place, mark
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
    """A template of brains: how well their labels lie on each other there, and what it costs."""
    out, fields = output / "template.nii.gz", output / "fields"
    start, before = time.perf_counter(), cpu_seconds()
    make_template(
        [files_of(name)[0] for name in SUBJECTS], out, TemplateSettings(fast=fast, device="cpu"),
        _Here(), fields, lambda fraction, text: typer.echo(f"{fraction:4.0%} {text}", err=True),
    )  # fmt: skip
    spent, wall = cpu_seconds() - before, time.perf_counter() - start
    place = read_volume(out).grid
    transforms = {name: read_transform(fields / f"{name}_T1_brain" / TRANSFORM) for name in SUBJECTS}
    linear = {name: Transform((transform.linear,)) for name, transform in transforms.items()}
    rows = [
        {"method": "HyperReg, linear alone", "dice": overlap(on_template(place, linear))},
        {
            "method": "HyperReg template",
            "dice": overlap(on_template(place, transforms)),
            "cpu_s": spent,
            "wall_s": wall,
        },
    ]
    return [*rows, ants_template()]


class _Here:
    """An executor in this very process, so that its CPU-seconds are all there are."""

    def results(self, work: Any, tasks: Any, progress: Any, cancelled: Any = None) -> Any:
        from hyperreg.execution.processes import results

        return results(work, tasks, 1, progress, cancelled)


def ants_template() -> dict[str, Any]:
    """The same by antspyx' own template, with its defaults."""
    name = "ANTs, build_template and SyN (antspyx)"
    if find_spec("ants") is None:
        return {"method": name, "note": "not installed"}
    import ants

    start, before = time.perf_counter(), cpu_seconds()
    images = [ants.image_read(str(files_of(subject)[0])) for subject in SUBJECTS]
    made = ants.build_template(image_list=images)
    maps = []
    for subject, image in zip(SUBJECTS, images, strict=True):
        found = ants.registration(made, image, "SyN")
        labels = ants.image_read(str(files_of(subject)[1]))
        carried = ants.apply_transforms(made, labels, found["fwdtransforms"], interpolator="nearestNeighbor")
        maps.append(np.rint(carried.numpy()).astype(np.int64))
    spent, wall = cpu_seconds() - before, time.perf_counter() - start
    return {"method": name, "dice": overlap(maps), "cpu_s": spent, "wall_s": wall}


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def tables(found: Mapping[str, Any]) -> str:
    """Markdown of what was measured, and of what follows from it for large cohorts."""
    lines = ["| | pairs | wall s | throughput, ratio | CPU-s a pair | load average |", "|---|---|---|---|---|---|"]
    first: dict[str, Any] = found["throughput"][0]
    for row in found["throughput"]:
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
    lines += ["", "| template of six brains | Dice among subjects | CPU-s | wall s |", "|---|---|---|---|"]
    for row in found.get("template", []):
        if "note" in row:
            lines.append(f"| {row['method']} | {row['note']} | | |")
            continue
        costs = " | ".join(f"{row[name]:.0f}" if name in row else "" for name in ("cpu_s", "wall_s"))
        lines.append(f"| {row['method']} | {row['dice']:.3f} | {costs} |")
    return "\n".join(lines)


def command(
    pairs: Annotated[int, typer.Option(help="Pairs in each place.", min=2)] = 4,
    full: Annotated[bool, typer.Option("--full", help="Full resolution, instead of the quick result.")] = False,
    no_template: Annotated[bool, typer.Option("--no-template", help="Only the pairs.")] = False,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = OUTPUT,
    readme: Annotated[bool, typer.Option(help="Also replace the tables in docs/benchmarks.")] = False,
) -> None:
    """Cohorts and templates on brains (images: beside the repository); what large cohorts would cost."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        check_data()
        found: dict[str, Any] = {"throughput": throughput(pairs, not full, output)}
        if not no_template:
            found["template"] = template(not full, output)
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    (output / "cohort.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = tables(found)
    typer.echo(text)
    if readme:
        replace_section(BENCHMARKS, "cohort", text)
