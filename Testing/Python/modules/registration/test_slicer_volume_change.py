"""The map of local volume change in the scene: its numbers on turned grids, and that it is of what is shown."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from fake_registration import FULL
from mrml_bench import FIXED, Bench
from slicer_module_bench import Module
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.registration.anchors import Fields

# A stretch in RAS, of which no axis is one of the grid's: volumes become 1.2 * 0.9 * 1.1 of what they were.
STRETCH = np.diag([1.2, 0.9, 1.1])


@pytest.fixture(autouse=True)
def _at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperreg.mrml.registration import volume_change

    monkeypatch.setattr(volume_change, "REST_S", 0.0)


def stretched(grid: Grid) -> Fields:
    array = np.moveaxis(grid.points() @ (STRETCH - np.eye(3)).T, -1, 0).astype(np.float32)
    field = DisplacementField(array, grid.ijk_to_ras)
    return Fields(field, field)


def values(node) -> np.ndarray:
    """(I, J, K), %."""
    image = node.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).T


def spread_of(node) -> float:
    return float(np.nanmax(values(node)) - np.nanmin(values(node)))


def test_the_map_has_the_change_in_percent_where_it_is(bench: Bench) -> None:
    """The fixed volume's world is turned, flipped and anisotropic."""
    bench.registration.fields = lambda lam, stage=1: stretched(bench.registration.grid)
    bench.logic.volume_change.want(True)
    bench.go_live()
    assert bench.logic.volume_change.node is None, "nobody has asked to settle yet"
    bench.logic.volume_change.settle()
    node = bench.logic.volume_change.node
    from hyperreg.mrml import geometry

    body = foreground(geometry.volume_from_node(bench.fixed, None))
    assert 0.2 < body.mean() < 1
    np.testing.assert_allclose(values(node)[body], 100 * (np.linalg.det(STRETCH) - 1), atol=0.02)
    assert np.isnan(values(node)[~body]).all(), "in the air nothing is seen"

    placed = geometry.volume_from_node(node, node.GetParentTransformNode())
    np.testing.assert_allclose(placed.ijk_to_ras, FIXED, atol=1e-6)
    assert node.GetName() == "follow-up local volume change λ=0.25 (%)"
    assert node.GetAttribute("HyperReg.lambda") == "0.2500"
    assert node.GetAttribute("HyperReg.stage") == "Quick result (2 mm)"


def test_it_is_always_of_what_is_shown(bench: Bench) -> None:
    logic = bench.logic
    logic.volume_change.want(True)
    bench.go_live()
    logic.volume_change.settle()
    node = logic.volume_change.node
    quick = values(node).copy()
    assert np.nanmax(quick) - np.nanmin(quick) > 1
    logic.set_lambda(0.6)  # a preview
    logic.volume_change.settle()
    assert logic.volume_change.node is None
    bench.registration.answer_solved()
    assert logic.volume_change.node is None
    logic.volume_change.settle()
    assert logic.volume_change.node is node, "the same node is filled anew"
    assert spread_of(node) < 0.8 * (np.nanmax(quick) - np.nanmin(quick)), "stiffer"
    at_quick = values(node).copy()
    bench.registration.answer_solved(FULL)
    logic.volume_change.settle()
    assert np.nanmax(np.abs(values(node) - at_quick)) > 0.1
    assert node.GetAttribute("HyperReg.stage") == "Full resolution (1 mm)"
    logic.reset()
    assert logic.volume_change.node is None
    assert not bench.scene.IsNodePresent(node)


def test_off_or_gone_nothing_of_it_stays(bench: Bench) -> None:
    logic = bench.logic
    logic.volume_change.want(True)
    bench.go_live()
    before = bench.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    logic.volume_change.settle()
    assert bench.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before + 1
    logic.volume_change.want(False)
    logic.volume_change.settle()
    assert bench.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before
    logic.volume_change.want(True)
    logic.volume_change.settle()
    bench.scene.RemoveNode(logic.volume_change.node)
    assert logic.volume_change.node is None
    logic.volume_change.settle()
    assert logic.volume_change.node is not None, "the box is still ticked"
    bench.scene.RemoveNode(logic.transform_node)
    assert bench.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before
    assert bench.errors[-1].startswith("The live transform was deleted")


def test_it_lies_over_the_views_while_its_box_is_ticked(module: Module) -> None:
    ui, host = module.ui, module.host
    labels = module.volume("organs", "vtkMRMLLabelMapVolumeNode")
    module.go_live()
    for composite in module.composites().values():
        composite.SetLabelVolumeID(labels.GetID())
    assert not ui.volumeChangeBox.checked
    ui.volumeChangeBox.click()
    assert module.parameters.showVolumeChange

    def over() -> set:
        return {composite.GetLabelVolumeID() for composite in module.composites().values()}

    host.wait_until(lambda: module.panel.logic.volume_change.node is not None, 20)
    node = module.panel.logic.volume_change.node
    host.process_events()
    assert over() == {node.GetID()}
    assert {round(c.GetLabelOpacity(), 3) for c in module.composites().values()} == {0.5}
    ui.lambdaSlider.value = 0.7
    assert over() == {labels.GetID()}, "a preview has no map; what lay there before is back"
    assert ui.volumeChangeNote.text == "The map comes once λ = 0.70 is computed."
    module.registration.answer_solved()
    host.wait_until(lambda: over() == {node.GetID()}, 20)
    assert not ui.volumeChangeNote.visible
    ui.volumeChangeBox.click()
    assert over() == {labels.GetID()}
    assert {c.GetLabelOpacity() for c in module.composites().values()} == {1.0}
    ui.volumeChangeBox.click()
    host.wait_until(lambda: module.panel.logic.volume_change.node is not None, 20)
    ui.resetButton.click()
    assert not [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "change" in n.GetName()]
    assert over() == {labels.GetID()}
    assert ui.volumeChangeBox.checked, "the next registration has one, too"


def test_the_scale_is_symmetric_in_halved_and_doubled() -> None:
    from hyperreg.mrml.registration import volume_change

    height, shapes = volume_change.legend(300, "#000000")
    texts = {shape.text: shape.x for shape in shapes if isinstance(shape, volume_change.Text)}
    assert texts["0"] == pytest.approx(150)
    assert texts["-50 %"] + texts["+100 %"] == pytest.approx(300)
    assert texts["-25 %"] + texts["+33 %"] == pytest.approx(300, abs=0.5)
    assert max(shape.y for shape in shapes if isinstance(shape, volume_change.Text)) < height
    assert volume_change.colour_at(0) == (1, 1, 1)
    assert volume_change.colour_at(-1)[2] > volume_change.colour_at(-1)[0]
    assert volume_change.colour_at(1)[0] > volume_change.colour_at(1)[2]
