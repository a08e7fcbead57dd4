"""The part of the panel beyond λ: refinement, the λ response with the suggested λ, γ, landmarks. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from hyperreg.catalogue import Hyperparameter
from hyperreg.errors import WeightsError
from hyperreg.registration import catalogue
from hyperreg.registration.contrast import AUTOMATIC
from HyperRegSlicerLib import Texts
from HyperRegSlicerLib.LandmarksWidget import LandmarksPanel
from HyperRegSlicerLib.Logic import LIVE, RegistrationLogic
from HyperRegSlicerLib.Parameters import RegistrationParameters
from HyperRegSlicerLib.ResponseWidget import ResponsePicture

# Hyperparameters other than λ that the form has a slider for, with the names of its widgets.
SLIDERS = {"gamma": ("gammaLabel", "gammaSlider")}


class TuningPanel:
    """Refine and undo, response and suggestion, γ, landmarks.

    ui: the form's widgets. guarded: makes a slot of an action, as `RegistrationWidget._guarded`; attempt: does an
    action and shows what it raises for the user.
    set_lambda(lam): moves the slider.
    """

    def __init__(
        self,
        ui: Any,
        logic: RegistrationLogic,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        attempt: Callable[[Callable[[], Any]], None],
        set_lambda: Callable[[float], None],
    ) -> None:
        self.ui, self.logic = ui, logic
        self._set_lambda = set_lambda
        self._contrast = AUTOMATIC
        self._landmarks = LandmarksPanel(ui, lambda fixed, moving: attempt(lambda: logic.set_landmarks(fixed, moving)))
        self._picture = ResponsePicture(ui.responseLabel, set_lambda)
        logic.on_refine_progress = self._refine_progressed
        logic.on_response = self.update
        ui.refineButton.connect("clicked()", guarded(self._refine_or_cancel))
        ui.undoRefineButton.connect("clicked()", guarded(self._undo_or_redo))
        ui.useSuggestedButton.connect("clicked()", guarded(self._use_suggested))

    def close(self) -> None:
        """Ends listening."""
        self._picture.close()
        self._landmarks.close()

    def show(self, parameters: RegistrationParameters) -> None:
        """What the parameter node says."""
        self._contrast = parameters.contrast.value
        self._landmarks.show(parameters.fixedLandmarks, parameters.movingLandmarks)

    def update(self) -> None:
        """Shows the state."""
        ui, logic = self.ui, self.logic
        refining, suggestion = logic.refining, logic.suggestion
        ui.refineButton.text = _("Cancel refinement") if refining else _("Refine")
        ui.refineButton.enabled = refining or logic.can_refine
        ui.refineBar.visible = refining
        if not refining:
            ui.refineBar.value = 0
        ui.undoRefineButton.text = _("Show refinement") if logic.can_redo else _("Undo refinement")
        ui.undoRefineButton.enabled = not refining and (logic.refined or logic.can_redo)
        ui.warningLabel.text = logic.warning if logic.state == LIVE else ""
        ui.warningLabel.visible = bool(ui.warningLabel.text)
        ui.responseSection.visible = logic.state == LIVE
        ui.useSuggestedButton.enabled = suggestion is not None and abs(suggestion.lam - logic.lam) > 5e-3
        ui.useSuggestedButton.text = (
            _("Use suggested λ") if suggestion is None else _("Use suggested λ = {lam:.2f}").format(lam=suggestion.lam)
        )
        ui.suggestionLabel.text = Texts.suggestion_text(suggestion)
        self._landmarks.update(logic.landmarks_note, Texts.landmarks_text(logic.metrics))
        self._picture.show(logic.response, suggestion, logic.lam)

    def show_hyperparameters(self, model: str) -> None:
        """Shows the sliders that the model declares, with its names for them."""
        declared = _declared(model)
        for name, widgets in SLIDERS.items():
            for widget in widgets:
                getattr(self.ui, widget).visible = name in declared
            if name in declared:
                self.ui.gammaLabel.text = "γ" if name == "gamma" else declared[name].title
                self.ui.gammaSlider.toolTip = f"{declared[name].title}. {declared[name].description}".strip()

    def status(self, otherwise: str) -> str:
        """What is to be said of the refinement, in the place of or after `otherwise`."""
        logic = self.logic
        if logic.refining:
            return self.ui.statusLabel.text
        if logic.refined:
            return logic.refine_message or _("This is the refined result.")
        if logic.can_redo:
            aside = _("The refinement of λ = {lam:.2f} is put aside; Show refinement brings it back.")
            return f"{otherwise} {aside.format(lam=logic.registration.refinement.lam)}"
        return otherwise

    def _refine_or_cancel(self) -> None:
        if self.logic.refining:
            self.logic.cancel_refine()
            return
        self.ui.statusLabel.text = _("Refining ...")
        self.logic.refine(self._contrast)

    def _undo_or_redo(self) -> None:
        if self.logic.refined:
            self.logic.undo_refine()
        else:
            self.logic.redo_refine()

    def _use_suggested(self) -> None:
        if self.logic.suggestion is not None:
            self._set_lambda(self.logic.suggestion.lam)

    def _refine_progressed(self, fraction: float, text: str) -> None:
        self.ui.refineBar.value = round(100 * fraction)
        self.ui.statusLabel.text = text


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
