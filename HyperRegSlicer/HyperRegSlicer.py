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
        if self.panel is not None and self.panel.parameters is None:
            self.panel.set_parameters(self.logic.parameters())

    def exit(self):
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
        if self.parent.isEntered:
            self.panel.set_parameters(self.logic.parameters())
