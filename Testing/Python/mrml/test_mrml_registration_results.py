"""What the registration logic keeps as nodes, and objects that follow the moving volume; with a stand-in worker."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import SimpleITK as sitk
import slicer
from fake_registration import wavy
from mrml_bench import AGREE_MM, FIXED, LINEAR, turned

import hyperreg
from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging import itk
from hyperreg.imaging.transform import Transform
from hyperreg.mrml import geometry, linked, nodes
from hyperreg.mrml.lifecycle import LIVE
from hyperreg.mrml.registration import report, results
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.model import save_untrained


def test_kept_volume_is_what_itk_makes_of_the_saved_transform(bench, tmp_path):
    parent = bench.transform(turned(15, (1, 1, 1), (1, 1, 1), (2.0, 3.0, -4.0)))
    bench.moving.SetAndObserveTransformNodeID(parent.GetID())
    bench.go_live()
    kept = bench.logic.keep()
    storage = bench.scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(tmp_path / "kept.h5"))
    assert storage.WriteData(kept.forward)
    reference = itk.volume_to_itk(geometry.volume_from_node(bench.fixed, None))
    image = itk.volume_to_itk(geometry.volume_from_node(bench.moving, None))
    transform = sitk.ReadTransform(str(tmp_path / "kept.h5"))
    fill = float(sitk.GetArrayViewFromImage(image).min())
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear, fill)).T
    result = geometry.volume_from_node(kept.volume, None)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(result.array, expected, atol=1e-2)
    assert result.grid.matches(geometry.volume_from_node(bench.fixed, None).grid)
    # Without the deformation it would look different: the test can fail.
    assert np.abs(expected - sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform())).T).max() > 50


def test_kept_nodes_say_where_they_come_from_and_stay(bench, points):
    bench.go_live()
    kept = bench.logic.keep()
    for node in (kept.volume, kept.forward, kept.inverse):
        assert node.GetAttribute(results.LAMBDA_ATTRIBUTE) == "0.2500"
        assert node.GetAttribute(nodes.MODEL_ATTRIBUTE) == bench.model
        assert node.GetAttribute(nodes.VERSION_ATTRIBUTE) == hyperreg.__version__
    assert linked.ends(kept.forward) == (bench.fixed, bench.moving)
    assert linked.ends(kept.inverse) == (bench.moving, bench.fixed)
    forward, inverse = (node.GetTransformFromParent() for node in (kept.forward, kept.inverse))
    there = np.array([forward.TransformPoint(point) for point in points])
    moved = Transform((geometry.padded(wavy(bench.registration.grid, 0.25)), LINEAR)).apply(points)
    np.testing.assert_allclose(there, moved, atol=AGREE_MM)
    back = Transform((np.linalg.inv(LINEAR), geometry.padded(wavy(bench.registration.grid, 0.25, sign=-1.0)))).apply(
        there
    )
    np.testing.assert_allclose([inverse.TransformPoint(point) for point in there], back, atol=AGREE_MM)
    bench.logic.set_lambda(1.0)
    bench.logic.reset()
    np.testing.assert_allclose([forward.TransformPoint(point) for point in points], there, atol=1e-12)
    assert not linked.is_live_transform(kept.forward)


def test_a_model_that_is_removed_while_it_is_shown_is_still_told_of(bench, tmp_path, monkeypatch):
    """Its result is shown, kept and reported as before, also if another has taken its name; a new one is refused."""
    bench.go_live()
    card = find_model(bench.model)
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path))
    bench.logic.set_lambda(0.4)
    bench.registration.answer_solved()
    assert (bench.logic.state, bench.logic.live.shown.lam, bench.errors) == (LIVE, 0.4, [])
    images = (geometry.volume_from_node(node, None) for node in (bench.fixed, bench.moving))
    result = bench.logic.result(*images)
    with pytest.raises(WeightsError, match=f"no model '{bench.model}'"):
        bench.register()
    assert bench.logic.state == LIVE
    assert bench.logic.keep().volume.GetAttribute(nodes.MODEL_ATTRIBUTE) == bench.model
    save_untrained(tmp_path, bench.model, seed=1)
    told = report.report_of(result, ())["model"]
    assert told == {"name": card.name, "version": card.version, "sha256": card.sha256, "licence": card.licence}
    assert find_model(bench.model).sha256 != card.sha256


def test_keep_refuses_a_preview(bench):
    with pytest.raises(InputError, match="not complete yet"):
        bench.logic.keep()
    bench.go_live()
    bench.logic.set_lambda(0.8)
    count = bench.scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="not complete yet"):
        bench.logic.keep()
    assert bench.scene.GetNumberOfNodes() == count


def test_markups_models_and_segmentations_follow_and_come_back(bench):
    along = [
        bench.scene.AddNewNodeByClass(kind, kind)
        for kind in ("vtkMRMLMarkupsFiducialNode", "vtkMRMLModelNode", "vtkMRMLSegmentationNode")
    ]
    with pytest.raises(InputError, match="Register first"):
        bench.logic.transform.take_along(along[0])
    before = bench.content()
    bench.go_live(lam=0.0)
    for node in along:
        bench.logic.transform.take_along(node)
        bench.logic.transform.take_along(node)  # twice is once
    assert bench.logic.transform.linked_nodes == along
    fixed_point = (np.array([[8, 9, 7]]) @ FIXED[:3, :3].T + FIXED[:3, 3])[0]
    markups = along[0]
    truth = Transform((wavy(bench.registration.grid, 0.0), LINEAR))
    markups.AddControlPoint(*truth.apply(fixed_point[None])[0])
    shown = np.zeros(3)
    markups.GetNthControlPointPositionWorld(0, shown)
    # Adding takes local coordinates: the landmark of the moving image appears on the fixed point.
    np.testing.assert_allclose(shown, fixed_point, atol=2e-3)
    bench.logic.set_lambda(1.0)
    markups.GetNthControlPointPositionWorld(0, shown)
    assert np.linalg.norm(shown - fixed_point) > 2  # mm: it follows the slider
    bench.logic.transform.leave_behind(along[1])
    assert along[1].GetParentTransformNode() is None
    assert bench.logic.transform.linked_nodes == [along[0], along[2]]
    bench.logic.reset()
    assert bench.content() == before


def test_a_node_to_follow_in_another_space_is_refused(bench):
    bench.go_live()
    model = bench.scene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    model.SetAndObserveTransformNodeID(bench.transform(np.eye(4)).GetID())
    with pytest.raises(InputError, match="'skull' is under another transform"):
        bench.logic.transform.take_along(model)
    with pytest.raises(InputError, match="already part"):
        bench.logic.transform.take_along(bench.moving)
    assert bench.logic.transform.linked_nodes == []


def test_results_belong_to_the_moving_volume_s_patient_and_study(bench):
    """Slicer's own DICOM export takes both from the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(bench.scene)
    studies = {}
    for volume, name in ((bench.fixed, "One"), (bench.moving, "Other")):
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), f"{name}^Patient")
        studies[name] = hierarchy.CreateStudyItem(patient, f"Study of {name}")
        hierarchy.CreateItem(studies[name], volume)
    bench.go_live()
    kept = bench.logic.keep()
    for node in (kept.volume, kept.forward, kept.inverse):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == studies["Other"]
    beside = bench.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    linked.accompany(bench.fixed, beside)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(beside)) == studies["One"]
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Atlases")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(bench.fixed), folder)
    stray = bench.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    linked.accompany(bench.fixed, stray)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(stray)) != folder
