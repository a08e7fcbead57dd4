"""Asks whether the user accepts a model's licence, before the model is first used. Qt only."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.segmentation import licences
from hyperreg.segmentation.catalogue import SegmentationCard

# Characters of a licence that a dialog has room for; the rest is behind its button for details.
LICENCE_SHOWN = 700


def accepted(card: SegmentationCard) -> bool:
    """Whether the model may be used: shows its licence where it has to be asked about, and writes the answer down."""
    if licences.is_accepted(card):
        return True
    if not ask(licences.licence_of(card)):
        return False
    licences.accept(card)
    return True


def ask(text: str) -> bool:
    """Shows a licence, however long, and asks."""
    is_long = len(text) > LICENCE_SHOWN
    shown = f"{text[:LICENCE_SHOWN].rsplit(' ', 1)[0]} ..." if is_long else text
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setWindowTitle(_("Licence of the model"))
    box.setText(_("{licence}\n\nDo you accept the licence of this model?").format(licence=shown))
    if is_long:
        box.setDetailedText(text)
    box.setStandardButtons(qt.QMessageBox.Yes | qt.QMessageBox.No)
    return bool(box.exec_() == qt.QMessageBox.Yes)
