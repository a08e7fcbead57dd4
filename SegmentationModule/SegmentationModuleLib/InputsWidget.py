"""A selector for each further image that a model wants; nothing for the models of one image. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.segmentation.catalogue import SegmentationCard
from HyperRegSlicerLib import Forms

VOLUME = "vtkMRMLScalarVolumeNode"


class InputsPanel:
    """The rows below the first volume.

    ui: the form's widgets. on_choose(name, node): the user chose the image of an input. on_recognise(): wants to be
    told which is which.
    """

    def __init__(self, ui: Any, on_choose: Callable[[str, Any], None], on_recognise: Callable[[], None]) -> None:
        self.ui = ui
        self._on_choose, self._on_recognise = on_choose, on_recognise
        self.recogniseButton: Any = None
        self._inputs: tuple[Any, ...] = ()
        self.selectors: dict[str, Any] = {}

    def show(self, card: SegmentationCard | None, images: dict[str, Any]) -> None:
        """Rows for the inputs of a model but the first one, with their images."""
        inputs = card.inputs if card is not None else ()
        if inputs != self._inputs:
            self._inputs = inputs
            self._build(inputs)
        for name, selector in self.selectors.items():
            if selector.currentNode() is not images.get(name):
                with Forms.quiet(selector):
                    selector.setCurrentNode(images.get(name))
        several = len(inputs) > 1
        self.ui.volumeLabel.text = f"{inputs[0].title}:" if several else _("Volume:")
        self.ui.inputsPanel.visible = several
        self.ui.alignCheckBox.enabled = several

    def enable(self, enabled: bool) -> None:
        for widget in (*self.selectors.values(), *([self.recogniseButton] if self.selectors else [])):
            widget.enabled = enabled

    def _build(self, inputs: tuple[Any, ...]) -> None:
        layout = Forms.emptied(self.ui.inputsPanel)
        self.selectors = {}
        for entry in inputs[1:]:
            selector = slicer.qMRMLNodeComboBox(self.ui.inputsPanel)
            selector.nodeTypes = [VOLUME]
            selector.showChildNodeTypes = False
            selector.noneEnabled = True
            selector.addEnabled = selector.removeEnabled = selector.renameEnabled = False
            selector.noneDisplay = _("Choose a volume")
            selector.toolTip = _("The image '{title}' of the same patient").format(title=entry.title)
            selector.setMRMLScene(slicer.mrmlScene)
            selector.setCurrentNode(None)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", Forms.named(self._on_choose, entry.name))
            label = qt.QLabel(f"{entry.title}:", self.ui.inputsPanel)
            layout.addRow(label, selector)
            self.selectors[entry.name] = selector
        if self.selectors:
            self.recogniseButton = qt.QPushButton(_("Tell which image is which"), self.ui.inputsPanel)
            self.recogniseButton.toolTip = _("By the names of the volumes, else by a look at their contrast; check it")
            self.recogniseButton.connect("clicked()", self._on_recognise)
            layout.addRow(self.recogniseButton)
