"""The section "Atlases": targets and atlases from disk or scene, or segmentations of several readers. Qt only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ctk
import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.mrml.fusion import results, scene_atlases, texts, weights_plot
from hyperreg.mrml.fusion.logic import AtlasesLogic, FusionRun
from hyperreg.mrml.lifecycle import IDLE
from hyperreg.mrml.segmentation.uncertainty import Overlay, Tour
from hyperreg.worker.fusion import FoundAtlas, Fused
from HyperRegSlicerLib import Forms
from HyperRegSlicerLib.PictureWidget import Picture
from SegmentationModuleLib.AtlasesProgressWidget import ProgressPanel

# Where atlases come from: on disk, or in the scene.
ON_DISK, IN_SCENE = 0, 1
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
HEADER_PIXELS = 46
THUMBNAIL_PIXELS = 64


class AtlasesPanel:
    """The section's widgets.

    ui: the form's widgets. fuser: a `RemoteFuser` or a stand-in. guarded(action): the action as a slot whose errors the
    user sees; told(slot): a slot. is_ready(): asks for what is not installed. on_message(text).
    """

    def __init__(
        self,
        ui: Any,
        fuser: Any,
        guarded: Callable[[Callable[[], Any]], Callable[[], None]],
        is_ready: Callable[[], bool],
        on_message: Callable[[str], None],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self.ui = ui
        self._is_ready, self._on_message = is_ready, on_message
        self.logic = AtlasesLogic(slicer.mrmlScene, fuser)
        self.logic.on_change = self.update
        self.logic.on_progress = self._progressed
        self.logic.on_result = self._result_arrived
        self.logic.on_finished = self._finished
        self.logic.on_error = on_message
        self.parameters: Any = None
        self._tour = Tour(None)
        self._overlay = Overlay(slicer.mrmlScene)
        self._summary = ""
        self._status = ""  # of what was looked through
        self.progress = ProgressPanel(ui, self.logic, guarded)
        for name, (title, _hint) in texts.METHODS.items():
            ui.atlasMethodCombo.addItem(title, name)
            if name in texts.OF_READERS:
                ui.readersMethodCombo.addItem(title, name)
        for title in (_("Folder on disk"), _("Folder in the scene")):
            ui.atlasSourceCombo.addItem(title)
        ui.atlasFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self._plot = Picture(ui.weightsPlot, self._draw)
        ui.atlasList.setIconSize(qt.QSize(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        ui.atlasList.visible = False
        table = ui.ratersTable
        Forms.prepare_table(table, list(COLUMNS), stretched=None)
        for column, meaning in enumerate(COLUMNS.values()):
            table.horizontalHeaderItem(column).setToolTip(meaning)
        table.horizontalHeader().connect("sortIndicatorChanged(int,Qt::SortOrder)", told(self._fit_columns))
        for button, action in (
            ("atlasRunButton", self._run_or_cancel),
            ("readersButton", self._fuse_readers),
            ("atlasCheckButton", self._look_through),
            ("nextDisagreementButton", self._next),
            ("atlasUndoButton", self._undo),
        ):
            getattr(ui, button).connect("clicked()", guarded(action))
        for selector in (ui.atlasTargetsSelector, ui.readersSelector):
            selector.connect("checkedNodesChanged()", told(self.update))
        ui.atlasFolderEdit.connect("currentPathChanged(QString)", told(self._folder_chosen))
        ui.atlasSourceCombo.connect("currentIndexChanged(int)", told(self._source_chosen))
        ui.atlasSceneCombo.connect("currentIndexChanged(int)", told(self._scene_folder_chosen))
        ui.atlasMethodCombo.connect("currentIndexChanged(int)", told(self._method_chosen))
        ui.readersMethodCombo.connect("currentIndexChanged(int)", told(self._readers_method_chosen))
        ui.showDisagreementCheckBox.connect("toggled(bool)", told(self._show_disagreement))
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
            self._tour.end(slicer.mrmlScene)
            self._tour, self._summary = Tour(None), ""
            self._forget_list()
        else:
            if self.ui.atlasFolderEdit.currentPath != parameters.atlasFolder:
                self.ui.atlasFolderEdit.currentPath = parameters.atlasFolder
            self.ui.atlasSourceCombo.setCurrentIndex(IN_SCENE if parameters.atlasesInScene else ON_DISK)
            self._list_scene_folders()
            for combo, method in (
                (self.ui.atlasMethodCombo, parameters.atlasMethod),
                (self.ui.readersMethodCombo, parameters.readersMethod),
            ):
                combo.setCurrentIndex(max(0, combo.findData(method)))
            if parameters.consensus is not self.segmentation:
                self.ui.showDisagreementCheckBox.checked = False
                self._tour.end(slicer.mrmlScene)
                self._tour = Tour(parameters.consensus)
                self.ui.disagreementLabel.text = ""
        self._fill()
        self.update()

    def close(self) -> None:
        self.logic.close()
        self.progress.close()
        self._plot.close()

    # What the user does

    def _folder_chosen(self, path: str) -> None:
        if self.parameters is not None and self.parameters.atlasFolder != path:
            self.parameters.atlasFolder = path
            self._forget_list()

    def _source_chosen(self, index: int) -> None:
        if self.parameters is not None and self.parameters.atlasesInScene != (index == IN_SCENE):
            self.parameters.atlasesInScene = index == IN_SCENE
            self._forget_list()

    def _scene_folder_chosen(self, index: int) -> None:
        path = self.ui.atlasSceneCombo.itemData(index) or ""
        if self.parameters is not None and self.parameters.atlasSceneFolder != path:
            self.parameters.atlasSceneFolder = path
            self._forget_list()

    def _method_chosen(self, _index: int) -> None:
        if self.parameters is not None:
            self.parameters.atlasMethod = self.ui.atlasMethodCombo.currentData
            self.update()

    def _readers_method_chosen(self, _index: int) -> None:
        if self.parameters is not None:
            self.parameters.readersMethod = self.ui.readersMethodCombo.currentData

    def _forget_list(self) -> None:
        self.ui.atlasList.clear()
        self.ui.atlasList.visible = False
        self._status = ""
        self.update()

    def _list_scene_folders(self) -> None:
        """Folders of the subject hierarchy, as they are now; they are made in another module (Data)."""
        known, chosen = scene_atlases.folders(slicer.mrmlScene), self.parameters.atlasSceneFolder
        first = _("Choose a folder") if known else _("No folder yet: make one in the module Data")
        entries = [(first, ""), *((path, path) for path in known)]
        Forms.fill_combo(self.ui.atlasSceneCombo, entries, chosen if chosen in known else "")

    @property
    def _targets(self) -> list[Any]:
        """The checked volumes; if none is, the one that is chosen at the top."""
        volume = self.parameters.volume
        return list(self.ui.atlasTargetsSelector.checkedNodes()) or ([volume] if volume is not None else [])

    @property
    def _missing(self) -> str:
        """What is to be done before the button can be pressed; "" for nothing."""
        if not self._targets:
            return _("Choose a volume.")
        return "" if self._chosen_folder else _("Choose the folder of the atlases.")

    @property
    def _chosen_folder(self) -> str:
        parameters = self.parameters
        return parameters.atlasSceneFolder if parameters.atlasesInScene else parameters.atlasFolder.strip()

    def _run_or_cancel(self) -> None:
        if self.logic.state != IDLE:
            self.logic.cancel()
        elif self._is_ready():
            parameters = self.parameters
            self._summary = ""
            self.logic.fuse_atlases(
                self._targets,
                self._chosen_folder,
                in_scene=parameters.atlasesInScene,
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
                method=parameters.readersMethod,
                show_3d=parameters.show3D,
            )

    def _look_through(self) -> None:
        if self._is_ready():
            self.logic.find_atlases(
                self._chosen_folder, self._found, self._not_found, in_scene=self.parameters.atlasesInScene
            )
            self._status = _("Reading the atlases...")

    def _next(self) -> None:
        region = self._tour.next(slicer.mrmlScene)
        inside = self._tour.structure() if region is not None else ""
        self.ui.disagreementLabel.text = texts.disagreement(self._tour.number, self._tour.regions, inside)

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
            self._overlay.show(self.segmentation)
        else:
            self._overlay.hide()

    # What the logic says

    def _progressed(self, fraction: float, text: str) -> None:
        self.ui.atlasProgressBar.value = round(100 * fraction)
        self.ui.atlasStatusLabel.text = text

    def _result_arrived(self, node: slicer.vtkMRMLSegmentationNode, _fused: Fused) -> None:
        if self.parameters is not None:
            self.parameters.consensus = node

    def _finished(self, run: FusionRun) -> None:
        self._summary = texts.fused(run)
        self._on_message("\n".join(run.warnings))
        self.show(self.parameters)

    def _found(self, atlases: Sequence[FoundAtlas]) -> None:
        listed = self.ui.atlasList
        listed.clear()
        for atlas in atlases:
            # The file of an atlas of the scene is our own copy: its name says nothing.
            file = "" if self.parameters is None or self.parameters.atlasesInScene else f"  ({atlas.image})"
            text = f"{atlas.name}: {atlas.problem}" if atlas.problem else f"{atlas.name}{file}"
            item = qt.QListWidgetItem(text)
            if atlas.thumbnail is not None:
                item.setIcon(_icon(atlas.thumbnail))
            listed.addItem(item)
        listed.visible = True
        usable = sum(1 for atlas in atlases if not atlas.problem)
        self._status = _("{usable} of {all} atlases can be used.").format(usable=usable, all=len(atlases))
        self.update()

    def _not_found(self, message: str) -> None:
        self._status = ""
        self.update()
        self._on_message(message)

    # What the form shows

    def update(self) -> None:
        """Shows the state: what can be pressed and what is going on."""
        ui = self.ui
        idle, ready = self.logic.state == IDLE, self.parameters is not None
        ui.atlasRunButton.text = _("Segment by atlases") if idle else _("Cancel")
        in_scene = ready and self.parameters.atlasesInScene
        folder = ready and bool(self._chosen_folder)
        ui.atlasRunButton.enabled = ready and (not idle or not self._missing)
        ui.readersButton.enabled = ready and idle and len(ui.readersSelector.checkedNodes()) > 1
        ui.atlasCheckButton.enabled = folder and idle
        ui.atlasProgressBar.visible = not idle
        if idle:
            ui.atlasProgressBar.value = 0
            ui.atlasStatusLabel.text = (self._status or self._missing) if ready else ""
        for widget in (
            ui.atlasTargetsSelector, ui.atlasSourceCombo, ui.atlasFolderEdit, ui.atlasSceneCombo, ui.atlasMethodCombo,
            ui.readersSelector, ui.readersMethodCombo, ui.atlasLambdaSlider, ui.atlasSelectSpinBox,
            ui.atlasRefineCheckBox,
        ):  # fmt: skip
            widget.enabled = idle
        for widget in (ui.atlasFolderLabel, ui.atlasFolderEdit):
            widget.visible = not in_scene
        for widget in (ui.atlasSceneLabel, ui.atlasSceneCombo):
            widget.visible = bool(in_scene)
        method = ui.atlasMethodCombo.currentData
        ui.atlasMethodHintLabel.text = texts.METHODS[method][1] if method in texts.METHODS else ""
        self.progress.update()
        ui.atlasSummaryLabel.text = self._summary
        ui.atlasResultPanel.visible = self.segmentation is not None or bool(self._summary)
        possible = self._tour.is_possible
        ui.nextDisagreementButton.enabled = ui.showDisagreementCheckBox.enabled = possible
        ui.atlasUndoButton.enabled = self.logic.can_undo

    def _fill(self) -> None:
        """Writes the label maps of the shown consensus, from its table node: what is read is what is saved."""
        table, rows = self.ui.ratersTable, results.raters_of(self.segmentation)
        table.setSortingEnabled(False)  # else every item sorts the row away that the next one is meant for
        table.setRowCount(len(rows))
        numbers = (results.WEIGHT, *results.FIGURES, results.LAMBDA)
        for index, row in enumerate(rows):
            table.setItem(index, 0, qt.QTableWidgetItem(row[results.NAME]))
            for column, title in enumerate(numbers, start=1):
                table.setItem(index, column, _number(row[title]))
            state = qt.QTableWidgetItem(row[results.STATE])
            state.setToolTip(row[results.REASON])
            table.setItem(index, len(COLUMNS) - 1, state)
        table.setSortingEnabled(True)
        self._fit_columns()
        Forms.show_rows(table, len(rows), HEADER_PIXELS)
        self.ui.weightsPlot.visible = len(self._weights()) > 1
        self._plot.paint()

    def _fit_columns(self, *_sorted: Any) -> None:
        """Nothing is cut, and all columns are seen at once: only the one that is sorted by has room for the arrow."""
        table = self.ui.ratersTable
        header, style = table.horizontalHeader(), table.style()
        table.resizeColumnToContents(0)
        for column, title in enumerate(COLUMNS):
            wanted = header.fontMetrics().horizontalAdvance(title) + 2 * style.pixelMetric(qt.QStyle.PM_HeaderMargin)
            if column == header.sortIndicatorSection():
                wanted += style.pixelMetric(qt.QStyle.PM_HeaderMarkSize)
            if column > 0:
                table.setColumnWidth(column, max(wanted, table.sizeHintForColumn(column)))

    def _weights(self) -> dict[str, float]:
        """Of the label maps that were used."""
        rows = results.raters_of(self.segmentation)
        used = [row for row in rows if row[results.STATE] == "used"]
        return {row[results.NAME]: float(row[results.WEIGHT]) for row in used}

    def _draw(self, width: float, ink: str) -> tuple[int, list[Any]]:
        return weights_plot.draw(self._weights(), results.course_of(self.segmentation), width, ink)


def _number(text: str) -> qt.QTableWidgetItem:
    """A figure that is sorted as a number; nothing for NaN."""
    item = qt.QTableWidgetItem()
    value = float(text)
    if math.isfinite(value):
        item.setData(qt.Qt.DisplayRole, round(value, 2))
        item.setToolTip(f"{value:.4f}")
    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item


def _icon(picture: np.ndarray) -> qt.QIcon:
    """From (H, W, 3) uint8, as a PPM file: PythonQt's QImage knows no bytes per line, and lines would be padded."""
    height, width = picture.shape[:2]
    pixmap = qt.QPixmap()
    pixmap.loadFromData(f"P6 {width} {height} 255\n".encode() + np.ascontiguousarray(picture).tobytes())
    return qt.QIcon(pixmap)
