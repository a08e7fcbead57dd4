"""What is shown of a result: volumes and borders of structures, doubtful regions, the Segment Editor. Qt only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.mrml.segmentation import results, texts
from hyperreg.mrml.segmentation.borders import Borders
from hyperreg.mrml.segmentation.layer import segment_id
from hyperreg.mrml.segmentation.uncertainty import Overlay, Tour
from hyperreg.segmentation.doubt import DoubtfulRegion
from HyperRegSlicerLib import Forms
from HyperRegSlicerLib.RegionsWidget import swatch

NAME_COLUMN, VOLUME_COLUMN, SPREAD_COLUMN = 0, 1, 2
# Surfaces follow a border that has not been moved for so long.
REST_MS = 300


class ResultPanel:
    """The panel below the button.

    ui: the form's widgets. borders: of the last result. guarded(action): the action as a slot whose errors the user
    sees; told(slot): a slot.
    """

    def __init__(
        self,
        ui: Any,
        borders: Borders,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self.ui = ui
        self._borders = borders
        self._labels: list[int] = []
        self._rest = Forms.rest_timer(REST_MS, told(borders.rest))
        borders.on_change = self._border_changed
        self._tour = Tour(None)
        self._overlay = Overlay(slicer.mrmlScene)
        table = ui.statisticsTable
        Forms.prepare_table(table, [_("Structure"), _("ml"), _("sure – doubtful")], NAME_COLUMN)
        table.connect("currentCellChanged(int,int,int,int)", told(self._choose))
        ui.sureLabel.text, ui.doubtfulLabel.text = texts.ONLY_SURE, texts.ALL_THAT_MAY_BE
        ui.borderSlider.toolTip = texts.BORDER_HINT
        ui.borderSlider.connect("valueChanged(int)", told(self._move))
        ui.borderBackButton.connect("clicked()", guarded(self._back))
        ui.nextDoubtButton.connect("clicked()", guarded(self._next))
        ui.editButton.connect("clicked()", guarded(self._edit))
        ui.showUncertaintyCheckBox.connect("toggled(bool)", told(self._show_uncertainty))
        # Not part of every build of Slicer.
        ui.editButton.visible = hasattr(slicer.modules, "segmenteditor")

    @property
    def segmentation(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The result that is shown."""
        return self._tour.segmentation

    def show(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """What the parameter node says."""
        if segmentation is self.segmentation:
            return
        self.hide_uncertainty()
        self._tour.end(slicer.mrmlScene)
        self._tour = Tour(segmentation)
        self.ui.doubtLabel.text = ""
        with Forms.quiet(self.ui.statisticsTable):
            self.ui.statisticsTable.setCurrentCell(-1, -1)
        self._borders.choose(None, None)
        self.fill()

    def fill(self) -> None:
        """Writes the volumes of the shown segmentation, from the table node: what the user reads is what is saved."""
        table, rows = self.ui.statisticsTable, results.rows_of(self.segmentation)
        table.setRowCount(len(rows))
        self._labels = [int(row[results.LABEL]) for row in rows]
        for index, row in enumerate(rows):
            name = qt.QTableWidgetItem(row[results.STRUCTURE])
            segment = self.segmentation.GetSegmentation().GetSegment(segment_id(row[results.LABEL]))
            if segment is not None:
                name.setIcon(swatch(segment.GetColor()))
            # A narrow panel cuts long names.
            name.setToolTip(row[results.STRUCTURE])
            table.setItem(index, NAME_COLUMN, name)
        self._fill_volumes(rows)
        table.resizeColumnsToContents()
        table.horizontalHeader().setSectionResizeMode(NAME_COLUMN, qt.QHeaderView.Stretch)
        Forms.show_rows(table, len(rows))

    def _fill_volumes(self, rows: Sequence[Mapping[str, str]]) -> None:
        for index, row in enumerate(rows):
            volume, sure, doubtful = (float(row[title]) for title in results.VOLUME_COLUMNS)
            self.ui.statisticsTable.setItem(index, VOLUME_COLUMN, _number(texts.millilitres(volume)))
            self.ui.statisticsTable.setItem(index, SPREAD_COLUMN, _number(texts.spread(volume, sure, doubtful)))

    def update(self) -> None:
        """Shows what can be pressed."""
        self._show_border()
        self.ui.nextDoubtButton.enabled = self.ui.showUncertaintyCheckBox.enabled = self._tour.is_possible
        self.ui.editButton.enabled = self.segmentation is not None

    def hide_uncertainty(self) -> None:
        """Takes the uncertainty map out of the views."""
        self.ui.showUncertaintyCheckBox.checked = False

    def forget(self) -> None:
        """Drops the scene's nodes."""
        self._overlay.forget()
        self.show(None)

    def _choose(self, row: int, *_cells: int) -> None:
        if 0 <= row < len(self._labels):
            self._borders.choose(self.segmentation, self._labels[row])

    def _move(self, position: int) -> None:
        self._borders.move(position)
        self._rest.start()

    def _back(self) -> None:
        question = _("Drop everything that was changed by hand in {structure}?").format(
            structure=self._borders.structure.name
        )
        if not self._borders.is_changed or slicer.util.confirmOkCancelDisplay(question, _("Back to the result")):
            self._borders.back()
            self._rest.start()

    def _border_changed(self) -> None:
        self._fill_volumes(results.rows_of(self.segmentation))
        self._show_border()

    def _show_border(self) -> None:
        ui, borders = self.ui, self._borders
        ui.borderLabel.text = texts.border(borders)
        with Forms.quiet(ui.borderSlider):
            ui.borderSlider.value = borders.position
        for widget in (ui.borderSlider, ui.sureLabel, ui.doubtfulLabel):
            widget.enabled = not borders.reason
        ui.borderBackButton.enabled = borders.can_go_back

    def _next(self) -> None:
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            region: DoubtfulRegion | None = self._tour.next(slicer.mrmlScene)
        finally:
            qt.QApplication.restoreOverrideCursor()
        inside = self._tour.structure() if region is not None else ""
        self.ui.doubtLabel.text = texts.uncertain_region(self._tour.number, self._tour.regions, inside)

    def _show_uncertainty(self, shown: bool) -> None:
        if shown:
            self._overlay.show(self.segmentation)
        else:
            self._overlay.hide()

    def _edit(self) -> None:
        node = self.segmentation
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(node)
        reference = results.reference_of(node)
        if reference is not None:
            editor.setSourceVolumeNode(reference)


def _number(text: str) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(text)
    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item
