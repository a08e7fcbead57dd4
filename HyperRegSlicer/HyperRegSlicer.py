"""HyperRegSlicer: deformable registration with a live slider for how flexible the deformation may be."""

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic


def makeEngineImportable():
    """`hyperreg` lies beside this file in an installed extension, in the folder above in the source tree."""
    if importlib.util.find_spec("hyperreg") is None:
        here = Path(__file__).resolve().parent
        sys.path += [str(folder) for folder in (here, here.parent) if (folder / "hyperreg").is_dir()]


makeEngineImportable()

from HyperRegSlicerLib.Shell import ShellTest, ShellWidget  # noqa: E402


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
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offers the sample pair in the Sample Data module; it lies on this computer."""
    from HyperRegSlicerLib import Sample

    Sample.register(Path(__file__).resolve().parent / "Resources" / "Icons" / "HyperRegSlicer.png")


class HyperRegSlicerLogic(ScriptedLoadableModuleLogic):
    """Gives the parameter node; the registration itself is in hyperreg.mrml.registration, which needs no Qt."""

    def parameters(self):
        from HyperRegSlicerLib.Parameters import RegistrationParameters

        return RegistrationParameters(self.getParameterNode())


class HyperRegSlicerWidget(ShellWidget):
    """Hands the form to HyperRegSlicerLib.Widget."""

    RELOADED = ("HyperRegSlicerLib.", "hyperreg.mrml.")

    def makeLogic(self):
        return HyperRegSlicerLogic()

    def makePanel(self):
        from HyperRegSlicerLib import Widget, Worker

        return Widget.RegistrationWidget(self.ui, Worker.Connection())


class HyperRegSlicerTest(ShellTest):
    """Registers nothing: checks what stands between Slicer's scene and the engine, in mm."""

    def test_RegisterIsOfferedForAFittingPairOnly(self):
        parameters = HyperRegSlicerLogic().parameters()
        assert parameters.isValid() == (False, "Choose a fixed volume.")
        fixed, _array, _affine = self.makeVolume("fixed")
        parameters.fixed = parameters.moving = fixed
        assert "are the same" in parameters.isValid()[1]
        parameters.moving = self.makeVolume("moving")[0]
        assert parameters.isValid() == (True, "")
        with self.assertRaises(ValueError):  # noqa: PT027  there is no pytest in Slicer
            parameters.lam = 1.5

    def test_VolumesKeepTheirPlace(self):
        import numpy as np

        from hyperreg.mrml import geometry

        node, array, affine = self.makeVolume("placed")
        volume = geometry.volume_from_node(node, None)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.ijk_to_ras, affine)
        assert node.GetImageData().GetScalarComponentAsDouble(2, 3, 4, 0) == array[2, 3, 4]

    def test_LiveTransformMovesPointsInPlace(self):
        import numpy as np

        from hyperreg.imaging.volume import DisplacementField
        from hyperreg.mrml import geometry

        node, array, affine = self.makeVolume("moving")
        linear = np.eye(4)
        linear[:3, 3] = (10.0, 0.0, -4.0)
        field = np.zeros((3, *array.shape), dtype=np.float32)
        live = geometry.LiveTransform(DisplacementField(field, affine).grid, linear)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
        transform.SetAndObserveTransformFromParent(live.transform)
        node.SetAndObserveTransformNodeID(transform.GetID())
        point = (affine @ [2, 3, 4, 1])[:3]
        np.testing.assert_allclose(live.transform.TransformPoint(point), point + linear[:3, 3])
        field[:, 2, 3, 4] = (1.0, -2.0, 3.0)
        live.fill(DisplacementField(field, affine))
        assert transform.GetTransformFromParent() is live.transform
        np.testing.assert_allclose(live.transform.TransformPoint(point), point + linear[:3, 3] + (1, -2, 3), atol=1e-5)
