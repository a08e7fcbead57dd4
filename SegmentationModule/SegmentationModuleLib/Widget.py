"""The panel: keeps form, parameter node and logic in step. Qt only; decisions are in the logic.

Each section has a panel of its own: ModelsWidget, InputsWidget, ResultWidget, HyperRegSlicerLib.InstallWidget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from hyperreg.mrml.lifecycle import IDLE
from hyperreg.mrml.segmentation import inputs, texts
from hyperreg.mrml.segmentation.logic import SegmentationLogic, SegmentationRun
from hyperreg.segmentation import catalogue
from hyperreg.segmentation.plausibility import ALARM
from hyperreg.worker.segmentation import Segmented
from HyperRegSlicerLib.InstallWidget import InstallPanel
from HyperRegSlicerLib.Panel import Panel
from SegmentationModuleLib.AtlasesWidget import AtlasesPanel
from SegmentationModuleLib.InputsWidget import InputsPanel
from SegmentationModuleLib.ModelsWidget import ModelsPanel
from SegmentationModuleLib.Parameters import SegmentationParameters
from SegmentationModuleLib.ResultWidget import ResultPanel
from SegmentationModuleLib.SlidersWidget import SlidersPanel

VOLUME = "vtkMRMLScalarVolumeNode"
ALARM_STYLE = "QLabel { background: #b3261e; color: white; border-radius: 3px; padding: 5px; font-weight: bold; }"


def centre_3d() -> None:
    """Turns all 3D views to the middle of what they show."""
    manager = slicer.app.layoutManager()
    for index in range(manager.threeDViewCount):
        manager.threeDWidget(index).threeDView().resetFocalPoint()


class SegmentationWidget(Panel):
    """The segmentation module's panel."""

    def __init__(self, ui: Any, connection: Any) -> None:
        super().__init__(ui, connection)
        self._style = ui.messageLabel.styleSheet
        self.logic = SegmentationLogic(slicer.mrmlScene, connection.segmenter)
        self._summary = ""
        self.logic.on_change = self.update
        self.logic.on_progress = self._progressed
        self.logic.on_result = self._result_arrived
        self.logic.on_finished = self._finished
        self.logic.on_error = self._show_message
        self.models = ModelsPanel(
            ui, connection.models, self._model_chosen, self._guarded, self._show_message, self._told
        )
        self.inputs = InputsPanel(ui, self._told(self._input_chosen), self._guarded(self._recognise))
        self.sliders = SlidersPanel(ui, self._told(self._slider_moved))
        self.result = ResultPanel(ui, self.logic.borders, self._guarded, self._told)
        self.installation = InstallPanel(ui, self._guarded, self._show_message, self._computes_elsewhere)
        self.atlases = AtlasesPanel(
            ui, connection.fuser, self._guarded, self.installation.is_ready, self._show_message, self._told
        )
        for logic in (self.logic, self.atlases.logic):
            logic.surfaces.on_done = lambda _node: centre_3d()
        for button, action in (
            ("segmentButton", self._segment_or_cancel),
            ("batchButton", self._segment_checked),
            ("undoButton", self._undo),
        ):
            getattr(ui, button).connect("clicked()", self._guarded(action))
        ui.batchSelector.connect("checkedNodesChanged()", self._told(self.update))
        self._show_message("")
        self.update()

    def _show_message(self, text: str) -> None:
        """Also in red, where a result is called wrong: nobody should overlook that among other warnings."""
        super()._show_message(text)
        self.ui.messageLabel.styleSheet = ALARM_STYLE if ALARM in text else self._style

    # The parameter node

    def set_parameters(self, parameters: SegmentationParameters) -> None:
        """Binds the form to a parameter node and takes up the result that was saved with it."""
        self.release_parameters()
        self.parameters = parameters
        if parameters.card() is None:
            parameters.model = next((card.name for card in catalogue.list_models()), "")
        self._bind()
        self.models.fill()
        self.installation.update()
        self._parameters_changed()

    def scene_closing(self) -> None:
        """Forgets the scene's nodes."""
        self.release_parameters()
        self.result.forget()
        self.atlases.show(None)
        self.inputs.show(None, {})
        self._summary = ""
        self._show_message("")

    def close(self) -> None:
        """Ends the worker and every connection; the scene stays as it is."""
        self._timer.stop()
        self._soon.stop()
        self.release_parameters()
        self.logic.close()
        self.atlases.close()
        self.connection.close()

    def _parameters_changed(self, *_event: Any) -> None:
        if self.parameters is not None:
            self.models.show(self.parameters.model)
            self.result.show(self.parameters.segmentation)
            self.atlases.show(self.parameters)
            self.update()

    # What the user does

    def _model_chosen(self, name: str) -> None:
        if self.parameters is None:
            return
        self._show_message("")  # what was said of the model before
        self.parameters.model = name
        card = self.parameters.card()
        if card is not None and len(card.inputs) > 1:
            volumes = slicer.util.getNodesByClass(VOLUME)
            self._set_images(inputs.guess(self.parameters.images(), card, volumes))
        self.update()

    def _set_images(self, images: Mapping[str, Any]) -> None:
        """Volume nodes by the names of the model's inputs."""
        card = self.parameters.card()
        for name, node in images.items():
            if name == card.inputs[0].name:
                self.parameters.volume = node
            else:
                self.parameters.set_image(name, node)

    def _recognise(self) -> None:
        if self.installation.is_ready():
            model = self.parameters.model
            volumes = slicer.util.getNodesByClass(VOLUME)
            self.logic.recognise(volumes, model, lambda *told: self._recognised(model, *told), self._show_message)
            self._show_message(_("Looking which image is which..."))

    def _recognised(self, model: str, images: Mapping[str, Any], guess: str) -> None:
        if self.parameters is not None and self.parameters.model == model:
            self._set_images(images)
            self._show_message(texts.recognised(images, guess))
            self.update()

    def _input_chosen(self, name: str, node: Any) -> None:
        if self.parameters is not None:
            self.parameters.set_image(name, node)
            self.update()

    def _slider_moved(self, name: str, value: float) -> None:
        if self.parameters is not None:
            self.parameters.set_hyperparameter(name, value)

    def _segment_or_cancel(self) -> None:
        if self.logic.state != IDLE:
            self.logic.cancel()
        elif self._is_ready():
            parameters = self.parameters
            self._summary = ""
            self.logic.segment(parameters.images(), parameters.model, align=parameters.align, **parameters.options())
            self._progressed(0.0, _("Starting ..."))
            self._ask_devices()

    def _segment_checked(self) -> None:
        if self._is_ready():
            parameters = self.parameters
            self._summary = ""
            nodes = self.ui.batchSelector.checkedNodes()
            self.logic.segment_all(nodes, parameters.model, **parameters.options())
            self._progressed(0.0, _("Starting ..."))

    def _is_ready(self) -> bool:
        card = self.parameters.card()
        return card is not None and self.installation.is_ready() and self.models.licence_accepted(card)

    def _undo(self) -> None:
        if self.logic.was_edited and not slicer.util.confirmOkCancelDisplay(texts.UNDO_QUESTION, _("Undo")):
            return
        self.result.hide_uncertainty()
        self.logic.undo()
        self._summary = ""

    # What the scene and the logic say

    def _scene_changed(self) -> None:
        """A volume that was loaded while there is no other is the one that is meant."""
        if self.parameters is not None and self.parameters.volume is None:
            volumes = [node for node in slicer.util.getNodesByClass(VOLUME) if node.GetImageData() is not None]
            if len(volumes) == 1 and volumes[0].GetClassName() == VOLUME:
                self.parameters.volume = volumes[0]
        super()._scene_changed()

    def _poll(self) -> None:
        super()._poll()
        for logic in (self.logic, self.atlases.logic):
            logic.surfaces.step()

    def _progressed(self, fraction: float, text: str) -> None:
        self.ui.progressBar.value = round(100 * fraction)
        self.ui.statusLabel.text = text

    def _result_arrived(self, node: slicer.vtkMRMLSegmentationNode, _segmented: Segmented) -> None:
        if self.parameters is not None:
            self.parameters.segmentation = node

    def _finished(self, run: SegmentationRun) -> None:
        self._summary = texts.summary(run)
        self._show_message("\n".join(run.warnings))
        self.result.fill()
        self.update()

    # What the form shows

    def _show_state(self) -> None:
        ui, parameters = self.ui, self.parameters
        idle = self.logic.state == IDLE
        valid, reason = parameters.isValid() if parameters is not None else (False, "")
        card = parameters.card() if parameters is not None else None
        self.inputs.show(card, parameters.images() if parameters is not None else {})
        ui.segmentButton.text = _("Segment") if idle else _("Cancel")
        ui.segmentButton.enabled = valid or not idle
        ui.progressBar.visible = not idle
        if idle:
            ui.progressBar.value = 0
            ui.statusLabel.text = self._status(reason)
        for widget in (ui.volumeSelector, ui.modelCombo, ui.searchEdit, ui.batchSelector):
            widget.enabled = idle
        self.inputs.enable(idle)
        ui.flipsCheckBox.enabled = card is not None and bool(card.flips)
        ui.ensembleCheckBox.enabled = card is not None and bool(card.ensemble)
        self.sliders.show(card, parameters.options()["hyperparameters"] if parameters is not None else {})
        ui.batchButton.enabled = (
            idle and card is not None and len(card.inputs) == 1 and bool(ui.batchSelector.checkedNodes())
        )
        ui.resultPanel.visible = self.result.segmentation is not None or bool(self._summary)
        ui.summaryLabel.text = self._summary
        ui.summaryLabel.visible = bool(self._summary)
        ui.undoButton.enabled = self.logic.can_undo
        self.result.update()

    def _status(self, reason: str) -> str:
        if slicer.mrmlScene.GetNumberOfNodesByClass(VOLUME) == 0:
            return _("Load a volume to begin.")
        return reason or _("Ready: press Segment.")
