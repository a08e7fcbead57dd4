"""`python -m benchmarks segmentation`: run the parts, report, publish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.pairs import check_data
from benchmarks.readme import BENCHMARKS, replace_section
from benchmarks.registration.store import load_json, save_json
from benchmarks.segmentation import (
    ablation,
    brains,
    calibration,
    contrasts,
    few_labels,
    head_neck,
    inferer,
    plausibility,
    tumour,
)
from benchmarks.segmentation.published import with_published
from benchmarks.segmentation.report import PARTS, Row, write_report
from hyperreg.errors import HyperRegError
from hyperreg.segmentation.catalogue import find_model, list_models

OUTPUT = Path("build/benchmarks/segmentation")
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "segmentation"
ANATOMY, THICK, TUMOUR = "brain-anatomy", "brain-anatomy-thick", "brain-tumour-experimental"
HEAD_NECK = "head-neck-organs"
SLICES_MM = (1, 3, 5, 7)
# Subjects of the series over slice thickness: it runs every model on each of them several times.
THICK_SUBJECTS = 4

# What a case's name has that a file's name should not have.
FILE_NAME = str.maketrans({" ": "-", ",": "", "/": "-"})

Task = tuple[str, str, str | None, Callable[[], dict[str, Any]]]


def tasks(output: Path, threads: int) -> Iterator[Task]:
    """Part, case, model, and what measures it; the cheap ones first."""
    for subject in (*brains.LOOKED_AT, *brains.SUBJECTS):
        yield "whole", subject, ANATOMY, lambda s=subject: brains.whole(s, ANATOMY, output, threads)
    for subject in brains.HEADS:
        yield "heads", subject, ANATOMY, lambda s=subject: brains.head(s, ANATOMY, output, threads)
    for name, share in inferer.WINDOWS.items():
        subject = brains.SUBJECTS[0]
        yield (
            "inferer", f"{subject}, {name}", ANATOMY,
            lambda s=subject, share=share: inferer.run(s, ANATOMY, share, threads),
        )  # fmt: skip
    yield "contrasts", contrasts.PATIENT, ANATOMY, lambda: contrasts.run(ANATOMY, output, threads)
    for patient in head_neck.PATIENTS:
        for fine in (False, True):
            yield (
                "head-neck", f"{patient}{'-fine' if fine else ''}", HEAD_NECK,
                lambda p=patient, f=fine: head_neck.run(p, HEAD_NECK, output, threads, f),
            )  # fmt: skip
    yield from _believed(threads)
    yield "tumour", "BraTS-GLI-00001", TUMOUR, lambda: tumour.run(TUMOUR, output, threads)
    for subject in brains.SUBJECTS[:THICK_SUBJECTS]:
        for millimetres in SLICES_MM:
            for model in (ANATOMY, THICK):
                yield (
                    "thick", f"{subject}-{millimetres}mm", model,
                    lambda s=subject, mm=millimetres, m=model: brains.thick(s, m, mm, output, threads),
                )  # fmt: skip
    for seed in ablation.SEEDS:
        for name in ablation.VARIANTS:
            folder = output / "trainings" / f"{name.replace(' ', '-')}-{seed}"
            yield "ablation", f"{name}-{seed}", None, lambda n=name, s=seed, f=folder: ablation.train(n, s, f)
    for name, count, seed in few_labels.studies():
        case = f"{name}, {count} patients, seed {seed}"
        folder = output / "trainings" / case.translate(FILE_NAME)
        yield (
            "few-labels", case, None,
            lambda n=name, c=count, s=seed, f=folder: few_labels.train(n, c, s, f),
        )  # fmt: skip


def _believed(threads: int) -> Iterator[Task]:
    """Whether probabilities hold, and whether results that cannot be right are told of."""
    for subject in brains.SUBJECTS:
        yield "calibration", subject, ANATOMY, lambda s=subject: calibration.brain(s, ANATOMY, threads)
    for patient in head_neck.PATIENTS:
        yield "calibration", patient, HEAD_NECK, lambda p=patient: calibration.head_neck(p, HEAD_NECK, threads)
    for model, kinds in plausibility.CASES.items():
        for kind, entries in kinds.items():
            for entry in entries:
                yield (
                    "plausibility", plausibility.named(entry), model,
                    lambda m=model, e=entry, k=kind: plausibility.run(m, e, k),
                )  # fmt: skip


def run(output: Path, threads: int, parts: list[str], models: list[str]) -> list[Row]:
    """Measure what is not there yet: one file per case and version of the model, so a stopped run goes on.

    parts, models: all if none is named. Models that are not installed are left out.
    """
    check_data()
    rows = []
    installed = {card.name for card in list_models()}
    for part, case, model, measure in tasks(output, threads):
        if (parts and part not in parts) or (models and model not in models):
            continue
        if model is not None and model not in installed:
            continue
        version = "training" if model is None else find_model(model).sha256[:12]
        path = output / "results" / f"{part}--{case}--{model or 'none'}--{version}.json".translate(FILE_NAME)
        if not path.exists():
            save_json(path, {"part": part, "case": case, "model": model, "version": version, **measure()})
            typer.echo(f"{part}, {case}, {model or ''}: done", err=True)
        rows.append(load_json(path))
    return rows


def command(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all if not given.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Names of models; all if not given.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the program.")] = 2,
    output: Annotated[Path, typer.Option(help="Folder of the measurements; what is there is kept.")] = OUTPUT,
    publish: Annotated[
        bool, typer.Option("--publish", help="Also copy tables and figure into docs/; what was not measured now stays.")
    ] = False,
    readme: Annotated[bool, typer.Option("--readme", help="Also replace the tables in docs/benchmarks.")] = False,
) -> None:
    """The bundled segmentation models on real images with manual labels: accuracy, time, memory, ablations."""
    unknown = set(part or []) - set(PARTS)
    if unknown:
        raise typer.BadParameter(f"Unknown: {', '.join(sorted(unknown))}. Parts: {', '.join(PARTS)}.")
    output = output.resolve()
    try:
        rows = run(output, threads, part or [], model or [])
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    found = write_report(with_published(rows, PUBLISHED / "results.csv") if publish else rows, output)
    typer.echo("\n\n".join(found.values()))
    if publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        for name in ("README.md", "results.csv", "dice.png", "few-labels.png"):
            if (output / name).exists():
                shutil.copyfile(output / name, PUBLISHED / name)
    if readme:
        for section, table in found.items():
            replace_section(BENCHMARKS, f"segmentation-{section}", table)
