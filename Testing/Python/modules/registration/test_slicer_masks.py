"""Areas that are left out of the match: what is marked becomes what counts, in mm, live, and is given up again."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from mrml_bench import FIXED, MOVING, Bench, turned
from slicer_module_bench import Module

from hyperreg.mrml import regions

# A block of the fixed volume's voxels, on a grid of its own: half as fine, and cut off around it.
BLOCK = (slice(4, 10), slice(6, 12), slice(2, 8))


def marks(bench: Bench, affine: np.ndarray, block=BLOCK, values: tuple[int, int] = (1, 1)):
    array = np.zeros((18, 26, 19), np.uint8)
    array[block] = values[0]
    array[15:17, 1:4, 10:14] = values[1]
    return bench.volume("resection", array, affine, regions.LABEL_MAP)


def test_what_is_marked_does_not_count_on_the_volumes_own_voxels(bench: Bench) -> None:
    """The label map is cut off around the block: beyond it everything counts."""
    first = np.eye(4)
    first[:3, 3] = (3, 5, 1)
    array = np.zeros((8, 8, 8), np.uint8)
    array[1:7, 1:7, 1:7] = 1
    node = bench.volume("resection", array, FIXED @ first, regions.LABEL_MAP)
    bench.logic.constraints.set_left_out("fixed", node)
    bench.go_live()
    mask, other = bench.registration.masks
    assert other is None
    expected = np.ones((18, 20, 16), np.uint8)
    expected[BLOCK] = 0
    np.testing.assert_array_equal(mask.array, expected)
    np.testing.assert_allclose(mask.ijk_to_ras, FIXED)
    assert "left out=fixed" in bench.logic.origin.settings


def test_one_segment_of_the_moving_volume_below_a_transform(bench: Bench) -> None:
    placed = turned(25, (1, 1, 1), (1, 1, 1), (30.0, -5.0, 8.0))
    above = bench.transform(placed)
    bench.moving.SetAndObserveTransformNodeID(above.GetID())
    node = marks(bench, MOVING, values=(3, 5))
    node.SetAndObserveTransformNodeID(above.GetID())
    bench.go_live()
    bench.logic.constraints.set_left_out("moving", node, "5")
    mask = bench.registration.masks[1]
    np.testing.assert_allclose(mask.ijk_to_ras, placed @ MOVING, atol=1e-9)
    assert (mask.array[15:17, 1:4, 10:14] == 0).all()
    assert (mask.array[BLOCK] == 1).all()
    bench.logic.constraints.set_left_out("moving", node)
    assert (bench.registration.masks[1].array[BLOCK] == 0).all()


def test_it_is_live_and_given_up(bench: Bench) -> None:
    logic, registration = bench.logic, bench.registration
    bench.go_live()
    node = marks(bench, FIXED)
    logic.constraints.set_left_out("fixed", node)
    mask = registration.masks[0]
    assert not logic.can_keep, "the field of before counts no more"
    registration.answer_solved()
    logic.constraints.set_left_out("fixed", node)
    assert registration.masks[0] is mask
    assert logic.can_keep, "the same again is no news"
    image = slicer.util.arrayFromVolume(node)
    image[0, 0, 0] = 1
    slicer.util.arrayFromVolumeModified(node)
    logic.constraints.set_left_out("fixed", node)
    assert registration.masks[0].array[0, 0, 0] == 0
    logic.constraints.set_left_out("moving", node)
    bench.scene.RemoveNode(node)
    assert registration.masks == (None, None)
    assert bench.errors[0] == "'resection' was deleted; all of the fixed volume counts again."
    assert bench.errors[-1] == "'resection' was deleted; all of the moving volume counts again."
    assert "left out" not in logic.origin.settings


@pytest.mark.parametrize("problem", ["elsewhere", "everything", "gone"])
def test_what_cannot_be_left_out_is_told_and_everything_counts(bench: Bench, problem: str) -> None:
    bench.go_live()
    bench.logic.constraints.set_left_out("fixed", marks(bench, FIXED))
    assert bench.registration.masks[0] is not None
    affine = FIXED.copy()
    if problem == "elsewhere":
        affine[:3, 3] += 500
    block = (slice(None),) * 3 if problem == "everything" else BLOCK
    bench.logic.constraints.set_left_out("fixed", marks(bench, affine, block), "9" if problem == "gone" else "")
    words = {"elsewhere": "marks nothing of the fixed volume", "everything": "marks all of", "gone": "has lost the"}
    assert words[problem] in bench.errors[-1]
    assert bench.registration.masks == (None, None)


def lesions(module: Module):
    node = module.volume("lesions", "vtkMRMLLabelMapVolumeNode")
    image = slicer.util.arrayFromVolume(node)
    image[:] = 0
    image[2:5, 3:6, 4:8], image[6:8, 3:6, 4:8] = 2, 5
    slicer.util.arrayFromVolumeModified(node)
    return node


def test_the_panel_leaves_out_what_is_chosen_until_reset(module: Module) -> None:
    ui, registration = module.ui, module.registration
    module.go_live()
    node = lesions(module)
    image = slicer.util.arrayFromVolume(node)
    assert not ui.fixedLeaveOutCombo.isVisibleTo(ui.fixedLeaveOutCombo.parent())
    ui.fixedLeaveOutSelector.setCurrentNode(node)
    assert module.parameters.fixedLeaveOut is node
    expected = (image.T == 0).astype(np.uint8)
    np.testing.assert_array_equal(registration.masks[0].array, expected)
    combo = ui.fixedLeaveOutCombo
    assert combo.isVisibleTo(combo.parent())
    assert [combo.itemText(n) for n in range(combo.count)] == ["All that is marked", "Label 2", "Label 5"]
    combo.setCurrentIndex(2)
    assert module.parameters.fixedLeaveOutSegment == "5"
    np.testing.assert_array_equal(registration.masks[0].array, image.T != 5)
    registration.answer_solved()
    image[0, 0, 0] = 5
    slicer.util.arrayFromVolumeModified(node)
    node.InvokeEvent(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)  # as the editor does
    module.host.wait_until(lambda: registration.masks[0].array[0, 0, 0] == 0, 20)
    assert not ui.keepButton.enabled
    registration.answer_solved()
    before = registration.masks
    ui.lambdaSlider.value = 0.8
    assert registration.masks == before, "moving λ sends no masks again"
    registration.answer_solved()
    ui.resetButton.click()
    assert ui.fixedLeaveOutSelector.currentNode() is None
    assert module.parameters.fixedLeaveOut is None
    assert slicer.mrmlScene.IsNodePresent(node), "the drawing stays"
    ui.undoResetButton.click()
    assert (module.parameters.fixedLeaveOut, module.parameters.fixedLeaveOutSegment) == (node, "5")
    assert registration.masks == before, "the very same: nothing has to be computed again"
    assert ui.keepButton.enabled
    ui.resetButton.click()
    module.ui.registerButton.click()
    registration.answer_ready()
    assert registration.masks == (None, None)


def test_what_is_left_out_is_saved_with_the_scene(module: Module) -> None:
    module.go_live()
    node = lesions(module)
    module.ui.movingLeaveOutSelector.setCurrentNode(node)
    mask = module.registration.masks[1]
    assert mask is not None
    module.widget.exit()
    module.widget.enter()
    assert module.ui.movingLeaveOutSelector.currentNode() is node
    assert module.registration.masks[1] is mask
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing drawn")
    module.ui.movingLeaveOutSelector.setCurrentNode(empty)
    assert "'nothing drawn' holds no segments" in module.ui.messageLabel.text
    assert module.registration.masks == (None, None)
