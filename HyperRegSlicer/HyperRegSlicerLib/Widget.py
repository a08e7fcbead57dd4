"""The panel: keeps form, parameter node, logic and views in step. Qt only; decisions are in the logic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.errors import InputError
from hyperreg.mrml import linked, regions
from hyperreg.mrml.lifecycle import LIVE, RUNNING
from hyperreg.mrml.registration import texts
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.mrml.views import Views
from hyperreg.registration import catalogue
from hyperreg.worker.live.state import LiveState
from HyperRegSlicerLib import Forms, Sample
from HyperRegSlicerLib.AnatomyWidget import AnatomyPanel
from HyperRegSlicerLib.InstallWidget import InstallPanel
from HyperRegSlicerLib.LearningWidget import LearningPanel
from HyperRegSlicerLib.LeaveOutWidget import LeaveOutPanel
from HyperRegSlicerLib.Panel import Panel
from HyperRegSlicerLib.Parameters import Comparison, Initial, RegistrationParameters
from HyperRegSlicerLib.RegionsWidget import RegionsPanel
from HyperRegSlicerLib.TuningWidget import TuningPanel, default_values

# New views have their size when the layout has been drawn.
SETTLE_MS = 50


def slice_logics() -> list[slicer.vtkMRMLSliceLogic]:
    """The slice views that Slicer shows now."""
    collection = slicer.app.applicationLogic().GetSliceLogics()
    return [collection.GetItemAsObject(n) for n in range(collection.GetNumberOfItems())] if collection else []


class RegistrationWidget(Panel):
    """The registration module's panel."""

    def __init__(self, ui: Any, connection: Any) -> None:
        super().__init__(ui, connection)
        self.logic = RegistrationLogic(slicer.mrmlScene, connection.registration)
        self.views = Views(slicer.mrmlScene, slice_logics)
        # Whether what has become live is still to be shown, because another module was open.
        self._unshown = False
        # What the registration was told: being prepared, and live.
        self._asked: tuple[Any, ...] | None = None
        self._registered: tuple[Any, ...] | None = None
        self._shown = (Comparison.FADE, 0.5)
        # What is known of the registration that λ moves, as it was shown last.
        self._live = LiveState()
        self.logic.on_change = self._logic_changed
        self.logic.on_result = self._result_arrived
        self.logic.on_warning = self._show_message
        self.logic.on_error = self._show_message
        self.tuning = TuningPanel(
            ui, self.logic, self._guarded, self._try, self._move_lambda, self._set_full_automatically
        )
        self.regions = RegionsPanel(ui, self._regions_changed, self._show_message, self._told)
        self.leave_out = LeaveOutPanel(
            ui, lambda: self.parameters, self.logic.constraints.set_left_out, self._try, self._told
        )
        self.anatomy = AnatomyPanel(
            ui, connection.segmenter, self._segment_both, self._both_segmented, self._guarded, self._show_message
        )
        self.installation = InstallPanel(ui, self._guarded, self._show_message, self._computes_elsewhere)
        self.learning = LearningPanel(ui, self.installation.is_ready, self._models_changed, self._guarded, self._told)
        self._settle = Forms.rest_timer(SETTLE_MS, self._told(self.views.fit))
        self._connect_signals()
        self._show_message("")
        self.update()

    def _connect_signals(self) -> None:
        for button, action in (
            ("registerButton", self._register_or_cancel),
            ("alignButton", self._align),
            ("keepButton", self._keep),
            ("reportButton", self._save_report),
            ("resetButton", self._reset),
            ("undoResetButton", self._undo_reset),
            ("showButton", self._show_views),
            ("takeAlongButton", lambda: self.logic.transform.take_along(self.ui.alongSelector.currentNode())),
            ("leaveBehindButton", lambda: self.logic.transform.leave_behind(self.ui.alongSelector.currentNode())),
            ("sampleButton", self._load_sample),
        ):
            getattr(self.ui, button).connect("clicked()", self._guarded(action))
        self.ui.alongSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._told(self._along_changed))
        self.ui.modelCombo.connect("currentIndexChanged(int)", self._told(self._model_chosen))

    # The parameter node

    def set_parameters(self, parameters: RegistrationParameters) -> None:
        """Binds the form to a parameter node and takes up a registration that was saved with it."""
        self.release_parameters()
        self.parameters = parameters
        if not parameters.model:
            self._set_default_model()
        self._bind()
        self._fill_models()
        self.anatomy.fill()
        self.installation.update()
        # What ended while another module was open is in the logic, and after reopening in the scene.
        self.logic.adopt(parameters.transform or (parameters.moving and parameters.moving.GetParentTransformNode()))
        self._follow_logic()
        self._parameters_changed()

    def scene_closing(self) -> None:
        """Forgets the scene's nodes."""
        self.release_parameters()
        self.views.forget()
        self.anatomy.pair.cancel()
        self._asked = self._registered = None
        self._unshown = False
        self._show_message("")

    def close(self) -> None:
        """Ends the worker and every connection; the scene stays as it is."""
        for timer in (self._timer, self._soon, self._settle):
            timer.stop()
        self.anatomy.close()
        self.learning.close()
        self.tuning.close()
        self.regions.close()
        self.leave_out.close()
        self.release_parameters()
        self.views.forget()
        self.logic.close()
        self.connection.close()

    def _parameters_changed(self, *_event: Any) -> None:
        parameters = self.parameters
        if parameters is None:
            return
        with self._one_update():
            self.logic.set_lambda(parameters.lam)
            self.logic.set_hyperparameter("gamma", parameters.gamma)
            self._show_regions(parameters)
            self.leave_out.show(parameters)
            self.tuning.show(parameters)
            if self.logic.state == LIVE:
                self._follow_views(parameters)
            self.update()

    def _set_default_model(self) -> None:
        self.parameters.model = catalogue.default_model()
        self._set_default_lambda()
        self._set_default_values()

    def _set_default_lambda(self) -> None:
        """The λ to begin with is the one on the model's card."""
        self.parameters.lam = catalogue.find_model(self.parameters.model).default_lambda

    def _set_default_values(self) -> None:
        for name, value in default_values(self.parameters.model).items():
            setattr(self.parameters, name, value)

    def _fill_models(self) -> None:
        entries = [(card.title, card.name) for card in catalogue.list_models()]
        Forms.fill_combo(self.ui.modelCombo, entries, self.parameters.model)
        self._describe_model()

    def _models_changed(self) -> None:
        if self.parameters is not None:
            self._fill_models()

    def _model_chosen(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.model = self.ui.modelCombo.itemData(index)
            self._show_message("")  # what was said of the model before
            self._set_default_values()
            if self.logic.state != LIVE:  # else λ moves what another model has made
                self._set_default_lambda()
            self._describe_model()

    def _describe_model(self) -> None:
        self.tuning.show_hyperparameters(self.parameters.model)
        found = [card for card in catalogue.list_models() if card.name == self.parameters.model]
        self.ui.modelDescriptionLabel.text = (
            _("{description} Version {version}.").format(description=found[0].description, version=found[0].version)
            if found
            else ""
        )

    # What the user does

    def _register_or_cancel(self) -> None:
        if self.logic.state == RUNNING:
            self.logic.cancel()
            return
        if not self.installation.is_ready():
            return
        parameters = self.parameters
        asked = self._chosen()
        if self._registered is not None and self._registered[:2] != asked[:2]:
            self._set_default_lambda()
        self.logic.register(
            parameters.fixed,
            parameters.moving,
            lam=parameters.lam,
            model=parameters.model,
            device=parameters.device.value,
            initial=parameters.start,
            contrast=parameters.contrast.value,
            symmetric=parameters.symmetric,
            fixed_labels=parameters.fixedLabels,
            moving_labels=parameters.movingLabels,
        )
        self._asked = asked
        self._ask_devices()

    def _align(self) -> None:
        if self.installation.is_ready():
            p = self.parameters
            self.logic.align(p.fixed, p.moving, method=p.initial.value, device=p.device.value)

    def _aligned(self, transform: Any) -> None:
        self._registered = None
        self.views.remember()
        if self.parameters is not None:
            self._show_views()
        self._show_message(
            _("Aligned by '{name}', which stays. Reset takes the moving volume out of it.").format(
                name=transform.GetName()
            )
        )

    def _chosen(self) -> tuple[Any, ...]:
        """What a registration is told, besides what can be changed while it is live; the volumes first."""
        p = self.parameters
        return p.fixed, p.moving, p.contrast, p.symmetric, p.start, p.model, p.device, p.fixedLabels, p.movingLabels

    def _segment_both(self, segment: Callable[[Any, Any, str], None]) -> None:
        if self.installation.is_ready():
            parameters = self.parameters
            segment(parameters.fixed, parameters.moving, parameters.device.value)

    def _both_segmented(self, fixed_labels: Any, moving_labels: Any) -> None:
        """Label maps for Dice and the suggested λ, and regions; their own λ is up to the user."""
        if self.parameters is None:
            return
        modifying = self.parameters.parameterNode.StartModify()
        self.parameters.fixedLabels, self.parameters.movingLabels = fixed_labels, moving_labels
        if not self.parameters.regionLambdas and not self.parameters.rigidRegions:  # else the user has regions already
            self.parameters.regions = fixed_labels
        self.parameters.parameterNode.EndModify(modifying)
        self._show_message(
            _("Both volumes are segmented. Press Register again to measure their overlap.")
            if self.logic.state == LIVE
            else _("Both volumes are segmented. Press Register: their overlap will be measured at every λ.")
        )

    def _move_lambda(self, lam: float) -> None:
        """From the response: the slider follows."""
        if self.parameters is not None:
            self.parameters.lam = lam

    def _set_full_automatically(self, on: bool) -> None:
        if self.parameters is not None:
            self.parameters.fullAutomatically = on

    def _regions_changed(self, node: Any, lambdas: dict[str, float], rigid: set[str]) -> None:
        if self.parameters is None:
            return
        modifying = self.parameters.parameterNode.StartModify()
        self.parameters.regions = self.ui.regionsSelector.currentNode()
        self.parameters.regionLambdas = regions.to_text(lambdas)
        self.parameters.rigidRegions = regions.keys_to_text(rigid)
        self.parameters.parameterNode.EndModify(modifying)
        self._try(lambda: self.logic.constraints.set_regions(node, lambdas, rigid))
        self.update()

    def _show_regions(self, parameters: RegistrationParameters) -> None:
        """What the parameter node says of regions, to form and logic; no news to them in most cases."""
        lambdas, rigid = regions.from_text(parameters.regionLambdas), regions.keys_from_text(parameters.rigidRegions)
        self.regions.show(parameters.regions, lambdas, rigid, parameters.lam)
        if parameters.regions is not None:
            self._try(lambda: self.logic.constraints.set_regions(parameters.regions, lambdas, rigid))

    def _keep(self) -> None:
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            kept = self.logic.keep()
        finally:
            qt.QApplication.restoreOverrideCursor()
        self._show_message(
            _("Kept: '{volume}', '{forward}' and '{inverse}'.").format(
                volume=kept.volume.GetName(), forward=kept.forward.GetName(), inverse=kept.inverse.GetName()
            )
        )

    def _save_report(self) -> None:
        name = f"{self.parameters.moving.GetName()} {self.logic.origin.title}.pdf".replace("/", "-")
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Report on one page"), name, "PDF (*.pdf)")
        if not path:
            return
        place = Path(path) if path.lower().endswith(".pdf") else Path(f"{path}.pdf")
        if place != Path(path) and place.exists():  # the dialog has asked only for the name without the ending
            raise InputError(_("'{path}' exists already. Choose another name.").format(path=place))
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            self.logic.save_page(place)
        finally:
            qt.QApplication.restoreOverrideCursor()
        self._show_message(_("Saved: {path}").format(path=place))

    def _reset(self) -> None:
        self.logic.reset()
        self.views.restore()
        self.leave_out.clear()

    def _undo_reset(self) -> None:
        parameters, logic = self.parameters, self.logic
        # First: what is left out is part of what the registration was told, or it would have to be computed again.
        self.leave_out.put_back()
        modifying = parameters.parameterNode.StartModify()
        try:
            logic.undo_reset()
            parameters.fixed, parameters.moving = linked.ends(logic.transform_node or logic.alignment_node)
            parameters.lam = logic.lam
        except InputError:
            self.leave_out.clear()
            raise
        finally:
            parameters.parameterNode.EndModify(modifying)
        self.views.remember()
        self._show_views()

    def _load_sample(self) -> None:
        sample = Sample.load()
        parameters = self.parameters
        parameters.fixed, parameters.moving = sample["fixed"], sample["moving"]
        parameters.fixedLabels = parameters.movingLabels = None
        self._show_views()

    # The views

    def _show_views(self) -> None:
        parameters = self.parameters
        if parameters.fixed is not None and parameters.moving is not None:
            self._shown = (parameters.comparison, parameters.fade)
            self.views.show(parameters.comparison.value, parameters.fixed, parameters.moving, parameters.fade)
            self._settle.start()

    def _follow_views(self, parameters: RegistrationParameters) -> None:
        comparison, fade = self._shown
        if parameters.comparison is not comparison:
            self._show_views()
        elif parameters.fade != fade and comparison is Comparison.FADE:
            self._shown = (comparison, parameters.fade)
            self.views.set_fade(parameters.fade)

    # What the logic says

    def _logic_changed(self) -> None:
        before, self._live = self._live, self.logic.live
        if self._live.work != before.work and replace(self._live, work=before.work) == before:
            self.tuning.show_work()  # this comes often, and all else costs more
            return
        if self.parameters is not None and not slicer.mrmlScene.IsClosing():
            self._follow_logic()
        self.update()

    def _result_arrived(self) -> None:
        if self.logic.state == LIVE:
            self._registered, self._unshown = self._asked, True
        else:
            self._aligned(self.logic.alignment_node)

    def _follow_logic(self) -> None:
        """The live transform to the parameter node, and what has become live into the views."""
        if self.parameters.transform is not self.logic.transform_node:
            self.parameters.transform = self.logic.transform_node
        if self._unshown and self.logic.state == LIVE:
            self._unshown = False
            self.views.remember()
            self._show_views()
            self._show_message("\n".join(self.logic.live.warnings))

    def _poll(self) -> None:
        super()._poll()
        self.logic.volume_change.settle()

    # What the form shows

    def _show_state(self) -> None:
        ui, logic, parameters = self.ui, self.logic, self.parameters
        running, live = logic.state == RUNNING, logic.state == LIVE
        valid, reason = parameters.isValid() if parameters is not None else (False, "")
        ui.registerButton.text = _("Cancel") if running else _("Register again") if live else _("Register")
        ui.registerButton.enabled = running or valid
        ui.alignButton.visible = not running
        method = parameters.initial if parameters is not None else None
        ui.alignButton.enabled = valid and method not in (Initial.NONE, Initial.TRANSFORM)
        ui.progressBar.visible = running
        fraction, text = logic.live.progress or (0.0, "")
        ui.progressBar.value = round(100 * fraction) if running else 0
        ui.statusLabel.text = (text or _("Starting ...")) if running else self._status(reason)
        for selector in (ui.fixedSelector, ui.movingSelector):
            selector.enabled = not running
        ui.resultPanel.visible = live or logic.can_reset
        ui.keepButton.enabled = logic.can_keep
        ui.reportButton.enabled = logic.can_report
        ui.resetButton.enabled = logic.can_reset
        ui.undoResetButton.visible = logic.can_undo_reset
        if parameters is not None:
            ui.lambdaWordsLabel.text = texts.lambda_words(parameters.lam)
            ui.initialTransformSelector.enabled = parameters.initial is Initial.TRANSFORM
            ui.fadeSlider.enabled = parameters.comparison is Comparison.FADE
        self.tuning.update()
        self.views.set_map(logic.volume_change.node)
        self._along_changed()

    def _status(self, reason: str) -> str:
        logic = self.logic
        if logic.state == LIVE:
            status = texts.state_text(logic.live)
            if self.parameters is not None and self._registered not in (None, self._chosen()):
                status += "\n" + (reason or _("Press Register again to use what is chosen now."))
            return status
        if logic.transform_node is not None:
            return _("The moving volume is registered. Press Register to move λ again, or Reset to undo.")
        if logic.alignment_node is not None:
            return _("The moving volume is aligned. Press Register to deform it, too, or Reset to undo.")
        if slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0:
            return _("Load two volumes to begin, or try the sample pair (last section).")
        if logic.can_undo_reset and not reason:
            return _("Ready: press Register. Undo reset brings the last registration back.")
        return reason or _("Ready: press Register, then move λ.")

    def _along_changed(self, *_node: Any) -> None:
        node, following = self.ui.alongSelector.currentNode(), self.logic.transform.linked_nodes
        self.ui.takeAlongButton.enabled = (
            node is not None and node not in following and self.logic.transform_node is not None
        )
        self.ui.leaveBehindButton.enabled = node in following
        names = ", ".join(one.GetName() for one in following)
        self.ui.alongListLabel.text = _("Following: {names}").format(names=names) if names else ""
