"""SegmentationModule: one volume, one model, one button; a named, coloured segmentation in the scene."""

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic


def makeEngineImportable():
    """`hyperreg` and the other module's library lie beside this file in an installed extension.

    In the source tree they are in the folder above, and in the other module's folder there.
    """
    here = Path(__file__).resolve().parent
    for package, folders in (
        ("hyperreg", (here, here.parent)),
        ("HyperRegSlicerLib", (here, here.parent / "HyperRegSlicer")),
    ):
        if importlib.util.find_spec(package) is None:
            sys.path += [str(folder) for folder in folders if (folder / package).is_dir()]


makeEngineImportable()

from HyperRegSlicerLib.Shell import ShellTest, ShellWidget  # noqa: E402


class SegmentationModule(ScriptedLoadableModule):
    """The module's description."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("HyperReg Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The HyperReg contributors"]
        self.parent.helpText = _(
            "Finds a model's structures in a volume. Choose the volume and the model, press Segment, look at the "
            "doubtful regions one after another, and mend them in the Segment Editor. Not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "Networks after Myronenko (BrainLes 2018), Lyu and Shu (BrainLes 2020) and Liu et al. (MICCAI 2018), "
            "built on MONAI."
        )


class SegmentationModuleLogic(ScriptedLoadableModuleLogic):
    """Gives the parameter node; the segmentation is in hyperreg.mrml.segmentation, which needs no Qt."""

    def parameters(self):
        from SegmentationModuleLib.Parameters import SegmentationParameters

        return SegmentationParameters(self.getParameterNode())


class SegmentationModuleWidget(ShellWidget):
    """Hands the form to SegmentationModuleLib.Widget."""

    # Not what the other module has a part in: its panel may be open, and would meet classes of two kinds.
    RELOADED = ("SegmentationModuleLib.", "hyperreg.mrml.segmentation.", "hyperreg.mrml.fusion.")

    def makeLogic(self):
        return SegmentationModuleLogic()

    def makePanel(self):
        from HyperRegSlicerLib import Worker
        from SegmentationModuleLib import Widget

        return Widget.SegmentationWidget(self.ui, Worker.Connection())


class SegmentationModuleTest(ShellTest):
    """Runs no model: checks what stands between Slicer's scene and the engine, in mm."""

    def test_SegmentIsOfferedForAVolumeOnly(self):
        parameters = SegmentationModuleLogic().parameters()
        assert parameters.isValid() == (False, "Choose a volume.")
        parameters.volume = self.makeVolume("head")[0]
        parameters.model = "no such model"
        assert parameters.isValid() == (False, "Choose a model.")

    def test_SegmentsLieOnTheVoxelsOfTheirVolume(self):
        import numpy as np

        from hyperreg.imaging.structures import Code, Structure, Terminology
        from hyperreg.imaging.volume import Volume
        from hyperreg.mrml.segmentation import results

        volume, _array, affine = self.makeVolume("head")
        labels = np.zeros((6, 7, 8), dtype=np.uint8)
        labels[2:5, 3:6, 4:7] = 5
        organ = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "12738006", "Brain"))
        structures = [Structure(5, 1, "Brain", (200, 100, 50), organ)]
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "found")
        results.fill_segmentation(node, volume, Volume(labels, affine), structures)
        segment = node.GetSegmentation().GetSegment("Segment_5")
        assert segment.GetName() == "Brain"
        tag = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
        assert tag in segment.GetTerminology()
        found = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_5", volume)
        np.testing.assert_array_equal(found.T == 1, labels == 5)
        middle = (affine @ [3.0, 4.0, 5.0, 1.0])[:3]
        np.testing.assert_allclose(node.GetSegmentCenter("Segment_5"), middle, atol=1e-6)
