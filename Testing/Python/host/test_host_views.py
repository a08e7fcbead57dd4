"""Slice views, layouts, pictures and files in the test host."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")


# --- views and pictures -------------------------------------------------------------------------------------------


def test_slice_views_show_real_slices(host, scene, tmp_path):
    import slicer
    from PySide6.QtGui import QImage

    host.main_window.show()
    array = np.zeros((20, 40, 60), "float32")
    array[:, :, 30:] = 100
    volume = slicer.util.addVolumeFromArray(array, name="half")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    widget = slicer.app.layoutManager().sliceWidget("Red")
    image = QImage(str(host.screenshot(tmp_path / "red.png", widget.sliceView())))
    width, height = widget.sliceView().width, widget.sliceView().height
    assert (image.width(), image.height()) == (width, height)
    middle = [image.pixelColor(x, height // 2).red() for x in (width // 3, 2 * width // 3)]
    assert sorted(middle) == [0, 255]
    logic = widget.sliceLogic()
    assert logic.GetBackgroundLayer().GetVolumeNode() is volume
    assert widget.mrmlSliceNode().GetScene() is scene and widget.mrmlSliceNode().GetOrientation() == "Axial"
    before = widget.sliceView()._raw.render_count
    slicer.util.arrayFromVolume(volume)[:] = 0
    slicer.util.arrayFromVolumeModified(volume)
    host.process_events()
    widget.sliceView().forceRender()
    assert widget.sliceView()._raw.render_count > before
    assert widget.sliceView()._raw._image.pixelColor(width // 3, height // 2).red() == 0


def test_own_layout_makes_its_views(host, scene):
    import slicer

    manager = slicer.app.layoutManager()
    description = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
        '<property name="orientation" action="default">Coronal</property></view></item>'
        for name in ("Left", "Right")
    )
    node = manager.layoutLogic().GetLayoutNode()
    node.AddLayoutDescription(8123, f'<layout type="horizontal">{description}</layout>')
    manager.setLayout(8123)
    assert manager.layout == 8123
    assert manager.sliceWidget("Left").mrmlSliceNode().GetOrientation() == "Coronal"
    assert manager.sliceWidget("Right").isHidden() is False
    scene.Clear(0)
    host.process_events()
    assert manager.sliceWidget("Red").mrmlSliceNode().GetScene() is scene
    assert manager.sliceWidget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() is None


def test_scene_bundle(host, scene, tmp_path):
    import slicer

    slicer.util.addVolumeFromArray(np.full((3, 4, 5), 7, "int16"), name="seven")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert slicer.util.array("seven").mean() == 7


def test_nodes_are_saved_and_loaded(host, scene, tmp_path):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(60, dtype="int16").reshape(3, 4, 5), name="v")
    assert slicer.util.saveNode(volume, str(tmp_path / "v.nrrd"))
    loaded = slicer.util.loadVolume(str(tmp_path / "v.nrrd"))
    assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(volume))
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    matrix[0, 3] = 12.5
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    assert slicer.util.saveNode(transform, str(tmp_path / "t.h5"))
    again = slicer.util.loadTransform(str(tmp_path / "t.h5"))
    assert np.allclose(slicer.util.arrayFromTransformMatrix(again), matrix)
