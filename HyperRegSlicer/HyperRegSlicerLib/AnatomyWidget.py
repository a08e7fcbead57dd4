"""The part of the panel in which both volumes are segmented with one click. Qt only; the work is in Anatomy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from hyperreg.mrml.registration import anatomy
from HyperRegSlicerLib import Licences


class AnatomyPanel:
    """Model, button and progress.

    ui: the form's widgets. segmenter: of the connection. start(segment): checks that everything is there and calls
    segment(fixed, moving, device). on_done(fixed_labels, moving_labels). guarded(action): the action as a slot whose
    errors the user sees.
    """

    def __init__(
        self,
        ui: Any,
        segmenter: Any,
        start: Callable[[Callable[[Any, Any, str], None]], None],
        on_done: Callable[[Any, Any], None],
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        on_message: Callable[[str], None],
    ) -> None:
        self.ui = ui
        self.pair = anatomy.PairSegmentation(slicer.mrmlScene, segmenter)
        self._start, self._on_message = start, on_message
        self.pair.on_change = self.update
        self.pair.on_progress = self._progressed
        self.pair.on_done = on_done
        self.pair.on_error = on_message
        ui.segmentBothButton.connect("clicked()", guarded(self._segment_or_cancel))
        self.update()

    def fill(self) -> None:
        """Lists the models; keeps the choice."""
        combo = self.ui.anatomyCombo
        before = combo.currentData
        combo.clear()
        for card in anatomy.models():
            combo.addItem(card.title, card.name)
        combo.setCurrentIndex(max(0, combo.findData(before)))
        self.update()

    def update(self) -> None:
        """Shows what can be pressed and what is going on."""
        running = self.pair.running
        self.ui.segmentBothButton.text = _("Cancel") if running else _("Segment both volumes")
        self.ui.segmentBothButton.enabled = running or self.ui.anatomyCombo.count > 0
        self.ui.anatomyCombo.enabled = not running
        self.ui.anatomyProgressBar.visible = running
        if not running:
            self.ui.anatomyProgressBar.value = 0

    def close(self) -> None:
        """Gives up what is going on."""
        self.pair.close()

    def _segment_or_cancel(self) -> None:
        if self.pair.running:
            self.pair.cancel()
            return
        card = next(card for card in anatomy.models() if card.name == self.ui.anatomyCombo.currentData)
        if Licences.accepted(card):
            self._start(lambda fixed, moving, device: self.pair.start(fixed, moving, card.name, device))
        else:
            self._on_message(_("The licence was not accepted; the model was not used."))

    def _progressed(self, fraction: float, text: str) -> None:
        self.ui.anatomyProgressBar.value = round(100 * fraction)
        self.ui.anatomyProgressBar.format = f"{text} %p %"
