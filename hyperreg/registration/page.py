"""A registration on one page for people: pictures before and after, measures, and how it was made, as PDF (matplotlib).

All figures on the page are those of the JSON report that it is drawn from.
"""

from __future__ import annotations

import bisect
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.dicom import is_dicom_source
from hyperreg.imaging.dicom.identity import sources_of
from hyperreg.imaging.dicom.results import about_series, series_of
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.orientation import closest_axes, to_closest_ras
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.measures import metric_rows
from hyperreg.registration.volume_change import LEAST, MOST, STOPS, TICKS, strength, volume_change
from hyperreg.sheet import A4_INCHES, NOT_FOR_DIAGNOSIS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.text import Text

PDF = ".pdf"
ALIGNED, REGISTERED = "Moving, aligned linearly", "Moving, registered"
# Of the page's width and height: its margin, and where the pictures end. Three rows and up to four columns of them.
MARGIN, GAP = 0.06, 0.008
PICTURES_TOP, PICTURES_BOTTOM = 0.862, 0.427
# The text below: the height of a line, and where the right column begins.
LINE, RIGHT = 0.0135, 0.53
TEXT_TOP, TEXT_BOTTOM = 0.375, 0.045
SIZE, SMALL = 7.5, 6.5
# Letters that fit into a line of the warnings, and of the right column's values.
WIDE, NARROW = 145, 46
# Grey values between these percentiles of the body are told apart.
WINDOW = (1.0, 99.0)
# How much more than the body is shown; lengths of the bar, and the largest share of a picture's width that it takes.
AROUND = 1.08
BARS_MM, BAR_SHARE = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), 0.3
# View, the array axis across it, and the letters at its left and upper edge: the patient's right is on the left.
VIEWS = (("Axial", 2, "R", "A"), ("Coronal", 1, "R", "S"), ("Sagittal", 0, "A", "S"))


@dataclass(frozen=True, eq=False)
class PageImages:
    """What is drawn. before: fixed RAS to moving RAS without the deformation; after: with it.

    forward: the deformation alone, for the map of local volume change; None for a linear alignment. titles: of the
    columns "before" and "after". names: of both images, as they may stand on the page.
    """

    fixed: Volume
    moving: Volume
    before: Transform
    after: Transform
    forward: DisplacementField | None
    names: tuple[str, str] = ("", "")
    titles: tuple[str, str] = (ALIGNED, REGISTERED)


def write_page(
    report: Mapping[str, Any], images: PageImages, path: Path, patient: Mapping[str, str] | None = None
) -> None:
    """Write the page as PDF. report: as the command line or the browser app writes it as JSON.

    patient: what the images' headers say of the patient, by "Fixed" and "Moving", if that is wanted. Raises OSError if
    it cannot.
    """
    from matplotlib import rc_context

    # Real letters, so that the text can be searched and copied. The date is the report's, so that the same is the same.
    with rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font has not
        page = draw_page(report, images, patient or {})
        page.savefig(path, format="pdf", metadata={"Creator": "HyperReg", "Producer": None, "CreationDate": None})


def names_of(fixed: Path, moving: Path) -> tuple[str, str]:
    """What two images may be called on the page: files by their names, DICOM by its modality.

    Folders and files of DICOM are often called after the patient, and so are descriptions of series.
    """

    def name(path: Path) -> str:
        return f"DICOM {series_of(path).modality}".strip() if is_dicom_source(path) else path.name

    return name(fixed), name(moving)


def without_names(texts: Sequence[str], fixed: Path, moving: Path) -> list[str]:
    """Warnings without those that name the file or a folder of a DICOM image; only their number is told."""
    parts = {part for path in (fixed, moving) if is_dicom_source(path) for part in path.resolve().parts[1:]}
    told = [text for text in texts if not any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in parts)]
    left_out = len(texts) - len(told)
    return [*told, f"{left_out} more that may name a patient: see the program's messages."] if left_out else told


def patient_of(fixed: Path, moving: Path) -> dict[str, str]:
    """What the DICOM headers of two images say of patient, series and date, by "Fixed" and "Moving"; {} without any."""
    found = {}
    for role, path in (("Fixed", fixed), ("Moving", moving)):
        if is_dicom_source(path):
            found[role] = in_words(about_series(sources_of(series_of(path))[0], role))
    return found


def in_words(facts: Mapping[str, str]) -> str:
    """What `about_series` found, in one line."""
    return "; ".join(f"{key.partition(': ')[2]} {value}" for key, value in facts.items())


def draw_page(report: Mapping[str, Any], images: PageImages, patient: Mapping[str, str]) -> Figure:
    """The page as a figure; see `write_page`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=A4_INCHES)
    FigureCanvasAgg(page)  # by which texts are measured
    _write(page, MARGIN, 0.958, "HyperReg: registration of two images", size=15, weight="bold")
    _write(
        page,
        MARGIN,
        0.942,
        f"{NOT_FOR_DIAGNOSIS} Made {report['created'][:16].replace('T', ' ')} UTC.",
        size=8.5,
        color="#a00000",
    )
    y = 0.922
    for role, name, volume in zip(("Fixed", "Moving"), images.names, (images.fixed, images.moving), strict=True):
        _write(page, MARGIN, y, role, size=8.5, weight="bold")
        _write(page, 0.135, y, name or describe(volume), until=0.57, size=8.5)
        if name:
            _write(page, 0.58, y, describe(volume), size=8.5)
        y -= 0.0135
        if patient.get(role):
            _write(page, 0.135, y, patient[role], size=8.5)
            y -= 0.0135
    _draw_pictures(page, images)
    _write_text(page, report)
    return page


def describe(volume: Volume) -> str:
    """Voxels and their size, in words."""
    size = " x ".join(str(n) for n in volume.shape)
    return f"{size} voxels of {' x '.join(f'{s:.3g}' for s in volume.spacing)} mm"


# Pictures


@dataclass(frozen=True, eq=False)
class _View:
    """A slice of the fixed image: its grid, one voxel thick, and how it is drawn.

    across: the axis (R, A, S) that it is thin along. left, top: the letters of its edges. size_mm: width and height.
    box: what of it is shown: left, right, lower and upper end, mm from its upper left corner. index: its place along
    the axis that it is thin along, among the fixed image's voxels in the order of R, A, S.
    """

    grid: Grid
    across: int
    title: str
    left: str
    top: str
    size_mm: tuple[float, float]
    box: tuple[float, float, float, float]
    index: int

    def own(self, along: npt.NDArray) -> npt.NDArray:
        """The slice of an array of the fixed image's voxels along R, A, S: (rows, columns)."""
        return _flat(np.take(along, self.index, axis=self.across))

    def flat(self, volume: Volume) -> npt.NDArray:
        """A volume on this grid as (rows, columns), the upper row first."""
        return _flat(np.take(to_closest_ras(volume.array, volume.ijk_to_ras), 0, axis=self.across))


def _flat(plane: npt.NDArray) -> npt.NDArray:
    """A slice of an array along R, A, S as it is drawn: what comes last in the array is left and above."""
    return plane[::-1, ::-1].T


def _views(fixed: Volume, body: npt.NDArray[np.bool_], place: npt.NDArray[np.int_]) -> list[_View]:
    """The slices of the fixed image through a voxel, all in one scale, which shows all of its body."""
    grid = fixed.grid
    axes, signs = closest_axes(grid.ijk_to_ras)
    spacing = grid.spacing[list(axes)]
    along = to_closest_ras(body, grid.ijk_to_ras)
    boxes, sizes = [], []
    for _title, across, _left, _top in VIEWS:
        drawn = _flat(np.asarray(along.any(axis=across)))
        steps = [spacing[axis] for axis in range(3) if axis != across]
        sizes.append((float(drawn.shape[1] * steps[0]), float(drawn.shape[0] * steps[1])))
        ends = [np.flatnonzero(drawn.any(axis=side))[[0, -1]] + (0, 1) for side in (0, 1)]
        boxes.append([(float(end[0] * step), float(end[1] * step)) for end, step in zip(ends, steps, strict=True)])
    shape = _width() * A4_INCHES[0] / (_height() * A4_INCHES[1])
    half = AROUND / 2 * max(max((x[1] - x[0]) / shape, y[1] - y[0]) for x, y in boxes)
    views = []
    for (title, across, left, top), (x, y), size in zip(VIEWS, boxes, sizes, strict=True):
        axis = axes[across]
        first, voxels = np.zeros(3), list(grid.shape)
        first[axis], voxels[axis] = place[axis], 1
        affine = grid.ijk_to_ras.copy()
        affine[:3, 3] = grid.to_ras(first)
        middle = (x[0] + x[1]) / 2, (y[0] + y[1]) / 2
        box = middle[0] - half * shape, middle[0] + half * shape, middle[1] + half, middle[1] - half
        index = int(place[axis] if signs[across] > 0 else grid.shape[axis] - 1 - place[axis])
        views.append(_View(Grid((voxels[0], voxels[1], voxels[2]), affine), across, title, left, top, size, box, index))
    return views


def _width() -> float:
    """Of a picture, as a share of the page's."""
    return (1 - 2 * MARGIN - 3 * GAP) / 4


def _height() -> float:
    return (PICTURES_TOP - PICTURES_BOTTOM - 2 * GAP) / 3


def _draw_pictures(page: Figure, images: PageImages) -> None:
    body = foreground(images.fixed)
    place = np.argwhere(body).mean(axis=0).round().astype(int)
    fixed, inside = (to_closest_ras(array, images.fixed.ijk_to_ras) for array in (images.fixed.array, body))
    change = None if images.forward is None else volume_change(images.forward)
    windows = [_window(images.fixed, body), _window(images.moving, foreground(images.moving))]
    views = _views(images.fixed, body, place)
    room = BAR_SHARE * (views[0].box[1] - views[0].box[0])
    bar = max((length for length in BARS_MM if length <= room), default=BARS_MM[0])
    for row, view in enumerate(views):
        own = view.own(fixed)
        moved = (view.flat(resample(images.moving, view.grid, way)) for way in (images.before, images.after))
        for column, values in enumerate((own, *moved)):
            axes = _axes(page, row, column)
            _draw(axes, view, values, windows[min(column, 1)], bar)
            if column:
                _outline(axes, view, own, windows[0])
        if change is not None:
            axes = _axes(page, row, 3)
            _draw(axes, view, own, windows[0], bar)
            ratio = view.flat(resample(change, view.grid, fill=1.0))
            _draw_change(axes, view, np.ma.masked_array(ratio, ~view.own(inside)))
    titles = ["Fixed", *images.titles, *([] if change is None else ["Local volume change"])]
    for column, title in enumerate(titles):
        _write(page, MARGIN + column * (_width() + GAP), PICTURES_TOP + 0.006, title, size=8, weight="bold")
    at = images.fixed.grid.to_ras(place)
    where = ", ".join(f"{ends[int(x > 0)]} {abs(x):.0f}" for ends, x in zip(("LR", "PA", "IS"), at, strict=True))
    drawn = f"patient's right on the left; white bar: {bar:g} mm; yellow: outlines of the fixed image"
    _write(page, MARGIN, PICTURES_BOTTOM - 0.014, f"Slices through {where} mm; {drawn}", size=6)
    if change is not None:
        told = "Local volume change: of the moving image beside the fixed one, beyond the linear alignment"
        _write(page, MARGIN, PICTURES_BOTTOM - 0.025, told, size=6)
        _draw_scale(page, MARGIN + 3 * (_width() + GAP))


def _axes(page: Figure, row: int, column: int) -> Axes:
    left, top = MARGIN + column * (_width() + GAP), PICTURES_TOP - row * (_height() + GAP)
    axes = page.add_axes((left, top - _height(), _width(), _height()), facecolor="black")
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def _window(volume: Volume, body: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Which values are black and white."""
    inside = volume.array[body & np.isfinite(volume.array)].astype(np.float64)
    low, high = (float(value) for value in np.percentile(inside, WINDOW)) if inside.size else (0.0, 1.0)
    return low, high if high > low else low + 1


def _draw(axes: Axes, view: _View, values: npt.NDArray, window: tuple[float, float], bar: float) -> None:
    from matplotlib.patheffects import Normal, Stroke

    _show(axes, view, values, cmap="gray", vmin=window[0], vmax=window[1])
    left, right, lower, upper = view.box
    axes.set_xlim(left, right)
    axes.set_ylim(lower, upper)
    x, y = left + 0.04 * (right - left), lower + 0.04 * (upper - lower)
    axes.plot([x, x + bar], [y, y], color="white", linewidth=1)
    rim = [Stroke(linewidth=1.2, foreground="black"), Normal()]  # legible on bright tissue, too
    for x, y, text, across, up in (
        (0.02, 0.5, view.left, "left", "center"),
        (0.5, 0.98, view.top, "center", "top"),
        (0.02, 0.98, view.title, "left", "top"),
    ):
        axes.text(
            x, y, text, ha=across, va=up, color="white", size=SMALL, transform=axes.transAxes, path_effects=rim
        )  # fmt: skip


def _show(axes: Axes, view: _View, values: Any, **style: Any) -> None:
    width, height = view.size_mm
    axes.imshow(values, extent=(0, width, height, 0), aspect="auto", interpolation="nearest", **style)


def _outline(axes: Axes, view: _View, fixed: npt.NDArray, window: tuple[float, float]) -> None:
    """Lines of equal brightness in the fixed image, over the moving one."""
    rows, columns = fixed.shape
    if min(rows, columns) < 2:
        return
    x, y = ((np.arange(n) + 0.5) * side / n for n, side in zip((columns, rows), view.size_mm, strict=True))
    level = (window[0] + window[1]) / 2
    if fixed.min() < level < fixed.max():
        axes.contour(x, y, fixed.astype(np.float32), levels=[level], colors="#ffd400", linewidths=0.4, alpha=0.8)


def _colours() -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("change", [((place + 1) / 2, colour) for place, colour in STOPS], N=512)


def _draw_change(axes: Axes, view: _View, ratio: Any) -> None:
    doublings = np.ma.log2(np.ma.clip(ratio, 1 + LEAST / 100, 1 + MOST / 100))
    _show(axes, view, doublings, cmap=_colours(), vmin=-1, vmax=1, alpha=0.55)


def _draw_scale(page: Figure, left: float) -> None:
    """Of the map of volume change; its ends stay inside the page's margin."""
    axes = page.add_axes((left + 0.01, PICTURES_BOTTOM - 0.014, _width() - 0.025, 0.008))
    axes.imshow(np.linspace(-1, 1, 256)[None], cmap=_colours(), aspect="auto", extent=(-1, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([strength(change) for change, _ in TICKS], [text for _, text in TICKS], size=5.5)
    axes.tick_params(length=2, pad=1)


# Text


def _write_text(page: Figure, report: Mapping[str, Any]) -> None:
    notes = [line for text in report["warnings"] for line in textwrap.wrap(text, WIDE, initial_indent="• ")]
    bottom = TEXT_BOTTOM + LINE * min(len(notes), 6)
    _write_measures(page, report, bottom)
    y = TEXT_TOP
    _write(page, RIGHT, y, "How it was made", size=9, weight="bold")
    lines = [
        ("" if number else key, line)
        for key, value in _how(report)
        for number, line in enumerate(textwrap.wrap(value, NARROW) or [""])
    ]
    room = int((y - bottom) / LINE) - 1
    if len(lines) > room:
        lines = [*lines[: room - 1], ("", "... see the JSON report")]
    for key, line in lines:
        y -= LINE
        _write(page, RIGHT, y, key, size=SIZE, color="#555555")
        _write(page, RIGHT + 0.1, y, line, size=SIZE)
    for number, line in enumerate(_fitting(notes, 6, "The other warnings are in the JSON report.")):
        _write(page, MARGIN, bottom - LINE * (number + 1), line, size=SMALL, color="#a00000")


def _write_measures(page: Figure, report: Mapping[str, Any], bottom: float) -> None:
    before = "at the start" if report.get("deformed_start") else "aligned"
    y = TEXT_TOP
    columns = (MARGIN, 0.335, 0.45)
    _write(page, columns[0], y, "Measures", size=9, weight="bold")
    for x, title in zip(columns[1:], (before, "registered"), strict=True):
        _write(page, x, y, title, size=SIZE, color="#555555", ha="right")
    lines = [(row["name"], row["before"], row["now"]) for row in measures(report)]
    structures = _structures(report)
    room = int((y - bottom) / LINE) - len(lines) - 2
    if structures and room > 0:
        shown = structures if len(structures) <= room else structures[: room - 1]
        lines += [("", "", ""), ("Overlap (Dice), least first", "", ""), *shown]
        if len(shown) < len(structures):
            lines.append((f"... and {len(structures) - len(shown)} more: see the JSON report", "", ""))
    for line in lines:
        y -= LINE
        until = 0.285 if line[1] or line[2] else RIGHT
        for x, text, align in zip(columns, line, ("left", "right", "right"), strict=True):
            _write(page, x, y, text, until, size=SIZE, ha=align)


def measures(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of measures of a JSON report, see `metric_rows`."""
    dice = report["dice"] or {}
    means = {"dice_mean_before": dice.get("mean_before"), "dice_mean": dice.get("mean_after")}
    return metric_rows({**report["metrics"], **(means if dice else {})})


def _structures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, Dice before, Dice after of every structure; those that have become worst come first."""

    def text(value: float | None) -> str:
        return "" if value is None or value != value else f"{value:.3f}"

    rows = sorted((report["dice"] or {"labels": {}})["labels"].values(), key=lambda row: row["after"] or 0.0)
    return [(f"  {row['name']}", text(row["before"]), text(row["after"])) for row in rows]


def _how(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and value of what the result was made with and by."""
    model, stage = report["model"], report["stage"]
    yield "λ", f"{report['lambda']:.3g} (0 most flexible, 1 most rigid)"
    if choice := report.get("lambda_choice"):
        yield "", choice["reason"]
    yield "Stage", f"{stage['title']} ({stage['spacing_mm']:.2g} mm)"
    yield "Start", Path(report["initial"]).name
    if note := (report.get("contrast") or {}).get("note"):
        yield "Contrast", note
    yield "Model", f"{model['name']} {model['version']}" + (" (solver alone)" if model["name"] == NO_MODEL else "")
    yield "Device", report["device"]
    yield "Versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    settings = report["settings"] if "settings" in report else "; ".join(_settings(report))
    if settings:
        yield "Settings", settings


def _settings(report: Mapping[str, Any]) -> Iterator[str]:
    """What was set besides λ, in words, of a report of the command line; files by their names alone."""
    for name, value in report["values"].items():
        yield f"{name}={value:.2f}"
    for label, lam in report["regions"]["lambdas"].items():
        yield f"λ of {label}={lam:.2f}"
    given = report["constraints"]
    if given["rigid"]:
        yield f"rigid={'+'.join(str(label) for label in given['rigid']['labels'])}"
    left_out = [role for role in ("fixed", "moving") if given[f"{role}_mask"]]
    if left_out:
        yield f"mask={'+'.join(left_out)}"
    if given["pull"]:
        yield f"pull={given['pull']:.2f}"
    if given["symmetric"]:
        yield "symmetric"


def _fitting(lines: Sequence[str], room: int, rest: str) -> Sequence[str]:
    return lines if len(lines) <= room else [*lines[: room - 1], rest]


def _write(page: Figure, x: float, y: float, text: str, until: float = 1 - MARGIN, **style: Any) -> None:
    """Writes one line of text; what would reach beyond `until`, a share of the page's width, is cut."""
    # A $ in a name begins no formula.
    line = page.text(x, y, text, parse_math=False, **style)
    room = (until - x) * page.bbox.width
    if style.get("ha") == "right" or not text or _length(line) <= room:
        return
    fits = bisect.bisect_right(range(len(text)), room, key=lambda letters: _length(line, f"{text[:letters]}..."))
    line.set_text(f"{text[: max(0, fits - 1)]}...")


def _length(line: Text, text: str | None = None) -> float:
    """Of a line, or of another text in its place, in pixels."""
    if text is not None:
        line.set_text(text)
    return float(line.get_window_extent().width)
