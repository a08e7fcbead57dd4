"""The border of one structure, moved in the scene: whose voxels go where, in mm and ml; edits; undo; surfaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer
import vtk
from fake_segmentation import FakeSegmenter
from segmentation_bench import OBLIQUE, make_card, scene_centre, soft_eggs
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.errors import OutOfMemory
from hyperreg.imaging.volume import Grid
from hyperreg.mrml import geometry
from hyperreg.mrml.segmentation import results
from hyperreg.mrml.segmentation.layer import BINARY, SURFACE, image_of
from hyperreg.mrml.segmentation.logic import SegmentationLogic
from hyperreg.segmentation.border import RESULT, SUREST, WIDEST

SHELL, CORE = 2, 5
# Oblique, anisotropic, and one axis turned round.
GRID = Grid(OBLIQUE.shape, OBLIQUE.ijk_to_ras @ np.diag([1, -1, 1, 1.0]))
VOXEL_ML = float(np.prod(GRID.spacing)) / 1000


class Bench:
    """A scene with a segmented image whose borders are unsharp."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.module = slicer.vtkSlicerSegmentationsModuleLogic()  # knows how surfaces are made
        self.module.SetMRMLScene(self.scene)
        self.segmenter = FakeSegmenter()
        self.logic = SegmentationLogic(self.scene, self.segmenter)
        self.borders = self.logic.borders
        self.node, self.result = self.segment()

    def segment(self, name: str = "head", *, show_3d: bool = False, case: str = "case") -> tuple[Any, np.ndarray]:
        """The segmentation of another volume, and its label map."""
        volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        geometry.volume_to_node(soft_eggs(GRID), volume)
        found: list[Any] = []
        self.logic.on_result = lambda node, _result: found.append(node)
        self.logic.segment({"image": volume}, "bands", show_3d=show_3d)
        result = self.segmenter.answer(case=case)
        return found[0], result.labels.array.copy()

    def choose(self, label: int) -> None:
        self.borders.choose(self.node, label)
        self.segmenter.tell_border()

    def segmented(self, label: int) -> Any:
        return self.node.GetSegmentation().GetSegment(f"Segment_{label}")

    def labels(self, label: int = CORE) -> np.ndarray:
        """(I, J, K): the image that holds a structure, most often all of them."""
        return self.view(self.segmented(label).GetRepresentation(BINARY)).copy()

    def paint(self, where: np.ndarray, label: int) -> None:
        """As the Segment Editor does it."""
        image = self.segmented(SHELL).GetRepresentation(BINARY)
        self.view(image)[where] = label
        image.Modified()

    def line(self, label: int) -> dict[str, str]:
        return next(row for row in results.rows_of(self.node) if row[results.LABEL] == str(label))

    def ml(self, label: int) -> float:
        return float(self.line(label)["Volume (ml)"])

    @staticmethod
    def view(image: Any) -> np.ndarray:
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).T


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_card(folder)
    return folder


@pytest.fixture
def bench(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("HYPERREG_MODELS", str(models))
    made = Bench()
    yield made
    made.logic.close()
    made.scene.Clear(1)


def check_table(bench: Bench) -> None:
    labels = bench.labels()
    for label in (SHELL, CORE):
        assert bench.ml(label) == pytest.approx(np.count_nonzero(labels == label) * VOXEL_ML)


def test_the_ends_are_the_volumes_of_the_table_and_lie_where_the_structure_is(bench: Bench) -> None:
    """Volumes in ml; the place of the segment, by Slicer's own measure, in mm."""
    row = bench.line(CORE)
    sure, result, doubtful = (float(row[name]) for name in ("Sure (ml)", "Volume (ml)", "Doubtful (ml)"))
    assert sure < result < doubtful
    bench.choose(CORE)
    where = scene_centre(GRID) + np.array((2.0, 1.0, -1.0))  # of the core
    radii = []
    for position, volume in ((SUREST, sure), (RESULT, result), (WIDEST, doubtful)):
        bench.borders.move(position)
        assert bench.ml(CORE) == pytest.approx(volume, rel=1e-3)
        assert bench.borders.volumes_ml == pytest.approx((volume, result), rel=1e-3)
        check_table(bench)
        np.testing.assert_allclose(bench.node.GetSegmentCenterRAS(f"Segment_{CORE}"), where, atol=2.0)
        points = GRID.to_ras(np.argwhere(bench.labels() == CORE))
        radii.append(np.linalg.norm(points - points.mean(0), axis=1).mean())
    assert radii[0] + 0.1 < radii[1] < radii[2] - 0.1
    matrix = vtk.vtkMatrix4x4()
    bench.segmented(CORE).GetRepresentation(BINARY).GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(geometry.to_numpy(matrix), GRID.ijk_to_ras, atol=1e-9)


def test_what_is_taken_from_another_structure_is_given_back(bench: Bench) -> None:
    bench.choose(CORE)
    before = bench.ml(SHELL)
    bench.borders.move(60)
    grown = bench.labels()
    taken = (bench.result == SHELL) & (grown == CORE)
    assert taken.any()
    assert bench.ml(SHELL) == pytest.approx(before - taken.sum() * VOXEL_ML)
    assert np.array_equal(grown == SHELL, (bench.result == SHELL) & ~taken)
    bench.borders.move(-60)
    shrunk = bench.labels()
    left = (bench.result == CORE) & (shrunk != CORE)
    assert left.any()
    assert (shrunk[left] == 0).all()
    assert np.array_equal(shrunk == SHELL, bench.result == SHELL)
    bench.borders.back()
    assert bench.borders.position == RESULT
    assert np.array_equal(bench.labels(), bench.result)
    check_table(bench)


def test_the_mean_probability_is_only_told_of_the_result(bench: Bench) -> None:
    told = bench.line(CORE)["Mean probability"]
    bench.choose(CORE)
    bench.borders.move(50)
    assert bench.line(CORE)["Mean probability"] == "nan"
    bench.borders.move(RESULT)
    assert bench.line(CORE)["Mean probability"] == told


def test_two_structures_one_after_the_other(bench: Bench) -> None:
    """The one that was moved last has what both want; each is told where it was left."""
    bench.choose(CORE)
    bench.borders.move(WIDEST)
    core = bench.labels() == CORE
    bench.choose(SHELL)
    assert bench.borders.position == RESULT
    bench.borders.move(RESULT)
    assert np.array_equal(bench.labels() == SHELL, bench.result == SHELL)
    bench.borders.move(SUREST)
    assert np.array_equal(bench.labels() == CORE, core)  # it has again what the shell took back
    bench.choose(CORE)
    assert bench.borders.position == WIDEST
    bench.borders.back()
    assert np.array_equal(bench.labels() == CORE, bench.result == CORE)
    outside = (bench.result == SHELL) & (bench.labels() == 0)
    assert outside.any()  # the shell is still only what is sure
    bench.choose(SHELL)
    bench.borders.back()
    assert np.array_equal(bench.labels(), bench.result)


def test_a_structure_that_was_edited_is_not_overwritten_before_back(bench: Bench) -> None:
    bench.choose(CORE)
    bench.borders.move(40)
    drawn = np.zeros(GRID.shape, bool)
    drawn[1:4, 1:4, 1:4] = True
    bench.paint(drawn, CORE)
    edited = bench.labels()
    bench.borders.move(-40)
    assert "Core was changed otherwise" in bench.borders.reason
    assert bench.borders.is_changed
    assert bench.borders.can_go_back
    assert np.array_equal(bench.labels(), edited)
    check_table(bench)  # it follows the edit
    bench.borders.back()
    assert bench.borders.reason == ""
    assert np.array_equal(bench.labels(), bench.result)
    bench.borders.move(40)
    assert not (bench.labels()[drawn] == CORE).any()


def test_edits_of_others_are_neither_taken_nor_lost(bench: Bench) -> None:
    """A lesion drawn by hand into the segmentation, where the core would grow."""
    bench.choose(CORE)
    bench.borders.move(WIDEST)
    reach = bench.labels() == CORE
    bench.borders.move(RESULT)
    lesion = np.argwhere(reach & (bench.result == SHELL))[::2]
    where = np.zeros(GRID.shape, bool)
    where[tuple(lesion.T)] = True
    bench.paint(where, 9)
    for position in (WIDEST, SUREST, 70, RESULT):
        bench.borders.move(position)
        assert bench.borders.reason == ""
        assert (bench.labels()[where] == 9).all()
    assert np.array_equal(bench.labels()[~where], bench.result[~where])
    bench.choose(SHELL)
    assert "Outer shell was changed otherwise" in bench.borders.reason


def test_segments_that_overlap_are_left_alone(bench: Bench) -> None:
    """The Segment Editor gives them label maps of their own."""
    bench.choose(CORE)
    other = np.asfortranarray((bench.result > 0).astype(np.uint8) * SHELL)
    bench.segmented(SHELL).AddRepresentation(BINARY, image_of(other, geometry.to_vtk(GRID.ijk_to_ras)))
    before = bench.labels()
    bench.borders.move(50)
    assert "overlap" in bench.borders.reason
    assert np.array_equal(bench.labels(), before)


def test_a_segment_that_has_an_image_of_its_own_is_moved_in_it(bench: Bench) -> None:
    """As Slicer puts it there after some edits, with a label value of its own; a lesion has one, too."""
    bench.choose(CORE)
    own = slicer.vtkOrientedImageData()
    own.DeepCopy(image_of((bench.result == CORE).astype(np.uint8), geometry.to_vtk(GRID.ijk_to_ras)))
    where = np.argwhere(bench.result == CORE)
    own.Crop([int(end) for pair in zip(where.min(0), where.max(0), strict=True) for end in pair])
    bench.paint(bench.result == CORE, 0)
    bench.paint(np.indices(GRID.shape).max(0) == 0, 7)  # of a segment that somebody added
    bench.segmented(CORE).SetLabelValue(1)
    bench.segmented(CORE).AddRepresentation(BINARY, own)

    def held(label: int) -> np.ndarray:
        segment = bench.segmented(label)
        return bench.view(segment.GetRepresentation(BINARY)) == segment.GetLabelValue()

    bench.borders.move(WIDEST)
    assert bench.borders.reason == ""
    taken = held(CORE) & (bench.result == SHELL)
    assert taken.any()
    assert np.array_equal(held(SHELL), (bench.result == SHELL) & ~taken)
    assert np.array_equal(bench.labels(SHELL) == 7, np.indices(GRID.shape).max(0) == 0)
    bench.borders.move(RESULT)
    assert np.array_equal(held(CORE), bench.result == CORE)
    assert np.array_equal(held(SHELL), bench.result == SHELL)


def test_a_label_map_that_was_cut_to_what_is_drawn_grows_again(bench: Bench) -> None:
    """As the Segment Editor leaves it."""
    low, high = np.argwhere(bench.result > 0).min(0), np.argwhere(bench.result > 0).max(0)
    cut = slicer.vtkOrientedImageData()
    whole = bench.segmented(CORE).GetRepresentation(BINARY)
    cut.DeepCopy(whole)
    cut.Crop([int(end) for pair in zip(low, high, strict=True) for end in pair])
    for label in (SHELL, CORE):
        bench.segmented(label).AddRepresentation(BINARY, cut)
    assert bench.segmented(CORE).GetRepresentation(BINARY).GetDimensions() != GRID.shape
    bench.choose(SHELL)
    bench.borders.move(WIDEST)
    assert bench.borders.reason == ""
    assert bench.labels().shape == GRID.shape
    assert bench.ml(SHELL) > bench.borders.volumes_ml[1]
    bench.borders.move(RESULT)
    assert np.array_equal(bench.labels(), bench.result)


def test_it_is_one_step_of_the_scene_s_own_undo(bench: Bench) -> None:
    bench.scene.SetUndoOn()
    bench.node.SetUndoEnabled(True)
    bench.choose(CORE)
    for position in (10, 30, 80):
        bench.borders.move(position)
    bench.borders.rest()
    bench.scene.Undo()
    assert np.array_equal(bench.labels(), bench.result)
    bench.borders.move(20)
    assert bench.borders.reason == ""
    assert bench.ml(CORE) > bench.borders.volumes_ml[1]
    check_table(bench)


def test_surfaces_follow_once_the_border_rests(bench: Bench) -> None:
    bench.node, bench.result = bench.segment("other", show_3d=True)
    while bench.logic.surfaces.pending:
        bench.logic.surfaces.step()
    told: list[Any] = []
    bench.logic.surfaces.on_done = told.append

    def width(label: int) -> float:
        bounds = bench.segmented(label).GetRepresentation(SURFACE).GetBounds()
        return float(bounds[1] - bounds[0])

    core, shell = width(CORE), bench.segmented(SHELL).GetRepresentation(SURFACE)
    bench.choose(CORE)
    bench.borders.move(-90)
    bench.borders.move(-80)
    assert bench.segmented(SHELL).GetRepresentation(SURFACE) is None, "while it moves, nobody makes surfaces"
    bench.borders.rest()
    while bench.logic.surfaces.pending:
        bench.logic.surfaces.step()
    assert width(CORE) < core - 0.5
    assert bench.segmented(SHELL).GetRepresentation(SURFACE) is shell  # it lost nothing
    assert told == []  # the 3D view stays where the user has turned it


def test_a_surface_that_waits_to_be_given_back_is_not_given_back_after_another_move(bench: Bench) -> None:
    bench.node, bench.result = bench.segment("other", show_3d=True)
    surfaces = bench.logic.surfaces
    while surfaces.pending:
        surfaces.step()
    before = bench.segmented(CORE).GetRepresentation(SURFACE)
    bench.choose(SHELL)
    bench.borders.move(-50)  # the core keeps its voxels: its surface waits
    bench.borders.rest()
    bench.choose(CORE)
    bench.borders.move(-90)
    surfaces.step()
    surfaces.step()  # in between, as a timer may do it
    bench.borders.rest()
    while surfaces.pending:
        surfaces.step()
    after = bench.segmented(CORE).GetRepresentation(SURFACE)
    assert after is not before and after.GetNumberOfPoints() != before.GetNumberOfPoints()


def no_room(*_asked: Any) -> None:
    raise OutOfMemory("There is no room.")


def test_why_a_border_cannot_be_moved(bench: Bench) -> None:
    borders = bench.borders
    assert "Choose a structure" in borders.reason
    borders.choose(bench.node, CORE)
    assert borders.reason == "Looking where Core may end..."
    borders.move(50)  # harmless
    assert np.array_equal(bench.labels(), bench.result)
    bench.segmenter.borders.pop()[2]("The engine was ended by the system.")
    assert borders.reason == "The engine was ended by the system."
    bench.segmenter.kept = None  # the worker has died, or has another case
    borders.choose(bench.node, CORE)
    assert borders.reason.startswith("Segment again to move borders")
    first = bench.node
    bench.node, bench.result = bench.segment("large", case="")
    borders.choose(bench.node, CORE)
    assert "too little memory" in borders.reason
    bench.node, bench.result = bench.segment("other")
    borders.choose(first, CORE)
    assert borders.reason.startswith("Segment again to move borders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.segmenter, "border", no_room)
        borders.choose(bench.node, CORE)
    assert borders.reason == "There is no room."
    bench.choose(CORE)
    bench.node.GetSegmentation().RemoveSegment(f"Segment_{SHELL}")
    borders.move(50)
    assert borders.reason == ""
    borders.choose(bench.node, SHELL)
    assert "was deleted" in borders.reason
    bench.scene.Clear(0)
    assert "Choose a structure" in borders.reason
    borders.choose(None, None)


def test_what_was_asked_for_before_another_was_chosen_is_passed_over(bench: Bench) -> None:
    bench.borders.choose(bench.node, CORE)
    late = bench.segmenter.borders.pop()
    bench.choose(SHELL)
    late[1](bench.segmenter.kept.levels(CORE))
    late[2]("too late")
    assert bench.borders.structure.name == "Outer shell"
    assert bench.borders.reason == ""
    bench.borders.move(-50)
    assert np.array_equal(bench.labels() == CORE, bench.result == CORE)
