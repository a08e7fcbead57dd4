"""The registration logic beyond λ: stages up to full resolution, hyperparameters, regions, response; in mm."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from fake_registration import FULL, METRICS, QUICK, STAGES, wavy
from mrml_bench import AGREE_MM, FIXED, LINEAR, Bench
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, regions
from hyperreg.mrml.registration import results, texts


def expected(bench: Bench, points: np.ndarray, lam: float, stage: int) -> np.ndarray:
    return Transform((wavy(bench.registration.grid, lam, stage=stage), LINEAR)).apply(points)


def test_a_better_stage_is_shown_in_the_same_node(bench: Bench, points: np.ndarray) -> None:
    bench.go_live()
    node, shown = bench.logic.transform_node, bench.moving.GetParentTransformNode().GetTransformFromParent()
    np.testing.assert_allclose(bench.shown_at(points), expected(bench, points, 0.25, QUICK), atol=AGREE_MM)
    assert (texts.stage_text(bench.logic.live), bench.logic.live.is_final) == ("Quick result (2 mm)", False)
    events: list[str] = []
    node.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: events.append("moved"))
    bench.registration.answer_field(FULL)
    assert events
    assert bench.logic.transform_node is node
    assert node.GetTransformFromParent() is shown
    assert (texts.stage_text(bench.logic.live), bench.logic.live.is_final) == ("Full resolution (1 mm)", True)
    assert bench.logic.live.metrics == {}, "those of the quick result"
    np.testing.assert_allclose(bench.shown_at(points), expected(bench, points, 0.25, FULL), atol=AGREE_MM)
    moved = np.linalg.norm(expected(bench, points, 0.25, FULL) - expected(bench, points, 0.25, QUICK), axis=1)
    assert moved.max() > 0.5, "else the two could not be told apart"


def test_every_field_is_drawn_once(bench: Bench) -> None:
    """A preview from within `set_lambda`; nothing for metrics, progress or what else is told of the same field."""
    bench.go_live()
    drawn: list[float] = []
    node = bench.logic.transform_node
    node.AddObserver(
        slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: drawn.append(bench.logic.live.shown.lam)
    )
    bench.logic.set_lambda(0.4)
    assert drawn == [0.4]
    bench.logic.set_lambda(0.4)
    bench.registration.work(QUICK, 0.5)
    assert drawn == [0.4]
    bench.registration.answer_solved()
    bench.registration.answer_response()
    bench.registration.warn("The graphics card has not enough memory.")
    assert drawn == [0.4, 0.4], "the preview, and the field of its own"
    bench.logic.reset()
    bench.logic.undo_reset()
    again = bench.logic.transform_node
    assert again is not node and again.GetTransformFromParent() is not None
    assert drawn == [0.4, 0.4], "it still has the field"


def test_a_warning_is_told_once(bench: Bench) -> None:
    told: list[str] = []
    bench.logic.on_warning = told.append
    bench.go_live()
    bench.registration.warn("First.")
    bench.logic.set_lambda(0.6)
    bench.registration.answer_solved()
    bench.registration.warn("Second.")
    bench.logic.reset()
    bench.logic.undo_reset()
    bench.registration.answer_solved()
    assert told == ["First.", "Second."]


def test_metrics_are_those_of_what_is_shown(bench: Bench) -> None:
    bench.go_live()
    assert bench.logic.live.metrics is METRICS
    bench.registration.answer_field(FULL)
    assert bench.logic.live.metrics == {}
    bench.registration.answer_metrics({"similarity": 0.95})
    assert bench.logic.live.metrics == {"similarity": 0.95}
    bench.logic.set_lambda(0.6)
    assert bench.logic.live.metrics == {}


def test_a_lambda_without_a_field_shows_another_and_says_so(bench: Bench) -> None:
    bench.go_live()
    nearest = bench.registration.shown
    bench.registration.previews = False  # nothing is known towards this end
    bench.logic.set_lambda(0.0)
    assert bench.logic.live.shown is nearest
    assert texts.stage_text(bench.logic.live) == "Shows λ = 0.25 until λ = 0.00 is computed"
    assert not bench.logic.can_keep
    assert not bench.logic.live.is_final
    with pytest.raises(InputError, match="not complete"):
        bench.logic.keep()


def test_full_resolution_is_asked_for_or_comes_by_itself(bench: Bench) -> None:
    assert not bench.logic.live.can_request_full
    bench.go_live()
    assert (bench.logic.live.full_automatically, bench.logic.live.can_request_full) == (True, False)
    bench.registration.work(FULL, 0.4)
    assert bench.logic.live.is_computing_full
    assert texts.work_text(bench.logic.live) == "Full resolution (1 mm) at λ = 0.25"
    before = bench.content()
    bench.registration.cancel_full()
    assert (bench.logic.live.full_automatically, bench.logic.live.can_request_full) == (False, True)
    assert (bench.logic.live.is_computing_full, texts.work_text(bench.logic.live)) == (False, "")
    assert bench.content() == before
    assert bench.logic.can_keep, "the quick result stays"
    bench.registration.request_full()
    assert not bench.logic.live.can_request_full
    bench.registration.answer_solved(FULL)
    assert not bench.logic.live.can_request_full
    calls = list(bench.registration.calls)
    bench.logic.set_full_automatically(False)
    assert bench.registration.calls == calls, "no news"
    bench.logic.set_full_automatically(True)
    assert bench.registration.calls[-1] == "full_automatically True"


def test_a_network_alone_has_no_full_resolution_to_ask_for(bench: Bench) -> None:
    bench.registration.stages = STAGES[1:2]
    assert not bench.logic.live.has_full
    bench.go_live()
    assert not bench.logic.live.has_full
    bench.registration.work(QUICK, 0.4)
    assert not bench.logic.live.is_computing_full


def test_what_is_kept_of_full_resolution_says_so(bench: Bench, points: np.ndarray) -> None:
    bench.go_live()
    assert bench.logic.keep().forward.GetAttribute(results.STAGE_ATTRIBUTE) == "Quick result (2 mm)"
    bench.registration.answer_solved(FULL)
    kept = bench.logic.keep()
    assert kept.volume.GetName() == "follow-up registered λ=0.25"
    assert kept.forward.GetAttribute(results.STAGE_ATTRIBUTE) == "Full resolution (1 mm)"
    target = expected(bench, points, 0.25, FULL)
    for name, reached in (("forward", target), ("inverse", None)):
        general = vtk.vtkGeneralTransform()
        getattr(kept, name).GetTransformFromWorld(general)
        if reached is not None:
            found = np.array([general.TransformPoint(point) for point in points])
            np.testing.assert_allclose(found, reached, atol=AGREE_MM)
        else:
            back = np.array([general.TransformPoint(point) for point in target])
            assert np.linalg.norm(back - points, axis=1).mean() < 0.5


def test_the_contrast_is_an_input_of_register(bench: Bench) -> None:
    bench.go_live(contrast="different")
    assert bench.registration.prepared_with["contrast"] == "different"
    assert bench.logic.origin.settings == "contrast=different"
    bench.registration.note = "The contrasts were taken as different."
    assert bench.logic.live.note == "The contrasts were taken as different."
    bench.logic.reset()
    assert bench.logic.live.note == ""


def test_worse_than_the_linear_alignment_is_said(bench: Bench) -> None:
    bench.go_live()
    assert bench.logic.live.worse == ""
    worse = {**METRICS, "dice_mean": 0.3, "dice_mean_before": 0.4}
    bench.registration.answer_metrics(worse)
    assert "worse" in bench.logic.live.worse
    bench.registration.answer_metrics(METRICS)
    assert bench.logic.live.worse == ""


def test_gamma_is_kept_for_models_that_have_it(bench: Bench) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        bench.logic.set_hyperparameter("gamma", 2.0)
    bench.logic.set_hyperparameter("gamma", 0.8)
    bench.go_live()
    assert bench.registration.values == {}
    bench.registration.values = {"gamma": 0.5}
    bench.logic.set_hyperparameter("gamma", 0.9)
    assert bench.registration.values == {"gamma": 0.9}
    assert not bench.logic.can_keep, "the field that is shown belongs to another γ"
    bench.registration.answer_solved()
    kept = bench.logic.keep()
    assert kept.forward.GetAttribute(results.SETTINGS_ATTRIBUTE) == "gamma=0.90"


def segmentation(bench: Bench) -> slicer.vtkMRMLSegmentationNode:
    node = bench.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    for number, (name, first) in enumerate((("Bone", 2), ("Liver", 9))):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(18, 20, 16)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(16, 20, 18).T
        array[...] = 0
        array[first : first + 5, 5:11, 6:9] = 1
        image.SetGeometryFromImageToWorldMatrix(geometry.to_vtk(FIXED))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(0.25 * (number + 1), 0.5, 0.75)
        segment.AddRepresentation(
            slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), image
        )
        node.GetSegmentation().AddSegment(segment, name.lower())
    return node


def value_at(volume: Volume, fixed_ijk: tuple[int, int, int]) -> int:
    """The label at a voxel of the fixed image, found through the world."""
    point = (FIXED @ [*fixed_ijk, 1.0])[:3]
    ijk = np.rint(volume.grid.to_ijk(point)).astype(int)
    if (ijk < 0).any() or (ijk >= volume.shape).any():
        return 0
    return int(volume.array[tuple(ijk)])


def test_regions_of_a_segmentation_lie_where_they_were_drawn(bench: Bench) -> None:
    node = segmentation(bench)
    found = regions.regions_of(node)
    assert [(region.key, region.name) for region in found] == [("bone", "Bone"), ("liver", "Liver")]
    assert found[1].colour == (0.5, 0.5, 0.75)
    volume = regions.label_volume(node)
    assert value_at(volume, (4, 7, 7)) == found[0].label
    assert value_at(volume, (11, 7, 7)) == found[1].label
    assert value_at(volume, (8, 7, 7)) == value_at(volume, (4, 4, 7)) == value_at(volume, (15, 7, 7)) == 0
    assert int((volume.array > 0).sum()) == 2 * 5 * 6 * 3
    shift = np.eye(4)
    shift[:3, 3] = 3, -2, 5
    node.SetAndObserveTransformNodeID(bench.transform(shift).GetID())
    np.testing.assert_allclose(regions.label_volume(node).ijk_to_ras, shift @ volume.ijk_to_ras, atol=1e-6)


def test_regions_of_a_label_map_have_names_and_colours(bench: Bench) -> None:
    array = np.zeros((18, 20, 16), dtype=np.int16)
    array[2:7], array[9:12] = 2, 5
    node = bench.volume("labels", array, FIXED, regions.LABEL_MAP)
    assert [(region.label, region.name) for region in regions.regions_of(node)] == [(2, "Label 2"), (5, "Label 5")]
    node.CreateDefaultDisplayNodes()
    colours = bench.scene.AddNewNodeByClass("vtkMRMLColorTableNode", "of Slicer")
    colours.SetTypeToLabels()
    assert colours.GetColorName(2) == "Peach", "that says nothing of what the label is"
    node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    assert [region.name for region in regions.regions_of(node)] == ["Label 2", "Label 5"]
    table = bench.scene.AddNewNodeByClass("vtkMRMLColorTableNode", "names")
    table.SetTypeToUser()
    table.SetNumberOfColors(6)
    table.SetColor(2, "Femur", 1.0, 0.5, 0.25, 1.0)
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    first = regions.regions_of(node)[0]
    assert (first.name, first.colour) == ("Femur", pytest.approx((1.0, 0.5, 0.25), abs=0.01))
    np.testing.assert_array_equal(regions.label_volume(node).array, array)
    with pytest.raises(InputError, match="neither"):
        regions.regions_of(bench.moving)
    with pytest.raises(InputError, match="no segments"):
        regions.regions_of(bench.volume("empty", np.zeros((4, 4, 4), np.int16), FIXED, regions.LABEL_MAP))
    many = np.arange(8 * 8 * 8, dtype=np.int16).reshape(8, 8, 8)
    with pytest.raises(InputError, match="511 labels"):
        regions.regions_of(bench.volume("many", many, FIXED, regions.LABEL_MAP))


def test_regions_reach_the_engine_live_and_their_map_only_once(bench: Bench) -> None:
    node = segmentation(bench)
    bench.logic.constraints.set_regions(node, {"bone": 0.9})
    bench.go_live()
    labels, lambdas = bench.registration.regions
    assert lambdas == {1: 0.9}
    assert value_at(labels, (4, 7, 7)) == 1
    bench.registration.answer_solved()
    bench.logic.constraints.set_regions(node, {"bone": 0.8, "liver": 0.1})
    assert bench.registration.regions == (labels, {1: 0.8, 2: 0.1})
    assert not bench.logic.can_keep
    image = node.GetSegmentation().GetSegment("bone").GetRepresentation("Binary labelmap")
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = 1
    image.Modified()
    bench.logic.constraints.set_regions(node, {"bone": 0.8, "liver": 0.1})
    assert bench.registration.regions[0] is not labels, "drawn anew"
    assert value_at(bench.registration.regions[0], (8, 7, 7)) == 1
    with pytest.raises(InputError, match="λ"):
        bench.logic.constraints.set_regions(node, {"bone": 1.1})
    bench.logic.constraints.set_regions(node, {})
    assert bench.registration.regions == (None, {})


def test_a_result_does_not_tell_of_what_the_engine_has_refused(bench: Bench) -> None:
    node = segmentation(bench)
    bench.go_live()
    bench.logic.constraints.set_regions(node, {"liver": 0.1}, {"bone"})
    bench.registration.answer_solved()
    assert bench.logic.origin.settings == "λ of liver=0.10; rigid=bone"
    bench.registration.rigid = (None, ())
    bench.registration.fail("Region 1 of 'organs' is too small or too thin to move as a rigid body.")
    bench.registration.answer_solved()
    assert "too small" in bench.errors[-1]
    kept = bench.logic.keep()
    for told in (kept.forward, bench.logic.transform_node):
        assert told.GetAttribute(results.SETTINGS_ATTRIBUTE) == "λ of liver=0.10"


def test_deleted_regions_end(bench: Bench) -> None:
    node = segmentation(bench)
    bench.go_live()
    bench.logic.constraints.set_regions(node, {"bone": 0.9})
    bench.scene.RemoveNode(node)
    assert bench.registration.regions == (None, {})
    assert "follow the slider again" in bench.errors[0]
    assert bench.logic.state == "live"


def test_region_lambdas_survive_as_text() -> None:
    lambdas = {"Segment_1": 0.25, "7": 1.0}
    assert regions.from_text(regions.to_text(lambdas)) == lambdas
    assert regions.from_text("") == regions.from_text("[1, 2]") == regions.from_text("{") == {}
    assert regions.from_text('{"a": 3}') == {"a": 1.0}


def test_the_response_is_there_until_the_registration_ends(bench: Bench) -> None:
    bench.go_live()
    told: list[int] = []
    bench.logic.on_change = lambda: told.append(len(bench.logic.live.response.rows))
    bench.registration.answer_response(complete=False)
    assert bench.logic.live.suggestion is None
    bench.registration.answer_response()
    assert bench.logic.live.suggestion.lam == 0.2
    bench.logic.reset()
    assert list(dict.fromkeys(told)) == [3, 12, 0]
    assert bench.logic.live.suggestion is None
