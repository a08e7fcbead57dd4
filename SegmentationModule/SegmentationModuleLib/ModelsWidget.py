"""Choosing a model: the list with its search field, what it says of a model, its licence; adding and removing models.

Qt only; what is found and accepted is decided in `hyperreg.segmentation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.catalogue import own_models
from hyperreg.errors import InputError
from hyperreg.mrml.segmentation import texts
from hyperreg.segmentation import catalogue
from hyperreg.segmentation.catalogue import SegmentationCard
from HyperRegSlicerLib import Forms, Licences


class ModelsPanel:
    """The list of models and the section that changes it.

    ui: the form's widgets. make_store(on_error): a `hyperreg.worker.models.ModelStore` or a stand-in.
    on_choose(name): the user chose a model. guarded(action): the action as a slot whose errors the user sees;
    told(slot): a slot.
    """

    def __init__(
        self,
        ui: Any,
        make_store: Callable[[Callable[[str], None]], Any],
        on_choose: Callable[[str], None],
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        on_message: Callable[[str], None],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self.ui = ui
        self._store = make_store(self._failed)
        self._on_choose, self._on_message = on_choose, on_message
        self._name = ""
        ui.modelPathEdit.nameFilters = ("*.zip", "*.pt")
        ui.searchEdit.connect("textChanged(QString)", told(lambda _text: self.fill()))
        ui.modelCombo.connect("currentIndexChanged(int)", told(self._chosen))
        ui.modelFolderButton.connect("clicked()", told(self._browse_folder))
        ui.addModelButton.connect("clicked()", guarded(self._add))
        ui.removeModelButton.connect("clicked()", guarded(self._remove))

    def show(self, name: str) -> None:
        """What the parameter node says."""
        if name != self._name or self.ui.modelCombo.count == 0:
            self._name = name
            self.fill()

    def fill(self) -> None:
        """Lists the models that fit the search. The chosen one stays chosen, also where it does not fit."""
        combo = self.ui.modelCombo
        cards = catalogue.list_models()
        fitting = catalogue.search(cards, self.ui.searchEdit.text)
        listed = [card for card in cards if card in fitting or card.name == self._name]
        Forms.fill_combo(combo, [(card.title, card.name) for card in listed], self._name)
        chosen = next((card for card in cards if card.name == self._name), None)
        words = texts.describe_model(chosen)
        if not cards:
            words = _("There is no segmentation model yet. Add one (section below).")
        elif self.ui.searchEdit.text and not fitting:
            words = _("No model fits '{words}'.").format(words=self.ui.searchEdit.text) + (
                "\n" + words if words else ""
            )
        self.ui.modelDescriptionLabel.text = words
        combo.toolTip = texts.all_structures(chosen) or _("What is looked for, and in which kind of image")
        self.ui.removeModelButton.enabled = chosen is not None and _was_added(chosen)

    def licence_accepted(self, card: SegmentationCard) -> bool:
        """Whether the model may be used; asks before the first use."""
        if Licences.accepted(card):
            return True
        self._on_message(_("The licence was not accepted; the model was not used."))
        return False

    def _chosen(self, index: int) -> None:
        if index >= 0:
            self._name = self.ui.modelCombo.itemData(index)
            self.fill()
            self._on_choose(self._name)

    def _browse_folder(self) -> None:
        """The path's own button chooses files only."""
        path = self.ui.modelPathEdit
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of a model"), path.currentPath)
        if folder:
            path.currentPath = folder

    def _add(self) -> None:
        source = self.ui.modelPathEdit.currentPath
        if not source:
            raise InputError(_("Choose the folder or the file of a model first."))
        self.ui.addModelButton.enabled = False
        self._on_message(_("Reading the model..."))
        self._store.licence(source, lambda text: self._add_if_accepted(source, text))

    def _add_if_accepted(self, source: str, licence: str) -> None:
        if Licences.ask(licence):
            self._store.add(source, self._added)
        else:
            self._on_message(_("The licence was not accepted; nothing was added."))
            self.ui.addModelButton.enabled = True

    def _added(self, name: str) -> None:
        self.ui.addModelButton.enabled = True
        self._name = name
        self.ui.searchEdit.text = ""
        self.fill()
        self._on_choose(name)
        self._on_message(_("The model '{name}' was added and chosen.").format(name=name))

    def _failed(self, message: str) -> None:
        self.ui.addModelButton.enabled = True
        self._on_message(message)

    def _remove(self) -> None:
        question = _("Delete the model '{name}' from this computer?").format(name=self.ui.modelCombo.currentText)
        if slicer.util.confirmOkCancelDisplay(question, _("Remove model")):
            self._store.remove(self._name, self._removed)

    def _removed(self) -> None:
        self._name = ""
        self.fill()
        self._on_choose("")
        self._on_message(_("The model was removed."))


def _was_added(card: SegmentationCard) -> bool:
    return bool(card.folder.resolve().parent == own_models().resolve())
