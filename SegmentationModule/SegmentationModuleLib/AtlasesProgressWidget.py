"""What is seen while atlases are registered and data parameters learned: a row per atlas, the early answer. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from hyperreg.mrml.fusion import texts, weights_plot
from hyperreg.mrml.fusion.logic import AtlasesLogic
from hyperreg.mrml.lifecycle import IDLE
from HyperRegSlicerLib import Forms
from HyperRegSlicerLib.PictureWidget import Picture

NAME_COLUMN, STATE_COLUMN, BAR_COLUMN = range(3)
BAR_PIXELS = 90


class ProgressPanel:
    """The rows below the progress bar.

    ui: the form's widgets. guarded(action): the action as a slot whose errors the user sees.
    """

    def __init__(
        self, ui: Any, logic: AtlasesLogic, guarded: Callable[[Callable[[], Any]], Callable[[], None]]
    ) -> None:
        self.ui, self.logic = ui, logic
        logic.on_atlases = self.update
        logic.on_early = lambda _node: self.update()
        self._rows: list[str] = []
        table = ui.atlasRowsTable
        Forms.prepare_table(table, [_("Atlas"), _("State"), _("Registered")], STATE_COLUMN)
        table.setColumnWidth(BAR_COLUMN, BAR_PIXELS)
        self._plot = Picture(ui.earlyPlot, self._draw)
        ui.keepEarlyButton.connect("clicked()", guarded(logic.keep_early))
        self.update()

    def close(self) -> None:
        """Ends listening."""
        self._plot.close()

    def update(self) -> None:
        """Shows how far the run is; nothing while none is going on."""
        ui, atlases, early = self.ui, self.logic.atlases, self.logic.early
        table = ui.atlasRowsTable
        table.visible = bool(atlases)
        if [atlas.name for atlas in atlases] != self._rows:
            self._rows = [atlas.name for atlas in atlases]
            self._make_rows()
        for row, atlas in enumerate(atlases):
            text = texts.atlas_state(atlas)
            item = table.item(row, STATE_COLUMN)
            if item.text() != text:
                item.setText(text)
                item.setToolTip(text)
            table.cellWidget(row, BAR_COLUMN).value = round(100 * atlas.fraction)
            table.cellWidget(row, BAR_COLUMN).visible = atlas.state not in texts.NOT_USED
        ui.earlyPanel.visible = early is not None
        if early is not None:
            ui.earlyLabel.text = texts.early(early.learned)
            self._plot.paint()
        ui.keepEarlyButton.enabled = early is not None and self.logic.state != IDLE

    def _make_rows(self) -> None:
        table = self.ui.atlasRowsTable
        table.setRowCount(len(self._rows))
        for row, name in enumerate(self._rows):
            item = qt.QTableWidgetItem(name)
            item.setToolTip(name)
            table.setItem(row, NAME_COLUMN, item)
            table.setItem(row, STATE_COLUMN, qt.QTableWidgetItem(""))
            bar = qt.QProgressBar(table)
            bar.textVisible = False
            table.setCellWidget(row, BAR_COLUMN, bar)
        Forms.show_rows(table, len(self._rows))

    def _draw(self, width: float, ink: str) -> tuple[int, list[Any]]:
        early = self.logic.early
        if early is None:
            return 1, []
        learned = early.learned
        course = weights_plot.Course(
            learned.history_steps, learned.wanted, {atlas.name: atlas.history for atlas in learned.atlases}
        )
        return weights_plot.draw({atlas.name: atlas.weight for atlas in learned.atlases}, course, width, ink)
