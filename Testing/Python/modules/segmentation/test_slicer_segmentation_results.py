"""What a segmentation leaves in the scene: places in mm, names, terminology, figures; nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
import vtk
from imaging_examples import oblique_grid
from segmentation_bench import OBLIQUE, scene_centre
from segmentation_module_bench import DOUBTFUL
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.volume import Volume


def segment(module, name: str = "head", place: np.ndarray | None = None, *, surfaces: bool = True):
    """A segmented image (below a linear transform, if a place is given): its node, the result, its segmentation.

    surfaces: wait for them.
    """
    from hyperreg.mrml import geometry

    node = module.image(name)
    if place is not None:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "placed")
        transform.SetMatrixTransformToParent(geometry.to_vtk(place))
        node.SetAndObserveTransformNodeID(transform.GetID())
    module.ui.volumeSelector.setCurrentNode(node)
    module.ui.segmentButton.click()
    segmented = module.segmenter.answer()
    while surfaces and module.panel.logic.surfaces.pending:
        module.panel._poll()
    return node, segmented, module.parameters.segmentation


def surface_centre(found, label: int) -> np.ndarray:
    surface = found.GetSegmentation().GetSegment(f"Segment_{label}").GetRepresentation("Closed surface")
    low, high = np.array(surface.GetBounds()).reshape(3, 2).T
    return (low + high) / 2


def extent_centre(labels: Volume, label: int) -> np.ndarray:
    points = labels.grid.to_ras(np.argwhere(labels.array == label))
    return (points.min(0) + points.max(0)) / 2


def to_world(node, point: np.ndarray) -> np.ndarray:
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(point, world)
    return np.array(world)


def test_segments_lie_where_the_structures_are_in_mm(module):
    """Oblique, flipped, anisotropic: voxel by voxel, as saved, and as surfaces."""
    node, segmented, found = segment(module)
    for label in (2, 5):
        array = slicer.util.arrayFromSegmentBinaryLabelmap(found, f"Segment_{label}", node)
        np.testing.assert_array_equal(array.T == 1, segmented.labels.array == label)
        centre = extent_centre(segmented.labels, label)
        np.testing.assert_allclose(surface_centre(found, label), centre, atol=1.0)
    image = found.GetSegmentation().GetSegment("Segment_2").GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), OBLIQUE.ijk_to_ras, atol=1e-9)


def test_the_views_show_it_at_once(module, host, tmp_path):
    node = module.image()
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    module.ui.volumeSelector.setCurrentNode(node)

    def green() -> float:
        """The share of pixels with the shell's colour."""
        reader = vtk.vtkPNGReader()
        reader.SetFileName(str(host.screenshot(tmp_path / "views.png", size=(900, 700))))
        reader.Update()
        pixels = vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars()).astype(int)
        return float(((pixels[:, 1] > 120) & (pixels[:, 0] < 100) & (pixels[:, 2] < 110)).mean())

    before = green()
    module.ui.segmentButton.click()
    module.segmenter.answer()
    assert green() > before + 0.005


def test_everything_follows_the_transform_of_its_volume(module):
    """The engine is given the image in the world; results lie below the transform, as the image does."""
    place = np.array([[0, -1, 0, 30], [1, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    node, segmented, found = segment(module, place=place)
    given = module.segmenter.asked[-1][0]["image"]
    np.testing.assert_allclose(given.ijk_to_ras, place @ OBLIQUE.ijk_to_ras, atol=1e-9)
    assert found.GetParentTransformNode() is node.GetParentTransformNode()
    uncertainty = found.GetNodeReference("HyperReg.uncertainty")
    assert uncertainty.GetParentTransformNode() is node.GetParentTransformNode()
    world = to_world(found, surface_centre(found, 5))
    np.testing.assert_allclose(world, extent_centre(segmented.labels, 5), atol=1.5)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(found, "Segment_5", node)
    np.testing.assert_array_equal(array.T == 1, segmented.labels.array == 5)


def test_below_a_live_registration_the_result_goes_along(module):
    from hyperreg.mrml import linked

    node = module.image()
    live = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
    live.SetAttribute(linked.LIVE_ATTRIBUTE, "1")
    node.SetAndObserveTransformNodeID(live.GetID())
    module.ui.volumeSelector.setCurrentNode(node)
    module.ui.segmentButton.click()
    np.testing.assert_allclose(module.segmenter.asked[-1][0]["image"].ijk_to_ras, OBLIQUE.ijk_to_ras)
    module.segmenter.answer()
    found = module.parameters.segmentation
    assert found.GetParentTransformNode() is live
    assert found in linked.linked_nodes(live)
    linked.release(live)
    assert found.GetParentTransformNode() is None


def test_names_colours_and_terminology_are_the_model_s(module, tmp_path):
    _node, segmented, found = segment(module)
    segmentation = found.GetSegmentation()
    names = {segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())}
    assert names == {"Outer shell", "Core"}
    shell = segmentation.GetSegment("Segment_2")
    np.testing.assert_allclose(shell.GetColor(), np.array((10, 220, 30)) / 255)
    assert "~SCT^64033007^Kidney~SCT^24028007^Right~" in shell.GetTerminology()
    assert "~SCT^12738006^Brain~" in segmentation.GetSegment("Segment_5").GetTerminology()
    assert found.GetAttribute("HyperReg.model") == "bands"
    assert segmentation.GetNumberOfLayers() == 1  # one shared label map, not one image per structure
    # As Slicer reads what the command line writes.
    write_segmentation(segmented.labels, segmented.card.structures, tmp_path / "same.seg.nrrd")
    read = slicer.util.loadSegmentation(str(tmp_path / "same.seg.nrrd"))
    for label in (2, 5):
        ours, theirs = (s.GetSegmentation().GetSegment(f"Segment_{label}") for s in (found, read))
        assert ours.GetTerminology() == theirs.GetTerminology()
        np.testing.assert_allclose(ours.GetColor(), theirs.GetColor(), atol=1e-5)


def surfaces_of(node) -> dict[int, object]:
    segmentation = node.GetSegmentation()
    found = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        if segment.GetRepresentation("Closed surface") is not None:
            found[segment.GetLabelValue()] = segment.GetRepresentation("Closed surface")
    return found


def test_surfaces_are_those_that_slicer_would_make(module):
    _node, _segmented, found = segment(module)
    ours = {label: surface.GetBounds() for label, surface in surfaces_of(found).items()}
    found.RemoveClosedSurfaceRepresentation()
    found.CreateClosedSurfaceRepresentation()
    theirs = {label: surface.GetBounds() for label, surface in surfaces_of(found).items()}
    assert ours.keys() == theirs.keys() == {2, 5}
    for label, bounds in theirs.items():
        np.testing.assert_allclose(ours[label], bounds, atol=1e-3)


def test_surfaces_of_what_was_deleted_meanwhile_are_passed_over(module):
    _node, _segmented, _found = segment(module, surfaces=False)
    module.panel._poll()
    module.ui.undoButton.click()
    module.panel._poll()
    assert not module.panel.logic.surfaces.pending
    segment(module, "other", surfaces=False)
    assert module.panel.logic.surfaces.pending
    slicer.mrmlScene.Clear(0)
    assert not module.panel.logic.surfaces.pending


def test_the_reference_geometry_is_the_image_s_and_it_is_shown_in_3d(module):
    node, _segmented, found = segment(module, surfaces=False)
    assert found.GetNodeReference(found.GetReferenceImageGeometryReferenceRole()) is node
    parameter = found.GetSegmentation().GetConversionParameter("Reference image geometry").split(";")
    np.testing.assert_allclose(np.array(parameter[:16], float).reshape(4, 4), OBLIQUE.ijk_to_ras, atol=1e-6)
    surfaces = module.panel.logic.surfaces
    centred: list[str] = []
    surfaces.on_done = lambda made: centred.append(made.GetID())
    for _ in range(2):  # one at a time: the window goes on between them
        assert surfaces_of(found) == {}
        assert surfaces.pending
        module.panel._poll()
    assert not surfaces.pending
    assert len(surfaces_of(found)) == 2
    assert centred == [found.GetID()]
    assert found.GetDisplayNode().GetVisibility3D()
    module.ui.show3DCheckBox.checked = False
    _node, _segmented, flat = segment(module, "other")
    assert not surfaces.pending
    assert not flat.GetSegmentation().ContainsRepresentation("Closed surface")


def test_the_uncertainty_map_is_a_hidden_volume_on_the_same_voxels(module):
    node, segmented, found = segment(module)
    uncertainty = found.GetNodeReference("HyperReg.uncertainty")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(uncertainty).T, segmented.uncertainty.array)
    ours, theirs = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    uncertainty.GetIJKToRASMatrix(ours)
    node.GetIJKToRASMatrix(theirs)
    np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(ours), slicer.util.arrayFromVTKMatrix(theirs))
    assert not uncertainty.GetDisplayNode().GetVisibility()
    most = segmented.uncertainty.array.max()
    assert uncertainty.GetDisplayNode().GetLowerThreshold() == pytest.approx(most / 2)  # not every border
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    before = [(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites]
    assert uncertainty.GetID() not in {each for shown in before for each in shown}
    module.ui.showUncertaintyCheckBox.checked = True
    assert {c.GetForegroundVolumeID() for c in composites} == {uncertainty.GetID()}
    module.ui.showUncertaintyCheckBox.checked = False
    assert before == [
        (c.GetBackgroundVolumeID(), c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites
    ]


def test_the_table_holds_the_volumes_with_their_spread(module):
    _node, segmented, found = segment(module)
    table = found.GetNodeReference("HyperReg.volumes")
    names = [table.GetColumnName(n) for n in range(table.GetNumberOfColumns())]
    assert names == [
        "Image", "Structure", "Label", "Volume (ml)", "Sure (ml)", "Doubtful (ml)", "Mean probability"
    ]  # fmt: skip
    columns = {name: slicer.util.arrayFromTableColumn(table, name) for name in names[2:]}
    assert list(columns["Label"]) == [2, 5]
    voxel = float(np.prod(OBLIQUE.spacing)) / 1000
    counts = [(segmented.labels.array == label).sum() for label in (2, 5)]
    np.testing.assert_allclose(columns["Volume (ml)"], np.array(counts) * voxel)
    for name, values in (
        ("Sure (ml)", [v.sure_ml for v in segmented.volumes]),
        ("Doubtful (ml)", [v.doubtful_ml for v in segmented.volumes]),
        ("Mean probability", [v.mean_probability for v in segmented.volumes]),
    ):
        np.testing.assert_allclose(columns[name], values)
    assert (columns["Sure (ml)"] < columns["Doubtful (ml)"]).all()


def test_the_views_go_from_one_doubtful_region_to_the_next(module):
    place = np.array([[0, -1, 0, 30], [1, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    segment(module, place=place)
    ui = module.ui

    def shown() -> np.ndarray:
        """The point in the middle of all three slice views, mm."""
        nodes = [slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode") for name in ("Red", "Green", "Yellow")]
        middles = np.array([[n.GetSliceToRAS().GetElement(row, 3) for row in range(3)] for n in nodes])
        np.testing.assert_allclose(middles, middles[[0, 0, 0]], atol=1e-6)
        return middles[0]

    expected = [(place @ [*(scene_centre(OBLIQUE) + centre), 1])[:3] for centre, _radius in DOUBTFUL]
    ui.nextDoubtButton.click()
    assert np.linalg.norm(shown() - expected[0]) < 4
    assert ui.doubtLabel.text.startswith("Doubtful region 1 of 2: ")
    assert ui.doubtLabel.text.endswith(("in Outer shell.", "in Core."))
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    np.testing.assert_allclose(crosshair.GetCrosshairRAS(), shown(), atol=1e-6)
    ui.nextDoubtButton.click()
    assert np.linalg.norm(shown() - expected[1]) < 4
    ui.nextDoubtButton.click()
    assert np.linalg.norm(shown() - expected[0]) < 4
    assert crosshair.GetCrosshairMode() == crosshair.ShowBasic
    ui.undoButton.click()
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair


def test_undo_takes_the_whole_run_away_and_nothing_else(module, host):
    node = module.image()
    before = module.content()
    module.ui.volumeSelector.setCurrentNode(node)
    module.ui.segmentButton.click()
    module.segmenter.answer()
    assert len(module.content() - before) >= 3
    module.ui.undoButton.click()
    assert module.content() == before
    assert not module.ui.undoButton.enabled
    assert not module.ui.resultPanel.visible
    assert host.records.dialogs == []


def test_undo_asks_before_it_drops_what_was_edited(module, host):
    node, _segmented, found = segment(module)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(found, "Segment_5", node)
    array[:] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, found, "Segment_5", node)
    host.records.answer(False, True)
    module.ui.undoButton.click()
    assert module.parameters.segmentation is found
    module.ui.undoButton.click()
    assert module.parameters.segmentation is None


def test_it_is_one_step_of_the_scene_s_own_undo(module):
    slicer.mrmlScene.SetUndoOn()
    try:
        node = module.image()
        before = module.content()
        module.ui.volumeSelector.setCurrentNode(node)
        module.ui.segmentButton.click()
        module.segmenter.answer()
        slicer.mrmlScene.Undo()
        assert module.content() == before
        assert not module.panel.logic.can_undo
    finally:
        slicer.mrmlScene.SetUndoOff()
        slicer.mrmlScene.ClearUndoStack()


def test_several_volumes_one_after_another_and_one_fails(module, qt):
    images = [module.image(name) for name in ("one", "two", "two", "four")]
    before = module.content()
    for image in images:
        module.ui.batchSelector.setCheckState(image, qt.Qt.Checked)
    module.ui.batchButton.click()
    module.segmenter.progress(0.5, "Segmenting")
    assert module.ui.progressBar.value == 12
    assert module.ui.statusLabel.text == "one (1 of 4): Segmenting"
    module.segmenter.answer()
    module.segmenter.fail("'two' is empty: every voxel is 0.")
    module.segmenter.answer()
    module.segmenter.answer()
    assert [next(iter(volumes.values())).name for volumes, _, _ in module.segmenter.asked] == [
        image.GetName() for image in images
    ]
    text = module.ui.summaryLabel.text
    assert text.startswith("3 of 4 volumes segmented with Eggs in 15 s.\nNot segmented:\n")
    assert "'two' is empty" in text
    added = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in module.content() - before]
    segmentations = [node for node in added if node.IsA("vtkMRMLSegmentationNode")]
    (table,) = [node for node in added if node.IsA("vtkMRMLTableNode")]
    assert len(segmentations) == 3
    assert table.GetNumberOfRows() == 6
    assert len({table.GetCellText(row, 0) for row in range(6)}) == 3
    for node in segmentations:
        assert node.GetNodeReference("HyperReg.volumes") is table
    module.ui.undoButton.click()
    assert module.content() == before


def test_cancelling_a_series_keeps_what_is_done(module, qt):
    for name in ("one", "two"):
        module.ui.batchSelector.setCheckState(module.image(name), qt.Qt.Checked)
    before = module.content()
    module.ui.batchButton.click()
    module.segmenter.answer()
    done = module.content()
    module.ui.segmentButton.click()
    assert module.content() == done != before
    module.ui.undoButton.click()
    assert module.content() == before


def test_a_volume_that_is_deleted_meanwhile_does_not_stop_the_others(module, qt):
    images = [module.image(name) for name in ("one", "two", "three")]
    for image in images:
        module.ui.batchSelector.setCheckState(image, qt.Qt.Checked)
    module.ui.batchButton.click()
    slicer.mrmlScene.RemoveNode(images[1])
    module.segmenter.answer()
    assert next(iter(module.segmenter.asked[-1][0].values())).name == "three"
    module.segmenter.answer()
    assert "'two' was deleted before it could be segmented" in module.ui.summaryLabel.text


def test_an_image_is_segmented_on_its_own_voxels_whatever_their_size(module):
    node = module.image("thick", oblique_grid((40, 36, 8), (1.0, 1.0, 8.0)))
    module.ui.volumeSelector.setCurrentNode(node)
    module.ui.segmentButton.click()
    segmented = module.segmenter.answer()
    found = module.parameters.segmentation
    array = slicer.util.arrayFromSegmentBinaryLabelmap(found, "Segment_5", node)
    np.testing.assert_array_equal(array.T == 1, segmented.labels.array == 5)
