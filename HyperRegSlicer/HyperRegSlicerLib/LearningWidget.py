"""The section of learning from one's own images over night: a process of its own, which outlives Slicer. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from hyperreg.catalogue import user_folder
from hyperreg.overnight import FOLDER, Overnight
from hyperreg.registration import catalogue
from HyperRegSlicerLib import Forms, Install

EVERY_MS = 2000


class LearningPanel:
    """Model, folder of images, hours; how far it is, and what came of it.

    ui: the form's widgets. is_ready(): whether what it needs is installed. on_models(): there may be another model.
    guarded, told: see `Panel`.
    """

    def __init__(
        self,
        ui: Any,
        is_ready: Callable[[], bool],
        on_models: Callable[[], None],
        guarded: Callable[[Callable[[], Any]], Callable[..., None]],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self.ui, self._is_ready, self._on_models = ui, is_ready, on_models
        self._overnight = Overnight(user_folder() / FOLDER, Install.worker_python())
        self._was_running = False
        ui.learnFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        networks = [card for card in catalogue.list_models() if card.has_network]
        ui.learnSection.visible = bool(networks)
        first = networks[0].name if networks else ""
        Forms.fill_combo(ui.learnModelCombo, [(card.title, card.name) for card in networks], first)
        ui.learnButton.connect("clicked()", guarded(self._start_or_cancel))
        self._timer = qt.QTimer()
        self._timer.setInterval(EVERY_MS)
        self._timer.connect("timeout()", told(self.update))
        self._timer.start()
        self.update()

    def close(self) -> None:
        """Ends looking after it; it goes on."""
        self._timer.stop()

    def update(self) -> None:
        """Shows how far it is, whoever has started it."""
        ui, found = self.ui, self._overnight.look()
        running = bool(found.text) and not found.ended
        for widget in (ui.learnModelCombo, ui.learnFolderEdit, ui.learnHoursBox):
            widget.enabled = not running
        ui.learnButton.text = _("Cancel") if running else _("Learn over night")
        ui.learnProgressBar.visible = running
        ui.learnProgressBar.value = round(100 * found.fraction)
        ui.learnNoteLabel.text = found.text
        if found.images and (running or not ui.learnFolderEdit.currentPath):
            ui.learnFolderEdit.currentPath = found.images
        if self._was_running and not running:
            self._on_models()
        self._was_running = running

    def _start_or_cancel(self) -> None:
        if self._was_running:
            self._overnight.cancel()
        elif self._is_ready():
            combo = self.ui.learnModelCombo
            images = Path(self.ui.learnFolderEdit.currentPath)
            self._overnight.start(images, combo.itemData(combo.currentIndex), self.ui.learnHoursBox.value)
        self.update()
