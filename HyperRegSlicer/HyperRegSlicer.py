"""HyperRegSlicer: deformable registration with a live slider for how flexible the deformation may be."""

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


def makeEngineImportable():
    """`hyperreg` lies beside this file in an installed extension, in the folder above in the source tree."""
    if importlib.util.find_spec("hyperreg") is None:
        here = Path(__file__).resolve().parent
        sys.path += [str(folder) for folder in (here, here.parent) if (folder / "hyperreg").is_dir()]


class HyperRegSlicer(ScriptedLoadableModule):
    """The module's description."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("HyperReg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["The HyperReg contributors"]
        self.parent.helpText = _(
            "Bends the moving volume onto the fixed one. Press Register once, then drag λ from flexible to rigid and "
            "watch the result in all views. Not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "Based on HyperMorph (Hoopes et al., MELBA 2022) and VoxelMorph (Balakrishnan et al., IEEE TMI 2019)."
        )


class HyperRegSlicerLogic(ScriptedLoadableModuleLogic):
    """Gives the parameter node; the registration itself is in HyperRegSlicerLib.Logic, which needs no Slicer GUI."""

    def parameters(self):
        makeEngineImportable()
        from HyperRegSlicerLib.Parameters import RegistrationParameters

        return RegistrationParameters(self.getParameterNode())


class HyperRegSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the form and hands it to HyperRegSlicerLib.Widget; follows the scene and the application."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self.isOpen = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        makeEngineImportable()
        from HyperRegSlicerLib import Widget, Worker

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HyperRegSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HyperRegSlicerLogic()
        self.panel = Widget.RegistrationWidget(self.ui, Worker.Connection())
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReady)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReady)
        self.panel.set_parameters(self.logic.parameters())

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def enter(self):
        self.isOpen = True
        if self.panel is not None and self.panel.parameters is None:
            self.panel.set_parameters(self.logic.parameters())

    def exit(self):
        self.isOpen = False
        if self.panel is not None:
            self.panel.release_parameters()

    def onReload(self):
        """Reloads the library too, not only this file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "HyperRegSlicerLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, _caller, _event):
        self.panel.scene_closing()

    def onSceneReady(self, _caller, _event):
        if self.isOpen or self.parent.visible:  # after a reload nobody calls enter()
            self.panel.set_parameters(self.logic.parameters())


class HyperRegSlicerTest(ScriptedLoadableModuleTest):
    """Registers nothing (no worker, no network): checks what stands between Slicer's scene and the engine, in mm."""

    def setUp(self):
        makeEngineImportable()
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_RegisterIsOfferedForAFittingPairOnly()
        self.setUp()
        self.test_VolumesKeepTheirPlace()
        self.setUp()
        self.test_LiveTransformMovesPointsInPlace()
        self.setUp()

    def _volume(self, name, spacing=(2.0, 1.5, 3.0)):
        import numpy as np

        from hyperreg.imaging.volume import Volume
        from HyperRegSlicerLib import Geometry

        affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
        affine[:3, 3] = (12.0, -7.0, 5.0)
        array = np.arange(6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        Geometry.volume_to_node(Volume(array, affine, name), node)
        return node, array, affine

    def test_RegisterIsOfferedForAFittingPairOnly(self):
        parameters = HyperRegSlicerLogic().parameters()
        assert parameters.isValid() == (False, "Choose a fixed volume.")
        fixed, _array, _affine = self._volume("fixed")
        parameters.fixed = parameters.moving = fixed
        assert "are the same" in parameters.isValid()[1]
        parameters.moving = self._volume("moving")[0]
        assert parameters.isValid() == (True, "")
        with self.assertRaises(ValueError):  # noqa: PT027  there is no pytest in Slicer
            parameters.lam = 1.5

    def test_VolumesKeepTheirPlace(self):
        import numpy as np

        from HyperRegSlicerLib import Geometry

        node, array, affine = self._volume("placed")
        volume = Geometry.volume_from_node(node, None)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.ijk_to_ras, affine)
        assert node.GetImageData().GetScalarComponentAsDouble(2, 3, 4, 0) == array[2, 3, 4]

    def test_LiveTransformMovesPointsInPlace(self):
        import numpy as np

        from hyperreg.imaging.volume import DisplacementField
        from HyperRegSlicerLib import Geometry

        node, array, affine = self._volume("moving")
        linear = np.eye(4)
        linear[:3, 3] = (10.0, 0.0, -4.0)
        field = np.zeros((3, *array.shape), dtype=np.float32)
        live = Geometry.LiveTransform(DisplacementField(field, affine).grid, linear)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
        transform.SetAndObserveTransformFromParent(live.transform)
        node.SetAndObserveTransformNodeID(transform.GetID())
        point = (affine @ [2, 3, 4, 1])[:3]
        np.testing.assert_allclose(live.transform.TransformPoint(point), point + linear[:3, 3])
        field[:, 2, 3, 4] = (1.0, -2.0, 3.0)
        live.fill(DisplacementField(field, affine))
        assert transform.GetTransformFromParent() is live.transform
        np.testing.assert_allclose(live.transform.TransformPoint(point), point + linear[:3, 3] + (1, -2, 3), atol=1e-5)
