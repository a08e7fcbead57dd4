"""The module in the test host with the real worker and a tiny model, from the first click to the kept result."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import SimpleITK as sitk
import slicer
import vtk

from hyperreg.imaging import itk
from hyperreg.imaging.volume import Volume

MODULE = Path(__file__).resolve().parents[4] / "HyperRegSlicer" / "HyperRegSlicer.py"
PATIENCE_S = 240.0
pytestmark = pytest.mark.slow


def blob(centre: tuple[float, float, float], radii: tuple[float, float, float], affine: np.ndarray, shape) -> Volume:
    """An ellipsoid with a bright core, RAS mm."""
    grid = Volume(np.zeros(shape, np.float32), affine).grid
    distance = np.linalg.norm((grid.points() - centre) / radii, axis=-1)
    array = 400 * (distance < 1) + 300 * (distance < 0.5) + 20 * np.random.default_rng(0).normal(size=shape)
    return Volume(array.astype(np.float32), affine)


@pytest.fixture
def widget(host, tiny_model):
    host.load(MODULE)
    from hyperreg.mrml import geometry

    made = host.widget("HyperRegSlicer")
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) * (2.0, 2.2, 2.5)
    turned[:3, 3] = (-42, -60, -50)
    straight = np.diag([-2.2, -2.2, 2.2, 1.0])
    straight[:3, 3] = (50, 52, -48)
    for selector, name, volume in (
        (made.ui.fixedSelector, "head", blob((2, 3, 1), (32, 40, 34), turned, (46, 48, 42))),
        (made.ui.movingSelector, "follow-up", blob((6, -2, 4), (36, 36, 33), straight, (46, 46, 46))),
    ):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        geometry.volume_to_node(volume, node)
        selector.setCurrentNode(node)
    return made


def test_from_the_first_click_to_the_kept_result(host, widget, tmp_path):
    from hyperreg.mrml import geometry

    ui, panel = widget.ui, widget.panel
    ui.registerButton.click()
    assert ui.registerButton.text == "Cancel"
    host.wait_until(lambda: ui.keepButton.visible and ui.keepButton.enabled, PATIENCE_S)
    fixed, moving = panel.parameters.fixed, panel.parameters.moving
    node = moving.GetParentTransformNode()
    general = node.GetTransformFromParent()
    points = geometry.volume_from_node(fixed, None).grid.to_ras(np.random.default_rng(1).uniform(8, 36, (60, 3)))
    for lam in (0.0, 1.0, 0.42):
        ui.lambdaSlider.value = lam
        host.wait_until(lambda: ui.keepButton.enabled, PATIENCE_S)
        assert panel.logic.live.shown.lam == pytest.approx(lam)
        assert node.GetTransformFromParent() is general
        seen = vtk.vtkGeneralTransform()
        node.GetTransformFromWorld(seen)
        expected = panel.connection.registration.transform().apply(points)
        np.testing.assert_allclose([seen.TransformPoint(point) for point in points], expected, atol=1e-3)
    host.wait_until(lambda: "λ = 0.42: similarity" in ui.metricsLabel.text, PATIENCE_S)
    # The affine start alone brings the blobs together: centres 7 mm apart before.
    centre = panel.connection.registration.transform().apply(np.array([[2.0, 3.0, 1.0]]))[0]
    assert np.linalg.norm(centre - (6, -2, 4)) < 3.0

    ui.keepButton.click()
    kept, forward = (slicer.util.getNode(f"follow-up {what} λ=0.42") for what in ("registered", "transform"))
    assert slicer.util.saveNode(forward, str(tmp_path / "forward.h5"))
    reference = itk.volume_to_itk(geometry.volume_from_node(fixed, None))
    image = itk.volume_to_itk(geometry.volume_from_node(moving, None))
    fill = float(slicer.util.arrayFromVolume(moving).min())
    warped = sitk.Resample(image, reference, sitk.ReadTransform(str(tmp_path / "forward.h5")), sitk.sitkLinear, fill)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(kept), sitk.GetArrayFromImage(warped), atol=0.05)
    ui.resetButton.click()
    assert moving.GetParentTransformNode() is None
    assert "GPU" in "".join(ui.deviceCombo.itemText(n) for n in range(ui.deviceCombo.count))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signal")
def test_a_killed_worker_costs_nothing(host, widget):
    ui, panel = widget.ui, widget.panel
    panel.parameters.fullAutomatically = False  # it would be cancelled by the slider: its loss would not be one
    ui.registerButton.click()
    host.wait_until(lambda: ui.keepButton.visible and ui.keepButton.enabled, PATIENCE_S)
    node = panel.parameters.transform
    ui.lambdaSlider.value = 0.83  # no λ of the response: a field is on its way
    client = panel.connection._client
    killed = client.pid
    os.kill(killed, signal.SIGKILL)
    # Told if something was on its way; a worker that had just finished is only replaced.
    host.wait_until(lambda: "HyperReg engine" in ui.messageLabel.text or client.pid != killed, PATIENCE_S)
    assert panel.parameters.moving.GetParentTransformNode() is node
    ui.lambdaSlider.value = 0.2
    host.wait_until(lambda: ui.keepButton.enabled, PATIENCE_S)
    assert panel.logic.live.shown.lam == pytest.approx(0.2)
    assert panel.parameters.transform is node


def test_what_cannot_be_registered_is_told(host, widget):
    ui, panel = widget.ui, widget.panel
    slicer.util.arrayFromVolume(panel.parameters.moving)[:] = 7
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    ui.registerButton.click()
    host.wait_until(lambda: ui.messageLabel.text, PATIENCE_S)
    assert "follow-up" in ui.messageLabel.text
    assert ui.registerButton.text == "Register"
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert panel.parameters.moving.GetParentTransformNode() is None
