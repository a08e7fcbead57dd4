"""A slider for each hyperparameter that a model declares; nothing for the others. Qt only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ctk
import qt

from hyperreg.segmentation.catalogue import SegmentationCard
from HyperRegSlicerLib import Forms


class SlidersPanel:
    """The rows in the options.

    ui: the form's widgets. on_move(name, value): the user moved one, 0 to 1.
    """

    def __init__(self, ui: Any, on_move: Callable[[str, float], None]) -> None:
        self.ui = ui
        self._on_move = on_move
        self._declared: tuple[Any, ...] = ()
        self.sliders: dict[str, Any] = {}

    def show(self, card: SegmentationCard | None, values: Mapping[str, float]) -> None:
        """Sliders for a model's hyperparameters, at these values."""
        declared = card.hyperparameters if card is not None else ()
        if declared != self._declared:
            self._declared = declared
            self._build(declared)
        for name, slider in self.sliders.items():
            if abs(slider.value - values[name]) > 1e-6:
                with Forms.quiet(slider):
                    slider.value = values[name]
        self.ui.slidersPanel.visible = bool(declared)

    def _build(self, declared: tuple[Any, ...]) -> None:
        layout = Forms.emptied(self.ui.slidersPanel)
        self.sliders = {}
        for entry in declared:
            slider = ctk.ctkSliderWidget(self.ui.slidersPanel)
            slider.minimum, slider.maximum, slider.singleStep, slider.decimals = 0.0, 1.0, 0.01, 2
            slider.value = entry.default
            slider.toolTip = entry.description or entry.title
            slider.connect("valueChanged(double)", Forms.named(self._on_move, entry.name))
            layout.addRow(qt.QLabel(f"{entry.title}:", self.ui.slidersPanel), slider)
            self.sliders[entry.name] = slider
