"""The section "Atlases": targets and a folder of atlases, or segmentations of several readers. Qt only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.worker.fusion import FoundAtlas, Fused
from SegmentationModuleLib import AtlasesResults, Results, Texts
from SegmentationModuleLib.AtlasesLogic import AtlasesLogic, FusionRun
from SegmentationModuleLib.Doubt import Tour
from SegmentationModuleLib.Overlay import Overlay
from SegmentationModuleLib.Runs import CANCELLING, IDLE

METHODS = (
    ("vote", _("Majority vote")),
    ("staple", _("STAPLE: weighted by estimated quality")),
    ("local", _("Local: where the images look alike")),
    ("dp", _("Learned weights (minutes more)")),
)
# What segmentations can be fused by: the other methods compare images of atlases.
OF_READERS = ("vote", "staple")
# Titles of the table, and what they mean.
COLUMNS = {
    _("Label map"): _("The atlas or the reader"),
    _("Weight"): _("Its share in the decision"),
    _("Sens."): _("Sensitivity: mean over structures"),
    _("Spec."): _("Specificity: mean over structures, within the box around all labels"),
    _("Dice"): _("Overlap with the consensus, not with a truth: mean over structures"),
    _("Simil."): _("Similarity of the registered atlas with the volume, 0 to 1"),
    "λ": _("How rigid its registration was"),
    _("State"): _("Whether it was used, and if not, why"),
}
ROWS_SHOWN, ROW_PIXELS = 10, 24
THUMBNAIL_PIXELS = 64
# Of the plot of weights.
BAR_PIXELS, PLOT_WIDTH, NAME_WIDTH = 14, 340, 110


class AtlasesPanel:
    """The section's widgets.

    ui: the form's widgets. fuser: a `RemoteFuser` or a stand-in. guarded(action): the action as a slot whose errors the
    user sees. is_ready(): asks for what is not installed. device(): where to compute. on_message(text).
    """

    def __init__(
        self,
        ui: Any,
        fuser: Any,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        is_ready: Callable[[], bool],
        on_message: Callable[[str], None],
    ) -> None:
        self.ui, self.fuser = ui, fuser
        self._is_ready, self._on_message = is_ready, on_message
        self.logic = AtlasesLogic(slicer.mrmlScene, fuser)
        self.logic.on_change = self.update
        self.logic.on_progress = self._progressed
        self.logic.on_result = self._result_arrived
        self.logic.on_finished = self._finished
        self.logic.on_error = on_message
        self.parameters: Any = None
        self._tour = Tour(None)
        self._overlay = Overlay()
        self._summary = ""
        for name, title in METHODS:
            ui.atlasMethodCombo.addItem(title, name)
        ui.atlasList.setIconSize(qt.QSize(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        ui.atlasList.visible = False
        table = ui.ratersTable
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, meaning in enumerate(COLUMNS.values()):
            table.horizontalHeaderItem(column).setToolTip(meaning)
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(ROW_PIXELS)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        for button, action in (
            ("atlasRunButton", self._run_or_cancel),
            ("readersButton", self._fuse_readers),
            ("atlasCheckButton", self._look_through),
            ("nextDisagreementButton", self._next),
            ("atlasUndoButton", self._undo),
        ):
            getattr(ui, button).connect("clicked()", guarded(action))
        for selector in (ui.atlasTargetsSelector, ui.readersSelector):
            selector.connect("checkedNodesChanged()", self.update)
        ui.atlasFolderEdit.connect("currentPathChanged(QString)", self._folder_chosen)
        ui.atlasMethodCombo.connect("currentIndexChanged(int)", self._method_chosen)
        ui.showDisagreementCheckBox.connect("toggled(bool)", self._show_disagreement)
        self.update()

    @property
    def segmentation(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The consensus that is shown."""
        return self._tour.segmentation

    def show(self, parameters: Any) -> None:
        """What the parameter node says; None when the scene closes."""
        self.parameters = parameters
        if parameters is None:
            self.ui.showDisagreementCheckBox.checked = False
            self._overlay.forget()
            self._tour, self._summary = Tour(None), ""
            self.ui.atlasList.clear()
            self.ui.atlasList.visible = False
        else:
            if self.ui.atlasFolderEdit.currentPath != parameters.atlasFolder:
                self.ui.atlasFolderEdit.currentPath = parameters.atlasFolder
            row = [name for name, _title in METHODS].index(parameters.atlasMethod)
            self.ui.atlasMethodCombo.setCurrentIndex(row)
            if parameters.consensus is not self.segmentation:
                self.ui.showDisagreementCheckBox.checked = False
                self._tour = Tour(parameters.consensus)
                self.ui.disagreementLabel.text = ""
        self._fill()
        self.update()

    def close(self) -> None:
        self.logic.close()

    # What the user does

    def _folder_chosen(self, path: str) -> None:
        if self.parameters is not None and self.parameters.atlasFolder != path:
            self.parameters.atlasFolder = path
            self.ui.atlasList.clear()
            self.ui.atlasList.visible = False

    def _method_chosen(self, _index: int) -> None:
        if self.parameters is not None:
            self.parameters.atlasMethod = self.ui.atlasMethodCombo.currentData
            self.update()

    def _run_or_cancel(self) -> None:
        if self.logic.state != IDLE:
            self.logic.cancel()
        elif self._is_ready():
            parameters = self.parameters
            self._summary = ""
            self.logic.fuse_atlases(
                self.ui.atlasTargetsSelector.checkedNodes(),
                parameters.atlasFolder,
                show_3d=parameters.show3D,
                method=parameters.atlasMethod,
                lam=round(parameters.atlasLambda, 4),
                refine=parameters.atlasRefine,
                select=parameters.atlasSelect,
                device=parameters.device.value,
            )

    def _fuse_readers(self) -> None:
        if self._is_ready():
            self._summary = ""
            parameters = self.parameters
            self.logic.fuse_segmentations(
                self.ui.readersSelector.checkedNodes(),
                parameters.volume,
                method=parameters.atlasMethod,
                show_3d=parameters.show3D,
            )

    def _look_through(self) -> None:
        if self._is_ready():
            self.ui.atlasStatusLabel.text = _("Reading the atlases...")
            self.fuser.find_atlases(self.parameters.atlasFolder, self._found, self._on_message)

    def _next(self) -> None:
        region = self._tour.next(slicer.mrmlScene)
        inside = self._tour.structure() if region is not None else ""
        self.ui.disagreementLabel.text = Texts.disagreement(self._tour.number, self._tour.regions, inside)

    def _undo(self) -> None:
        question = _("The consensus was edited since. Remove it with everything that was changed in it?")
        if self.logic.was_edited and not slicer.util.confirmOkCancelDisplay(question, _("Undo")):
            return
        self.ui.showDisagreementCheckBox.checked = False
        self.logic.undo()
        self._summary = ""
        self.show(self.parameters)

    def _show_disagreement(self, shown: bool) -> None:
        if shown:
            self._overlay.show(Results.uncertainty_of(self.segmentation))
        else:
            self._overlay.hide()

    # What the logic says

    def _progressed(self, fraction: float, text: str) -> None:
        self.ui.atlasProgressBar.value = round(100 * fraction)
        if self.logic.state != CANCELLING:
            self.ui.atlasStatusLabel.text = text

    def _result_arrived(self, node: slicer.vtkMRMLSegmentationNode, _fused: Fused) -> None:
        if self.parameters is not None:
            self.parameters.consensus = node

    def _finished(self, run: FusionRun) -> None:
        self._summary = Texts.fused(run)
        self._on_message("\n".join(run.warnings))
        self.show(self.parameters)

    def _found(self, atlases: Sequence[FoundAtlas]) -> None:
        listed = self.ui.atlasList
        listed.clear()
        for atlas in atlases:
            text = f"{atlas.name}: {atlas.problem}" if atlas.problem else f"{atlas.name}  ({atlas.image})"
            item = qt.QListWidgetItem(text)
            if atlas.thumbnail is not None:
                item.setIcon(_icon(atlas.thumbnail))
            listed.addItem(item)
        listed.visible = True
        usable = sum(1 for atlas in atlases if not atlas.problem)
        self.ui.atlasStatusLabel.text = _("{usable} of {all} atlases can be used.").format(
            usable=usable, all=len(atlases)
        )

    # What the form shows

    def update(self) -> None:
        """Shows the state: what can be pressed and what is going on."""
        ui, state = self.ui, self.logic.state
        idle, ready = state == IDLE, self.parameters is not None
        ui.atlasRunButton.text = (
            _("Segment by atlases") if idle else _("Cancelling...") if state == CANCELLING else _("Cancel")
        )
        folder = ready and bool(self.parameters.atlasFolder.strip())
        ui.atlasRunButton.enabled = ready and (
            (folder and bool(ui.atlasTargetsSelector.checkedNodes())) if idle else state != CANCELLING
        )
        ui.readersButton.enabled = (
            ready and idle and len(ui.readersSelector.checkedNodes()) > 1 and self.parameters.atlasMethod in OF_READERS
        )
        ui.atlasCheckButton.enabled = folder and idle
        ui.atlasProgressBar.visible = not idle
        if idle and ui.atlasProgressBar.value:
            ui.atlasProgressBar.value = 0
            ui.atlasStatusLabel.text = ""
        for widget in (ui.atlasTargetsSelector, ui.atlasFolderEdit, ui.atlasMethodCombo, ui.readersSelector):
            widget.enabled = idle
        ui.atlasSummaryLabel.text = self._summary
        ui.atlasResultPanel.visible = self.segmentation is not None or bool(self._summary)
        possible = self._tour.is_possible
        ui.nextDisagreementButton.enabled = ui.showDisagreementCheckBox.enabled = possible
        ui.atlasUndoButton.enabled = self.logic.can_undo

    def _fill(self) -> None:
        """Writes the label maps of the shown consensus, from its table node: what is read is what is saved."""
        table, rows = self.ui.ratersTable, AtlasesResults.raters_of(self.segmentation)
        table.setSortingEnabled(False)  # else every item sorts the row away that the next one is meant for
        table.setRowCount(len(rows))
        numbers = (AtlasesResults.WEIGHT, *AtlasesResults.FIGURES, AtlasesResults.LAMBDA)
        for index, row in enumerate(rows):
            table.setItem(index, 0, qt.QTableWidgetItem(row[AtlasesResults.NAME]))
            for column, title in enumerate(numbers, start=1):
                table.setItem(index, column, _number(row[title]))
            state = qt.QTableWidgetItem(row[AtlasesResults.STATE])
            state.setToolTip(row[AtlasesResults.REASON])
            table.setItem(index, len(COLUMNS) - 1, state)
        table.setSortingEnabled(True)
        table.resizeColumnsToContents()
        table.visible = bool(rows)
        table.minimumHeight = table.maximumHeight = (min(len(rows), ROWS_SHOWN) + 1) * ROW_PIXELS + 22
        used = [row for row in rows if row[AtlasesResults.STATE] == "used"]
        self.ui.weightsPlot.visible = len(used) > 1
        if len(used) > 1:
            self.ui.weightsPlot.setPixmap(
                _bars([(row[AtlasesResults.NAME], float(row[AtlasesResults.WEIGHT])) for row in used])
            )


def _number(text: str) -> qt.QTableWidgetItem:
    """A figure that is sorted as a number; nothing for NaN."""
    item = qt.QTableWidgetItem()
    value = float(text)
    if math.isfinite(value):
        item.setData(qt.Qt.DisplayRole, round(value, 3))
    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item


def _icon(picture: np.ndarray) -> qt.QIcon:
    height, width = picture.shape[:2]
    data = np.ascontiguousarray(picture).tobytes()
    return qt.QIcon(qt.QPixmap.fromImage(qt.QImage(data, width, height, 3 * width, qt.QImage.Format_RGB888)))


def _bars(weights: Sequence[tuple[str, float]]) -> qt.QPixmap:
    """The weights as bars, the largest first."""
    ordered = sorted(weights, key=lambda entry: -entry[1])
    pixmap = qt.QPixmap(PLOT_WIDTH, BAR_PIXELS * len(ordered) + 6)
    pixmap.fill(qt.QColor("#ffffff"))
    painter = qt.QPainter(pixmap)
    most = max(weight for _name, weight in ordered) or 1.0
    room = PLOT_WIDTH - NAME_WIDTH - 54
    for row, (name, weight) in enumerate(ordered):
        top = 3 + row * BAR_PIXELS
        painter.setPen(qt.QColor("#202020"))
        painter.drawText(4, top + BAR_PIXELS - 3, name[:16])
        painter.fillRect(NAME_WIDTH, top + 2, max(1, round(room * weight / most)), BAR_PIXELS - 4, qt.QColor("#3d8fe0"))
        painter.drawText(NAME_WIDTH + round(room * weight / most) + 6, top + BAR_PIXELS - 3, f"{100 * weight:.1f} %")
    painter.end()
    return pixmap
