"""`python -m benchmarks`: measure the bundled model, print tables, and (--readme) put them into README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import quality, speed
from hyperreg.registration.catalogue import default_model, find_model

README = Path(__file__).resolve().parents[1] / "README.md"
SPEED_ROWS = (
    ("Preview: λ changed → three 512×512 views resliced, ms (median)", "preview_three_views_ms", 150.0, "{:.0f}"),
    ("Exact field at a new λ, s (median)", "exact_field_s", 4.0, "{:.2f}"),
    ("Hypernetwork over the same backbone with fixed weights, ratio", "hyper_over_fixed", 1.1, "{:.3f}"),
    ("Peak memory of the worker, GB", "worker_peak_gb", 4.0, "{:.2f}"),
    ("Preview against exact field, largest mean over λ, mm", "preview_error_mean_mm", 0.1, "{:.3f}"),
    ("Preview against exact field, largest 99th percentile over λ, mm", "preview_error_p99_mm", 0.5, "{:.3f}"),
)

app = typer.Typer(add_completion=False)


def quality_table(rows: list[dict[str, float | None]]) -> str:
    """Markdown: a line per lambda."""
    lines = [
        "| λ | Dice | folded voxels, % | roughness | similarity | lung landmarks, mm |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = "linear alignment only" if row["lam"] is None else f"{row['lam']:g}"
        lines.append(
            f"| {name} | {row['dice']:.3f} | {row['folding_percent']:.4f} | {row['roughness']:.4f} "
            f"| {row['similarity']:.3f} | {row['tre_mm']:.2f} |"
        )
    return "\n".join(lines)


def speed_table(found: dict[str, Any]) -> str:
    """Markdown: a line per goal."""
    head = f"| {found['shape']}, {found['device']}, {found['cores']} cores | measured | goal |"
    lines = [head, "|---|---|---|"]
    for title, key, goal, form in SPEED_ROWS:
        if key in found:
            lines.append(f"| {title} | {form.format(found[key])} | {goal:g} |")
    return "\n".join(lines)


def put_into_readme(section: str, text: str, model: str) -> None:
    """Replace one table between its own markers, in README.md and in the model's own README."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    for path in (README, find_model(model).folder / "README.md"):
        before, rest = path.read_text(encoding="utf-8").split(begin)
        after = rest.split(end)[1]
        path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


Model = Annotated[str | None, typer.Option(help="Which model; the default one if not given.")]
Output = Annotated[Path, typer.Option(help="Folder for the measurements.")]
Readme = Annotated[bool, typer.Option(help="Also replace the table in README.md and in the model's README.")]


@app.command("speed")
def measure_speed(
    model: Model = None, output: Output = Path("build/benchmarks"), readme: Readme = False, device: str = "auto"
) -> None:
    """Preview, exact field, memory; on the sample head, previews also on real pairs."""
    model = model or default_model()
    found = speed.run(model, device)
    output.mkdir(parents=True, exist_ok=True)
    (output / "speed.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = speed_table(found)
    typer.echo(table)
    if readme:
        put_into_readme("speed", table, model)


@app.command("quality")
def measure_quality(
    model: Model = None, output: Output = Path("build/benchmarks"), readme: Readme = False, pairs: int = 5
) -> None:
    """Dice, landmarks, folding and smoothness over λ on real pairs (needs the images beside the repository)."""
    model = model or default_model()
    table = quality_table(quality.summarise(quality.run(model, output, pairs)))
    typer.echo(table)
    if readme:
        put_into_readme("quality", table, model)


if __name__ == "__main__":
    app()
