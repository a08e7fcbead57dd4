"""A result on one sheet, for people: key and value as JSON and CSV, and a page with pictures as PDF (matplotlib)."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.orientation import closest_axes, to_closest_ras
from hyperreg.reporting import write_report

if TYPE_CHECKING:
    from hyperreg.imaging.volume import Volume

NOT_FOR_DIAGNOSIS = "For research; not for diagnosis."
PAGE = "report.pdf"
A4_INCHES = (8.27, 11.69)
# Of the page's height: a row of pictures with its title, and a line of text. Letters that fit into a line.
PICTURE_HEIGHT, PICTURE_GAP, LINE_HEIGHT = 0.14, 0.025, 0.0115
LETTERS = 84
VIEWS = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Picture:
    """Grey values of a slice: (rows, columns), upper row first. aspect: height of a pixel over its width.

    overlay: (rows, columns) of whole numbers drawn over it in colours, 0 is clear; None for none.
    """

    title: str
    values: npt.NDArray
    aspect: float
    overlay: npt.NDArray | None = None


@dataclass(frozen=True)
class Sheet:
    """title: of the page. rows: key -> value, in order. pictures: rows of pictures."""

    title: str
    rows: Mapping[str, str | float | int]
    pictures: Sequence[Sequence[Picture]] = field(default_factory=tuple)


def write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    """Write report.json, report.csv and report.pdf into a folder, and return them. Raises OSError if it cannot."""
    page = folder / PAGE
    written = write_rows(sheet.title, sheet.rows, folder)
    _write_page(sheet, page)
    return [*written, page]


def write_rows(title: str, rows: Mapping[str, str | float | int], folder: Path) -> list[Path]:
    """Write report.json and report.csv into a folder, and return them. Raises OSError if it cannot."""
    paths = [folder / f"report.{kind}" for kind in ("json", "csv")]
    rows = {**rows, "Note": NOT_FOR_DIAGNOSIS}
    write_report({"title": title, "values": rows}, paths[0])
    with open(paths[1], "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "value"])
        writer.writerows((key, _text(value)) for key, value in rows.items())
    return paths


def middle_slices(
    volume: Volume, title: str, at: npt.NDArray | None = None, labels: Volume | None = None
) -> list[Picture]:
    """The slices of a volume closest to sagittal, coronal and axial through a voxel, the patient's right on the left.

    at: (3,) voxel indices; the middle by default. labels: on the same grid, drawn over it.
    """
    axes, signs = closest_axes(volume.ijk_to_ras)
    place = np.array(volume.shape) // 2 if at is None else np.asarray(at)
    centre = [
        place[axis] if sign > 0 else volume.shape[axis] - 1 - place[axis]
        for axis, sign in zip(axes, signs, strict=True)
    ]
    spacing = volume.spacing[list(axes)]
    arrays = [to_closest_ras(one.array, volume.ijk_to_ras) for one in (volume, labels) if one is not None]
    found = []
    for across, view in enumerate(VIEWS):
        columns, rows = (axis for axis in range(3) if axis != across)
        # Anterior and superior come first in what is drawn from the upper left corner.
        planes = [np.take(array, int(centre[across]), axis=across)[::-1, ::-1].T for array in arrays]
        aspect = float(spacing[rows] / spacing[columns])
        found.append(Picture(f"{title}, {view}", planes[0], aspect, planes[1] if labels is not None else None))
    return found


def label_centre(labels: npt.NDArray) -> npt.NDArray | None:
    """The voxel in the middle of all labels: (3,); None if there are none."""
    inside = np.argwhere(labels > 0)
    return inside.mean(axis=0).round().astype(int) if len(inside) else None


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write_page(sheet: Sheet, path: Path) -> None:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    page = Figure(figsize=A4_INCHES)
    FigureCanvasPdf(page)
    # A $ in a name begins no formula.
    page.text(0.06, 0.965, sheet.title, size=15, weight="bold")
    page.text(0.06, 0.948, NOT_FOR_DIAGNOSIS, size=9, color="#a00000")
    for row, pictures in enumerate(sheet.pictures):
        for column, picture in enumerate(pictures):
            axes = page.add_axes(
                (0.06 + 0.3 * column, 0.785 - row * (PICTURE_HEIGHT + PICTURE_GAP), 0.28, PICTURE_HEIGHT)
            )
            _draw(axes, picture)
    top = 0.93 - len(sheet.pictures) * (PICTURE_HEIGHT + PICTURE_GAP)
    lines = [(key if first else "", line) for key, value in sheet.rows.items() for first, line in _lines(_text(value))]
    fitting = int((top - 0.02) / LINE_HEIGHT)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], ("...", "The rest is in report.csv.")]
    for index, (key, line) in enumerate(lines, 1):
        page.text(0.06, top - LINE_HEIGHT * index, key[:34], size=7.5, weight="bold", parse_math=False)
        page.text(0.36, top - LINE_HEIGHT * index, line, size=7.5, parse_math=False)
    page.savefig(path, format="pdf", metadata={"Creator": "HyperReg", "Producer": None, "CreationDate": None})


def _lines(text: str) -> list[tuple[bool, str]]:
    """A text as lines that fit, and whether each is the first one."""
    return [(number == 0, line) for number, line in enumerate(textwrap.wrap(text, LETTERS) or [""])]


def _draw(axes: Any, picture: Picture) -> None:
    import matplotlib as mpl

    finite = picture.values[np.isfinite(picture.values)].astype(np.float64)
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1
    axes.imshow(picture.values, cmap="gray", vmin=low, vmax=high, aspect=picture.aspect, interpolation="nearest")
    if picture.overlay is not None:
        shown = np.ma.masked_equal(picture.overlay, 0)
        axes.imshow(
            shown % 20, cmap=mpl.colormaps["tab20"], vmin=0, vmax=19, alpha=0.5, aspect=picture.aspect,
            interpolation="nearest",
        )  # fmt: skip
    axes.set_title(picture.title, size=7, pad=2)
    axes.set_axis_off()
