"""How good the registrations of a cohort are: CSV for programs, one page of HTML for people; the worst come first."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.cohort.pair import PICTURE, REPORT, Row
from hyperreg.imaging.output import replacing
from hyperreg.sheet import NOT_FOR_DIAGNOSIS

TABLE, STRUCTURES, PAGE = "quality.csv", "dice.csv", "quality.html"
# Folds in more than this share of the voxels put a pair before all that fold less, %.
FOLDED = 0.1
# So many pairs have their pictures in the page: a page of more cannot be opened.
PICTURES = 400

# Column of the page -> its title, and how numbers are written.
SHOWN = {
    "similarity_before": ("Similarity before", "{:.3f}"),
    "similarity": ("after", "{:.3f}"),
    "gain": ("Gain", "{:+.3f}"),
    "dice_before": ("Dice before", "{:.3f}"),
    "dice": ("after", "{:.3f}"),
    "folding_percent": ("Folded, %", "{:.3f}"),
    "displacement_mean_mm": ("Moved, mm: mean", "{:.2f}"),
    "displacement_max_mm": ("most", "{:.1f}"),
    "lambda": ("λ", "{:g}"),
    "seconds": ("Seconds", "{:.0f}"),
}
COLUMNS = (
    "name", "state", "lambda", "similarity_before", "similarity", "gain", "dice_before", "dice", "folding_percent",
    "displacement_mean_mm", "displacement_max_mm", "volume_change_low_percent", "volume_change_high_percent", "seconds",
    "warnings", "error",
)  # fmt: skip

STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{padding:.2em .6em;border-bottom:1px solid #ccc;text-align:right;vertical-align:top}"
    "th{cursor:pointer;position:sticky;top:0;background:#fff}td.words{text-align:left;max-width:34em}"
    ".failed{color:#a00000}img{display:block}"
)
# Sorts by a column when its title is clicked; a second click turns the order round. Cells without a number come last.
SCRIPT = """
document.querySelectorAll("th").forEach((title, column) => title.addEventListener("click", () => {
  const body = document.querySelector("tbody");
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = title.dataset.order = -(title.dataset.order || -1);
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return order * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  });
  body.append(...rows);
}));
"""


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Failed pairs, then those that fold (the most first), then by how little more similar the images became."""

    def place(row: Row) -> tuple[float, float, float, str]:
        if row["state"] == "failed":
            return (0, 0, 0, row["name"])
        folds = row["folding_percent"] if row["folding_percent"] > FOLDED else 0.0
        return (1 if folds else 2, -folds, row["gain"], row["name"])

    return sorted(rows, key=place)


def write_tables(rows: Iterable[Row], folder: Path) -> list[Row]:
    """Write TABLE, STRUCTURES (if label maps were compared) and PAGE into a folder; the rows, worst first.

    Raises FileError.
    """
    ordered = worst_first(rows)
    _write_csv(folder / TABLE, COLUMNS, ordered)
    structures = [
        {"pair": row["name"], "label": label, **figures}
        for row in ordered
        for label, figures in row["structures"].items()
    ]
    if structures:
        _write_csv(folder / STRUCTURES, ("pair", "label", "name", "before", "after"), structures)
    else:  # one of earlier rows would say nothing of these
        (folder / STRUCTURES).unlink(missing_ok=True)
    with replacing(folder / PAGE) as target:
        target.write_text(_page(ordered, folder), encoding="utf-8")
    return ordered


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _page(rows: Sequence[Row], folder: Path) -> str:
    failed = sum(row["state"] == "failed" for row in rows)
    about = f"{len(rows)} pairs, {failed} failed. The worst come first; click a title to sort. "
    about += f"Pictures: the fixed image above, the registered one below. HyperReg {hyperreg.__version__}."
    titles = ["Pair", "", *(title for title, _form in SHOWN.values()), "Remarks"]
    body = "".join(_row(row, folder, pictured=place < PICTURES) for place, row in enumerate(rows))
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Registrations</title>'
        f"<style>{STYLE}</style><h1>Registrations</h1><p>{html.escape(about)} <b>{NOT_FOR_DIAGNOSIS}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><script>{SCRIPT}</script></html>\n"
    )


def _row(row: Row, folder: Path, *, pictured: bool) -> str:
    name = html.escape(row["name"])
    if (folder / row["name"] / REPORT).is_file() and row["state"] != "failed":
        name = f'<a href="{name}/{REPORT}">{name}</a>'
    cells = [f'<td class="words">{name}</td><td>{_picture(folder / row["name"] / PICTURE) if pictured else ""}</td>']
    for column, (_title, form) in SHOWN.items():
        value = row.get(column)
        cells.append("<td></td>" if value is None else f'<td data-value="{value}">{form.format(value)}</td>')
    remarks = html.escape(row["error"] or row["warnings"])
    cells.append(f'<td class="words{" failed" if row["error"] else ""}">{remarks}</td>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _picture(path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
    return f'<img alt="" src="data:image/png;base64,{data}">'
