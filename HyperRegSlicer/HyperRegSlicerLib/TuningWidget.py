"""The part of the panel beyond λ: what is shown and computed, metrics, the λ response, γ, landmarks. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from hyperreg.catalogue import Hyperparameter
from hyperreg.errors import WeightsError
from hyperreg.mrml.lifecycle import LIVE
from hyperreg.mrml.registration import texts, volume_change
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.registration import catalogue
from HyperRegSlicerLib.LandmarksWidget import LandmarksPanel
from HyperRegSlicerLib.Parameters import RegistrationParameters
from HyperRegSlicerLib.PictureWidget import Picture, ResponsePicture

# Hyperparameters other than λ that the form has a slider for, with the names of its widgets.
SLIDERS = {"gamma": ("gammaLabel", "gammaSlider")}


class TuningPanel:
    """The line of state, what is being computed, full resolution, metrics, response and suggestion, γ, landmarks.

    ui: the form's widgets. guarded: makes a slot of an action, as `RegistrationWidget._guarded`; attempt: does an
    action and shows what it raises for the user.
    set_lambda(lam): moves the slider. set_automatic(on): sets the check box of full resolution.
    """

    def __init__(
        self,
        ui: Any,
        logic: RegistrationLogic,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        attempt: Callable[[Callable[[], Any]], None],
        set_lambda: Callable[[float], None],
        set_automatic: Callable[[bool], None],
    ) -> None:
        self.ui, self.logic = ui, logic
        self._set_lambda, self._set_automatic = set_lambda, set_automatic
        self._landmarks = LandmarksPanel(ui, logic, attempt)
        self._picture = ResponsePicture(ui.responseLabel, set_lambda)
        self._legend = Picture(ui.volumeChangeLegend, volume_change.legend)
        ui.fullButton.connect("clicked()", guarded(self._full_or_stop))
        ui.useSuggestedButton.connect("clicked()", guarded(self._use_suggested))

    def close(self) -> None:
        """Ends listening."""
        self._picture.close()
        self._legend.close()
        self._landmarks.close()

    def show(self, parameters: RegistrationParameters) -> None:
        """What the parameter node says."""
        self.logic.set_full_automatically(parameters.fullAutomatically)
        self.logic.volume_change.want(parameters.showVolumeChange)
        self.ui.volumeChangeLegend.visible = parameters.showVolumeChange
        self._landmarks.show(parameters)

    def update(self) -> None:
        """Shows the state."""
        ui, logic, live = self.ui, self.logic, self.logic.live
        is_live, suggestion = logic.state == LIVE, live.suggestion
        self._show_metrics()
        self.show_work()
        ui.contrastNoteLabel.text = live.note if is_live else ""
        ui.contrastNoteLabel.visible = bool(ui.contrastNoteLabel.text)
        ui.volumeChangeNote.text = logic.volume_change.note
        ui.volumeChangeNote.visible = bool(ui.volumeChangeNote.text)
        ui.fullBox.visible = ui.fullButton.visible = live.has_full
        ui.warningLabel.text = live.worse if is_live else ""
        ui.warningLabel.visible = bool(ui.warningLabel.text)
        ui.responseSection.visible = is_live
        ui.useSuggestedButton.enabled = suggestion is not None and abs(suggestion.lam - logic.lam) > 5e-3
        ui.useSuggestedButton.text = (
            _("Use suggested λ") if suggestion is None else _("Use suggested λ = {lam:.2f}").format(lam=suggestion.lam)
        )
        ui.suggestionLabel.text = texts.suggestion_text(suggestion)
        self._landmarks.update(texts.landmarks_text(live.metrics))
        self._picture.show(live.response, suggestion, logic.lam, live.metrics)

    def show_work(self) -> None:
        """Shows what is being computed."""
        ui, live = self.ui, self.logic.live
        text = _("Nothing is being computed.") if self.logic.state == LIVE else ""
        if live.work is not None:
            text = _("Computing: {work}").format(work=texts.work_text(live))
        ui.workLabel.text = text
        ui.workBar.value = 0 if live.work is None else round(100 * live.work.fraction)
        ui.workLabel.visible = ui.workBar.visible = bool(text)
        ui.fullButton.text = _("Stop") if live.is_computing_full else _("Full resolution now")
        ui.fullButton.enabled = live.is_computing_full or live.can_request_full

    def show_hyperparameters(self, model: str) -> None:
        """Shows the sliders that the model declares, with its names for them."""
        declared = _declared(model)
        for name, widgets in SLIDERS.items():
            for widget in widgets:
                getattr(self.ui, widget).visible = name in declared
            if name in declared:
                self.ui.gammaLabel.text = "γ" if name == "gamma" else declared[name].title
                self.ui.gammaSlider.toolTip = f"{declared[name].title}. {declared[name].description}".strip()

    def _show_metrics(self) -> None:
        """The metrics of exactly what the views show, or none."""
        ui, logic, live = self.ui, self.logic, self.logic.live
        if live.metrics and live.shown is not None:
            ui.metricsLabel.text = texts.metrics_text(live.metrics, live.shown.lam)
            ui.overlapLabel.text = texts.overlap_text(live.metrics, logic.label_names)
            return
        for label in (ui.metricsLabel, ui.overlapLabel):
            label.text = texts.unmeasured(label.text, logic.lam) if logic.state == LIVE else ""

    def _full_or_stop(self) -> None:
        if self.logic.live.is_computing_full:
            self.logic.registration.cancel_full()
            self._set_automatic(False)
        else:
            self.logic.registration.request_full()

    def _use_suggested(self) -> None:
        if (suggestion := self.logic.live.suggestion) is not None:
            self._set_lambda(suggestion.lam)


def default_values(model: str) -> dict[str, float]:
    """The values that a model's hyperparameters other than λ begin with."""
    return {name: declared.default for name, declared in _declared(model).items()}


def _declared(model: str) -> dict[str, Hyperparameter]:
    """The hyperparameters of a model that the form has a slider for, by name."""
    try:
        card = catalogue.find_model(model)
    except WeightsError:
        return {}
    return {found.name: found for found in card.hyperparameters[1:] if found.name in SLIDERS}
