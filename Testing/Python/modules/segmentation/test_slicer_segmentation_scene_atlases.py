"""Atlases of the scene, a row of progress for each, and early answers of data parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from fake_fusion import learned
from segmentation_bench import OBLIQUE

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume

MOVED_MM = (12.0, -7.0, 30.0)


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def make_folder(name: str, *nodes, inside: int | None = None) -> int:
    made = hierarchy().CreateFolderItem(inside or hierarchy().GetSceneItemID(), name)
    for node in nodes:
        item = hierarchy().GetItemByDataNode(node)
        if item:
            hierarchy().SetItemParent(item, made)
        else:
            hierarchy().CreateItem(made, node)
    return made


def blocks(names: dict[str, int], reference: Volume | None = None) -> np.ndarray:
    """A block of 6 voxels per name, one after another along the first axis, with the name's number."""
    labels = np.zeros(OBLIQUE.shape, np.uint8)
    for place, number in enumerate(names.values()):
        labels[3 + 8 * place : 9 + 8 * place, 5:12, 5:12] = number
    return labels


def segmentation(reference, name: str, names: dict[str, int], *, refers: bool = True):
    from hyperreg.mrml.segmentation import results

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    structures = [Structure(n, n, word, (10 * n, 100, 100)) for word, n in names.items()]
    results.fill_segmentation(node, reference, Volume(blocks(names), OBLIQUE.ijk_to_ras), structures)
    if not refers:
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), None)
    return node


def label_map(name: str, names: dict[str, int]):
    from hyperreg.mrml import geometry

    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", f"{name} colours")
    table.SetTypeToUser()
    table.SetNumberOfColors(max(names.values()) + 1)
    for word, number in names.items():
        table.SetColor(number, word, 0.2, 0.4, 0.6, 1.0)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    geometry.volume_to_node(Volume(blocks(names), OBLIQUE.ijk_to_ras), node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    return node


def test_segments_that_overlap_are_refused_not_painted_over_each_other(module):
    from hyperreg.mrml.fusion.inputs import Numbering
    from hyperreg.mrml.segmentation.layer import segment_id

    for shift, refused in ((0, True), (8, False)):
        node = segmentation(module.image("image"), "both", {"Core": 1})
        other = segmentation(module.image("image"), "other", {"Rim": 1, "Far": 2})
        segment = other.GetSegmentation().GetSegment(segment_id(2 if shift else 1))
        node.GetSegmentation().AddSegment(segment, "second")
        if refused:
            with pytest.raises(InputError, match=r"overlap \(in 294 voxels\)"):
                Numbering().label_map(node)
        else:
            assert sorted(np.unique(Numbering().label_map(node).array)) == [0, 1, 2]


def moved(node) -> None:
    """Puts a node under a transform that moves it by MOVED_MM."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = np.eye(4)
    matrix[:3, 3] = MOVED_MM
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())


def choose(module, target, path: str) -> None:
    ui = module.ui
    module.panel.release_parameters()  # folders are made in another module
    module.panel.set_parameters(module.widget.logic.parameters())
    ui.atlasTargetsSelector.setCheckState(target, 2)
    ui.atlasSourceCombo.setCurrentIndex(1)
    ui.atlasSceneCombo.setCurrentIndex(ui.atlasSceneCombo.findData(path))
    module.panel.atlases.update()


def test_atlases_of_the_scene_reach_the_worker_in_their_place_and_numbered_by_names(module):
    ui, fuser = module.ui, module.connection.fuser
    target = module.image("target")
    one, two, three = (module.image(name) for name in ("one", "two", "three"))
    drawn = segmentation(one, "drawn on one", {"Core": 1, "Rim": 2})
    other = label_map("two_labels", {"rim": 30, "core": 1, "More": 2})
    by_name = segmentation(three, "three Segmentation", {"Rim": 1}, refers=False)
    for node in (one, drawn):
        moved(node)
    make_folder("here", one, drawn, inside=make_folder("Atlases", two, other, three, by_name))
    choose(module, target, "Atlases / here")
    assert ui.atlasFolderEdit.visible is False
    ui.atlasRunButton.click()
    choose(module, target, "Atlases")
    ((pairs, _target, options),) = fuser.asked
    assert [pair.name for pair in pairs] == ["one"]
    fuser.fail("enough")
    assert not Path(pairs[0].image).exists()
    fuser.asked.clear()
    ui.atlasRunButton.click()
    ((pairs, _target, options),) = fuser.asked
    assert [pair.name for pair in pairs] == ["three", "one", "two"]
    assert [(s.label, s.name) for s in options["structures"]] == [(1, "Rim"), (2, "Core"), (3, "More")]
    files = {pair.name: (read_volume(pair.image), read_label_map(pair.labels)) for pair in pairs}
    shifted = np.array(OBLIQUE.ijk_to_ras)
    shifted[:3, 3] += MOVED_MM
    for name, place in (("one", Grid(OBLIQUE.shape, shifted)), ("two", OBLIQUE), ("three", OBLIQUE)):
        image, labels = files[name]
        np.testing.assert_allclose(image.ijk_to_ras, place.ijk_to_ras, atol=1e-4)
        np.testing.assert_allclose(labels.ijk_to_ras, place.ijk_to_ras, atol=1e-4)
        assert labels.shape == place.shape
    np.testing.assert_array_equal(files["one"][1].array, blocks({"Core": 2, "Rim": 1}))
    np.testing.assert_array_equal(files["two"][1].array, blocks({"rim": 1, "core": 2, "More": 3}))
    np.testing.assert_array_equal(files["three"][1].array, blocks({"Rim": 1}))
    np.testing.assert_array_equal(files["three"][0].array, slicer.util.arrayFromVolume(three).T)
    fuser.answer()
    assert not Path(pairs[0].image).exists()
    assert module.parameters.consensus.GetName() == "target consensus"


def test_what_of_the_scene_cannot_be_paired_is_named(module):
    ui, fuser = module.ui, module.connection.fuser
    target = module.image("target")
    one, alone, a1, a2 = (module.image(name) for name in ("one", "alone", "a T1", "a T2"))
    nodes = [
        segmentation(one, "drawn", {"Core": 1}),
        label_map("one_labels", {"Core": 1}),
        label_map("a_labels", {"Core": 1}),
        label_map("lost_labels", {"Core": 1}),
    ]
    make_folder("Atlases", one, alone, a1, a2, *nodes)
    choose(module, target, "Atlases")
    ui.atlasRunButton.click()
    ((pairs, _target, _options),) = fuser.asked
    assert [pair.name for pair in pairs] == ["one"]
    fuser.answer()
    said = ui.messageLabel.text
    for words in (
        "one_labels: there is another label map of 'one'.",
        "alone: no segmentation or label map in the folder belongs to it.",
        "a_labels: several volumes begin with 'a' (a T1, a T2).",
        "lost_labels: no volume in the folder begins with 'lost'",
    ):
        assert words in said


def test_folders_of_patients_whose_images_are_called_the_same(module):
    fuser = module.connection.fuser
    target = module.image("target")
    whole = make_folder("Atlases")
    for patient in ("Smith", "Jones"):
        make_folder(patient, module.image("T1"), label_map("T1_labels", {"Core": 1}), inside=whole)
    choose(module, target, "Atlases")
    module.ui.atlasRunButton.click()
    ((pairs, _target, _options),) = fuser.asked
    assert [pair.name for pair in pairs] == ["Smith / T1", "Jones / T1"]
    assert len({pair.image for pair in pairs}) == 2


def test_an_empty_folder_or_none_is_told(module):
    ui = module.ui
    target = module.image("target")
    make_folder("Nothing", module.image("alone"))
    choose(module, target, "")
    assert not ui.atlasRunButton.enabled
    choose(module, target, "Nothing")
    ui.atlasRunButton.click()
    assert "The folder 'Nothing' holds no atlas" in ui.messageLabel.text
    assert "alone: no segmentation" in ui.messageLabel.text
    assert module.connection.fuser.asked == []


def test_atlases_of_the_scene_are_looked_through(module):
    ui, fuser = module.ui, module.connection.fuser
    target, one, alone = (module.image(name) for name in ("target", "one", "alone"))
    make_folder("Atlases", one, segmentation(one, "drawn", {"Core": 1}), alone)
    choose(module, target, "Atlases")
    ui.atlasCheckButton.click()
    ((kind, pairs, _options),) = fuser.asked
    assert kind == "find"
    assert Path(pairs[0].labels).exists()
    fuser.found()
    assert not Path(pairs[0].labels).exists()
    listed = [ui.atlasList.item(n).text() for n in range(ui.atlasList.count)]
    assert listed[-1] == "alone: no segmentation or label map in the folder belongs to it."
    assert ui.atlasStatusLabel.text == "1 of 3 atlases can be used."


def start(module, tmp_path, method: str = "local"):
    node = module.image()
    module.ui.atlasFolderEdit.currentPath = str(tmp_path)
    module.ui.atlasTargetsSelector.setCheckState(node, 2)
    module.ui.atlasMethodCombo.setCurrentIndex(module.ui.atlasMethodCombo.findData(method))
    module.panel.atlases.update()
    module.ui.atlasRunButton.click()
    return node


def test_a_row_for_every_atlas_while_it_runs(module, tmp_path):
    ui, fuser = module.ui, module.connection.fuser
    start(module, tmp_path)
    assert not ui.atlasRowsTable.visible
    fuser.news("a9", "waiting")
    fuser.news("bad", "left out", 1.0, "'bad_labels.nii.gz' is damaged.")
    fuser.news("a10", "cached", 1.0)
    fuser.news("a9", "running", 0.35, "Aligning: affine")
    table = ui.atlasRowsTable
    assert [[table.item(row, column).text() for column in (0, 1)] for row in range(table.rowCount)] == [
        ["a9", "Aligning: affine"],
        ["bad", "Left out: 'bad_labels.nii.gz' is damaged."],
        ["a10", "Registered before"],
    ]
    assert [table.cellWidget(row, 2).value for row in range(3)] == [35, 100, 100]
    fuser.news("a9", "done", 1.0)
    assert table.item(0, 1).text() == "Registered"
    fuser.answer()
    assert not ui.atlasRowsTable.visible


def test_an_early_answer_is_shown_and_can_be_kept(module, tmp_path):
    ui, fuser = module.ui, module.connection.fuser
    start(module, tmp_path, "dp")
    before = module.content()
    assert not ui.earlyPanel.visible
    fuser.early(25)
    first = slicer.util.getNode("head consensus so far")
    assert ui.earlyPanel.visible
    assert "Step 25 of 100" in ui.earlyLabel.text
    assert not ui.earlyPlot.pixmap.isNull()
    from hyperreg.mrml import regions
    from hyperreg.mrml.fusion import results

    size = np.count_nonzero(regions.label_volume(first).array) * OBLIQUE.spacing.prod()
    assert size == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.1)  # mm³
    found = fuser.early(50)
    assert "Step 50 of 100" in ui.earlyLabel.text
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    ui.keepEarlyButton.click()
    assert fuser.finished
    fuser.answer(learned=found.learned)
    assert not ui.earlyPanel.visible
    names = [entry.GetName() for entry in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert names == ["head consensus"]
    course = results.course_of(module.parameters.consensus)
    assert (list(course.steps), course.wanted) == ([25, 50], 100)
    assert course.values["a10"] == pytest.approx([0.2, 0.4])
    ui.atlasUndoButton.click()
    assert module.content() == before


@pytest.mark.parametrize("end", ["cancel", "fail", "close"])
def test_an_early_answer_goes_where_the_run_ends_without_a_result(module, tmp_path, end):
    ui, fuser = module.ui, module.connection.fuser
    start(module, tmp_path, "dp")
    before = module.content()
    fuser.early(25)
    if end == "cancel":
        ui.atlasRunButton.click()
    elif end == "fail":
        fuser.fail("The disk is full.")
    else:
        slicer.mrmlScene.Clear(0)
        assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
        return
    assert module.content() == before
    assert not ui.earlyPanel.visible


def test_the_plot_has_a_bar_and_a_line_per_atlas():
    from hyperreg.mrml.fusion import weights_plot
    from hyperreg.mrml.registration.response_plot import Line, Text

    found = learned(75)
    course = weights_plot.Course(found.history_steps, found.wanted, {row.name: row.history for row in found.atlases})
    weights = {row.name: row.weight for row in found.atlases}
    height, shapes = weights_plot.draw(weights, course, 340, "#000000")
    bars = [shape for shape in shapes if isinstance(shape, Line) and shape.width > 5]
    lengths = [bar.points[1][0] - bar.points[0][0] for bar in bars]
    assert lengths == pytest.approx([lengths[0], lengths[0] * 0.8, lengths[0] * 0.2], rel=1e-3)
    curves = {shape.colour: shape.points for shape in shapes if isinstance(shape, Line) and len(shape.points) == 4}
    assert set(curves) == {bar.colour for bar in bars}
    best, worst = curves[bars[0].colour], curves[bars[2].colour]
    assert best[-1][1] < best[0][1] == worst[0][1] < worst[-1][1]  # upwards is better
    assert best[-1][0] == pytest.approx(40 + 0.75 * (340 - 12 - 40))  # three quarters of the steps
    assert all(0 <= y <= height for shape in shapes if isinstance(shape, Line) for _x, y in shape.points)
    texts = [shape.text for shape in shapes if isinstance(shape, Text)]
    assert {"50.0 %", "40.0 %", "10.0 %", "step 100"} <= set(texts)
    few, _shapes = weights_plot.draw(weights, weights_plot.Course(), 340, "#000000")
    assert few < height
