"""The report on one page: its figures are the report's, its pictures the right way round, nothing is cut or hidden."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_pair import PairFiles, run, write_pair
from dicom_examples import write_slices
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hyperreg.cli.console import ExitCode
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration import page

# Patient's right, anterior and superior of the middle: where a mark is put.
MARK_RAS = np.array([14.0, 10.0, 6.0])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    return write_pair(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def made(pair: PairFiles) -> tuple[dict[str, Any], page.PageImages, Path]:
    """A report of a registration by the command line, what its page shows, and the page."""
    report, transform, made = (pair.results / name for name in ("r.json", "t.h5", "r.pdf"))
    command = ["register", *pair.images, *pair.labels, "--fast", "-q", "--init", "com"]
    assert run(*command, "--report", str(report), "-t", str(transform), "--out-report", str(made)) == 0
    told = json.loads(report.read_text())
    fixed, moving = read_volume(pair.fixed), read_volume(pair.moving)
    after = read_transform(transform)
    linear = np.array(told["linear_ras"])
    field = Transform((*after.stages, np.linalg.inv(linear))).to_field(fixed.grid)
    images = page.PageImages(fixed, moving, Transform((linear,)), after, field, ("fixed.nii.gz", "moving.nii.gz"))
    return told, images, made


def drawn(report: dict[str, Any], images: page.PageImages, patient: dict[str, str] | None = None) -> Figure:
    figure = page.draw_page(report, images, patient or {})
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def row(figure: Figure, name: str) -> list[str]:
    """The texts that stand in one line with a name, from left to right, in the left half of the page."""
    (y,) = {text.get_position()[1] for text in figure.texts if text.get_text() == name}
    found = [text for text in figure.texts if text.get_position()[1] == y and text.get_position()[0] < page.RIGHT]
    return [text.get_text() for text in sorted(found, key=lambda text: text.get_position()[0])]


def assert_legible(figure: Figure) -> None:
    """Every text lies on the page, and none over another one or over a picture."""
    renderer = figure.canvas.get_renderer()
    written = [text for text in figure.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in written]
    width, height = figure.bbox.width, figure.bbox.height
    pictures = [axes.get_window_extent(renderer) for axes in figure.axes]
    for text, box in zip(written, boxes, strict=True):
        inside = box.x0 >= 0 and box.x1 <= width * 0.98 and box.y0 >= height * 0.01 and box.y1 <= height
        assert inside, f"cut: {text.get_text()}"
        assert not any(box.overlaps(picture) for picture in pictures), f"over a picture: {text.get_text()}"
    for (one, first), (other, second) in itertools.combinations(zip(written, boxes, strict=True), 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 + 1 or second.y1 <= first.y0 + 1
        assert apart, f"'{one.get_text()}' lies over '{other.get_text()}'"


def test_the_figures_are_those_of_the_report(made: tuple[dict[str, Any], page.PageImages, Path]) -> None:
    report, images, path = made
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", content)) == 1
    assert report["outputs"]["page"] == str(path)
    figure = drawn(report, images)
    metrics, dice = report["metrics"], report["dice"]
    assert row(figure, "Similarity")[1:] == [f"{metrics[name]:.3f}" for name in ("similarity_before", "similarity")]
    assert row(figure, "Overlap (Dice)")[1:] == [f"{dice['mean_before']:.3f}", f"{dice['mean_after']:.3f}"]
    assert row(figure, "Folding")[-1] == f"{metrics['folding_percent']:.3f} %"
    assert row(figure, "Largest shift")[-1] == f"{metrics['displacement_max_mm']:.1f} mm"
    low, high = metrics["volume_change_low_percent"], metrics["volume_change_high_percent"]
    assert row(figure, "Local volume")[-1] == f"{low:+.0f} … {high:+.0f} %"
    for entry in dice["labels"].values():
        assert row(figure, f"  {entry['name']}")[1:] == [f"{entry['before']:.3f}", f"{entry['after']:.3f}"]
    for said in (
        "For research; not for diagnosis. Made",
        f"{report['lambda']:.3g} (0 most flexible",
        report["lambda_choice"]["reason"],
        f"{report['stage']['title']} ({report['stage']['spacing_mm']:.2g} mm)",
        f"{report['model']['name']} {report['model']['version']} (solver alone)",
        f"hyperreg {report['versions']['hyperreg']}",
        "44 x 50 x 28 voxels of 2 x 2 x 3 mm",
        "40 x 40 x 40 voxels of 2.5 x 2.5 x 2.2 mm",
    ):
        assert any(said in text for text in texts(figure)), said
    assert_legible(figure)


def test_the_same_is_drawn_the_same(made: tuple[dict[str, Any], page.PageImages, Path], tmp_path: Path) -> None:
    report, images, _path = made
    for name in ("a.pdf", "b.pdf"):
        page.write_page(report, images, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_pictures_show_the_patient_s_right_on_the_left_and_the_mark_where_it_is(
    made: tuple[dict[str, Any], page.PageImages, Path],
) -> None:
    """The grids are oblique, anisotropic and flipped; the moving image is the fixed one, 12 mm further to the left."""
    report, images, _path = made
    grid = images.fixed.grid
    points = grid.points() - grid.centre
    array = np.where(np.linalg.norm(points, axis=-1) < 30, 100, 0).astype(np.float32)
    array[np.linalg.norm(points - MARK_RAS * (1, 1, 0), axis=-1) < 5] = 400  # in the axial slice through the middle
    shift = np.eye(4)
    shift[0, 3] = -12.0
    fixed, moving = Volume(array, grid.ijk_to_ras), Volume(array, shift @ grid.ijk_to_ras)
    still = DisplacementField(np.zeros((3, *grid.shape), np.float32), grid.ijk_to_ras)
    figure = drawn(report, page.PageImages(fixed, moving, Transform(), Transform((shift,)), still))
    axial = figure.axes[:4]
    for axes, moved in zip(axial[:3], (0.0, 12.0, 0.0), strict=True):
        left, right, lower, upper = axes.get_images()[0].get_extent()
        values = np.asarray(axes.get_images()[0].get_array())
        rows, columns = np.argwhere(values > 250).mean(axis=0) + 0.5
        x = left + columns / values.shape[1] * (right - left) - (left + right) / 2
        y = upper + rows / values.shape[0] * (lower - upper) - (lower + upper) / 2
        # Right of the patient is left of the middle, anterior is above it. The mark leans with the slice.
        np.testing.assert_allclose((-x, -y), (14.0 - moved, 10.0), atol=2.5)
        shown = axes.get_xlim()
        assert shown[0] < left + (right - left) / 2 + x < shown[1]
    assert [text.get_text() for text in axial[0].texts] == ["R", "A", "Axial"]
    change = np.ma.asarray(axial[3].get_images()[1].get_array())
    assert change.mask.any(), "there is none in the air"
    np.testing.assert_allclose(change.compressed(), 0.0, atol=1e-6)


def test_a_map_has_the_logarithm_of_the_volume(made: tuple[dict[str, Any], page.PageImages, Path]) -> None:
    report, images, _path = made
    points = images.fixed.grid.points() - images.fixed.grid.centre
    shrunk = DisplacementField(
        np.moveaxis(points * (0.5 ** (1 / 3) - 1), -1, 0).astype(np.float32), images.fixed.ijk_to_ras
    )
    figure = drawn(report, page.PageImages(images.fixed, images.moving, images.before, images.after, shrunk))
    for axes in figure.axes[3:12:4]:
        np.testing.assert_allclose(np.ma.asarray(axes.get_images()[1].get_array()).compressed(), -1.0, atol=1e-3)


def test_whatever_it_tells_nothing_is_cut_or_hidden(made: tuple[dict[str, Any], page.PageImages, Path]) -> None:
    report, images, _path = made
    named = {
        str(n): {
            "name": f"{'Left' if n % 2 else 'Right'} structure with a long name {n}",
            "before": 0.1,
            "after": n / 200,
        }
        for n in range(140)
    }
    warned = [f"Warning {n}: " + "something that takes more than one line to be told. " * 5 for n in range(12)]
    full = {
        **report,
        "dice": {"labels": named, "mean_before": 0.1, "mean_after": None},
        "warnings": warned,
        "settings": "; ".join(f"λ of region {n}=0.50" for n in range(60)),
        "initial": "/a/folder/" + "long" * 40 + ".h5",
        "contrast": {"note": "Both images were taken for different contrasts, so that the field is kept smoother."},
        "metrics": {**report["metrics"], "landmarks_mm": 2.345, "landmarks_mm_before": float("nan")},
    }
    long = ("a$b$c_" + "name" * 60, "\u60a3\u8005 \u202e{}^~\\alpha" * 9)
    patient = {"Fixed": "patient Doe^Jane PAT4711X; series " + "T1 " * 60, "Moving": "date 20260304"}
    images = page.PageImages(images.fixed, images.moving, images.before, images.after, images.forward, long)
    figure = drawn(full, images, patient)
    assert_legible(figure)
    said = texts(figure)
    assert any(text.startswith("a$b$c_") for text in said), "a $ is a $"
    assert any("more: see the JSON report" in text for text in said)
    assert "The other warnings are in the JSON report." in said
    assert "... see the JSON report" in said
    assert any(text.startswith("hyperreg ") for text in said), "versions come before settings that are too many"
    assert row(figure, "Landmarks")[1:] == ["", f"{2.345:.2f} mm"], "what could not be measured is left out"
    assert any("Doe^Jane" in text for text in said)


def test_an_alignment_alone_stands_beside_the_image_as_it_was_loaded(pair: PairFiles, tmp_path: Path) -> None:
    drawn_with: list[tuple[Any, ...]] = []
    original = page.write_page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_page", lambda *given: (drawn_with.append(given), original(*given)))
        assert run("register", *pair.images, "--only", "rigid", "-q", "--out-report", str(tmp_path / "p.pdf")) == 0
    report, images = drawn_with[0][:2]
    assert images.before.stages == ()
    assert images.forward is None
    figure = drawn(report, images)
    assert {"Moving, as loaded", "Moving, aligned linearly"} <= set(texts(figure))
    assert "Local volume change" not in texts(figure)
    assert len(figure.axes) == 9
    assert_legible(figure)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--out-report", "page.png"], "has no ending that tells the format"),
        (["--patient-on-page"], "belongs to --out-report"),
    ],
)
def test_what_cannot_be_asked_for(
    pair: PairFiles, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("register", *pair.images, *more) == ExitCode.INPUT
    assert told in " ".join(capsys.readouterr().err.split())


def test_patients_stand_there_only_if_that_is_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane"
    write_slices(folder / "a", series="her head")
    fixed, moving = folder / "a", tmp_path / "b.nii.gz"
    assert page.names_of(fixed, moving) == ("DICOM CT", "b.nii.gz")
    found = page.patient_of(fixed, moving)
    assert found == {"Fixed": "patient Doe^Jane PAT4711X; series CT her head; date 20260304"}
    warned = [f"'{folder}' lacks slices.", "Doe_Jane is odd.", "The images differ."]
    left = page.without_names(warned, fixed, moving)
    assert left == ["The images differ.", "2 more that may name a patient: see the program's messages."]
    assert page.without_names(warned, moving, moving) == warned
