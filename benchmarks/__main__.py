"""`python -m benchmarks`: measure the bundled model, print tables, and (--readme) put them into README.md and docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import app_latency, automatic_lambda, cohort, contrasts, gamma_map, hypernetwork, speed
from benchmarks.automl import command as automl
from benchmarks.fusion import command as fusion
from benchmarks.readme import BENCHMARKS, README, replace_section
from benchmarks.registration import command
from benchmarks.registration.report import front_table
from benchmarks.segmentation import command as segmentation
from hyperreg.errors import HyperRegError

# Title, name, goal on a CPU, goal on a GPU, form.
SPEED_ROWS: tuple[tuple[str, str, float | None, float | None, str], ...] = (
    ("Preview: λ changed → three 512×512 views resliced, ms (median)", "preview_three_views_ms", 150, 150, "{:.0f}"),
    ("The same, CPU-ms of all threads", "preview_three_views_cpu_ms", None, None, "{:.0f}"),
    ("Smallest share of a view's pixels that a preview changed, %", "preview_changed_percent", None, None, "{:.0f}"),
    ("First draft at a new λ, s (median)", "draft_field_s", 1.0, None, "{:.2f}"),
    ("The same, CPU-s of all threads", "draft_field_cpu_s", None, None, "{:.2f}"),
    ("Quick result at a new λ, s (median)", "quick_field_s", 1.5, 0.06, "{:.2f}"),
    ("The same, CPU-s of all threads", "quick_field_cpu_s", None, None, "{:.2f}"),
    ("A landmark was dragged: quick result at the shown λ, s (median)", "dragged_landmark_s", 2.0, 0.1, "{:.2f}"),
    ("The same, CPU-s of all threads", "dragged_landmark_cpu_s", None, None, "{:.2f}"),
    ("Quick results of all anchors of the previews, s", "anchors_s", 15.0, 0.5, "{:.1f}"),
    ("Full resolution at a new λ, s", "full_field_s", 12.0, 1.0, "{:.1f}"),
    ("The same, CPU-s of all threads", "full_field_cpu_s", None, None, "{:.1f}"),
    ("A network's field at a new λ, s (median)", "network_field_s", None, None, "{:.2f}"),
    ("The same, CPU-s of all threads", "network_field_cpu_s", None, None, "{:.2f}"),
    ("Hypernetwork over the same backbone with fixed weights, ratio", "hyper_over_fixed", 1.1, 1.1, "{:.3f}"),
    ("Segmentation of the generated head with `brain-anatomy`, s", "segmentation_s", 60.0, 3.0, "{:.1f}"),
    ("The same, CPU-s of all threads", "segmentation_cpu_s", None, None, "{:.1f}"),
    ("Peak memory of the worker, GB", "worker_peak_gb", 4.0, None, "{:.2f}"),
    ("Preview against the quick result, largest mean over λ, mm", "preview_error_quick_mean_mm", 0.1, None, "{:.3f}"),
    ("The same, largest 99th percentile, mm", "preview_error_quick_p99_mm", 0.5, None, "{:.3f}"),
    ("Preview against full resolution, largest mean, mm", "preview_error_full_mean_mm", 0.1, None, "{:.3f}"),
    ("The same, largest 99th percentile, mm", "preview_error_full_p99_mm", 0.5, None, "{:.3f}"),
)

app = typer.Typer(add_completion=False)
app.command("app-latency")(app_latency.command)
app.command("automatic-lambda")(automatic_lambda.command)
app.command("automl")(automl.command)
app.command("cohort")(cohort.command)
app.command("contrasts")(contrasts.command)
app.command("fusion")(fusion.command)
app.command("gamma-map")(gamma_map.command)
app.command("hypernetwork")(hypernetwork.command)
app.command("segmentation")(segmentation.command)


def speed_table(found: dict[str, Any]) -> str:
    """Markdown: a line per goal."""
    load = f", load average {found['load_average']:.1f}" if found["load_average"] is not None else ""
    head = f"| {found['shape']}, {found['device']}, {found['cores']} cores{load} | measured | goal |"
    lines = [head, "|---|---|---|"]
    for title, key, on_cpu, on_gpu, form in SPEED_ROWS:
        goal = on_gpu if found["gpu"] else on_cpu
        if key in found:
            lines.append(f"| {title} | {form.format(found[key])} | {'' if goal is None else f'{goal:g}'} |")
    return "\n".join(lines)


Output = Annotated[Path, typer.Option(help="Folder for the measurements.")]
Readme = Annotated[bool, typer.Option(help="Also replace the tables in README.md and docs/benchmarks.")]


@app.command("speed")
def measure_speed(output: Output = Path("build/benchmarks"), readme: Readme = False, device: str = "auto") -> None:
    """Previews, fields of every stage, memory; on the sample head, previews also on real pairs."""
    found = speed.run(device)
    output.mkdir(parents=True, exist_ok=True)
    (output / "speed.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = speed_table(found)
    typer.echo(table)
    if readme:
        replace_section(BENCHMARKS, "speed", table)


@app.command("registration")
def compare_registration(
    short: Annotated[
        bool, typer.Option("--short", help="Two pairs of development, few methods: about ten minutes.")
    ] = False,
    group: command.Groups = None,
    method: command.Methods = None,
    threads: Annotated[int, typer.Option(help="Threads of every method.")] = 2,
    model: Annotated[str | None, typer.Option(help="Which model; by default the bundled one for the anatomy.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the results; what is there is kept.")] = command.OUTPUT,
    again: Annotated[bool, typer.Option("--again", help="Repeat what ended in an error.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the transforms (70 MB each for the peers).")] = False,
    only_report: Annotated[bool, typer.Option("--only-report", help="Run nothing; tables and figures anew.")] = False,
    resume_published: Annotated[
        bool, typer.Option("--resume-published", help="Take over the rows in docs/ that the output folder lacks.")
    ] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also copy the results into docs/.")] = False,
    readme: Readme = False,
) -> None:
    """HyperReg and other people's registration side by side on real pairs (needs the images beside the repository)."""
    try:
        rows = command.registration(
            short=short, groups=group or [], methods=method or [], threads=threads, model=model, output=output,
            again=again, keep=keep, only_report=only_report, resume_published=resume_published, publish=publish,
        )  # fmt: skip
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(command.tables(rows))
    if readme:
        for section, table in command.readme_tables(rows).items():
            replace_section(BENCHMARKS, section, table)
        replace_section(README, "front", front_table(rows))


if __name__ == "__main__":
    app()
