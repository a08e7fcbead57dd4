"""The section in which segments get a λ of their own. Qt only; what a region is, is in Regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.errors import InputError
from hyperreg.mrml import regions
from HyperRegSlicerLib import Forms

NAME_COLUMN, LAMBDA_COLUMN, RIGID_COLUMN = range(3)
SWATCH_PIXELS = 14
# Drawing changes a segmentation many times a second; the table follows when the hand rests.
REST_MS = 600


class RegionsPanel:
    """Selector, table and button of the regions.

    ui: the form's widgets. on_change(node, lambdas, rigid): the user chose; lambdas by region key, of the checked ones
    only; rigid: keys of those that move as one rigid body.
    on_error(text): a node that cannot be used. told(slot): the slot; what it raises is shown to the user.
    """

    def __init__(
        self,
        ui: Any,
        on_change: Callable[[Any, dict[str, float], set[str]], None],
        on_error: Callable[[str], None],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self.ui = ui
        self._on_change, self._on_error, self._told = on_change, on_error, told
        self._node: Any = None
        self._stamp: tuple[int, ...] = ()
        self._regions: list[regions.Region] = []
        self._lambdas: dict[str, float] = {}
        self._rigid: set[str] = set()
        # λ of regions that are not checked now, for when they are again.
        self._last: dict[str, float] = {}
        self._slider = 0.0
        self._filling = False
        self._observed: list[tuple[Any, int]] = []
        self._rest = Forms.rest_timer(REST_MS, told(self._look_again))
        table = ui.regionsTable
        Forms.prepare_table(table, [_("Own λ for"), "λ", _("Rigid")], NAME_COLUMN)
        table.horizontalHeader().setSectionResizeMode(LAMBDA_COLUMN, qt.QHeaderView.ResizeToContents)
        table.horizontalHeader().setSectionResizeMode(RIGID_COLUMN, qt.QHeaderView.ResizeToContents)
        table.connect("itemChanged(QTableWidgetItem*)", told(self._checked))
        ui.regionsSelector.connect("currentNodeChanged(vtkMRMLNode*)", told(self._chosen))
        ui.clearRegionsButton.connect("clicked()", told(self._clear))
        self._fill()

    def show(self, node: Any, lambdas: dict[str, float], rigid: set[str], slider: float) -> None:
        """What the parameter node says. slider: λ of everything else."""
        self._slider = slider
        if node is self._node and lambdas == self._lambdas and rigid == self._rigid:
            return
        self._lambdas, self._rigid = dict(lambdas), set(rigid)
        self._take(node)
        with Forms.quiet(self.ui.regionsSelector):
            self.ui.regionsSelector.setCurrentNode(node)
        self._fill()

    def close(self) -> None:
        """Ends listening."""
        self._rest.stop()
        self._take(None)

    def _take(self, node: Any) -> None:
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed, self._node, self._regions, self._stamp = [], node, [], ()
        if node is None:
            return
        try:
            self._regions = regions.regions_of(node)
            self._stamp = regions.stamp(node)
        except InputError as error:
            self._on_error(str(error))
        self._observed = regions.observe(node, self._edited)

    def _fill(self) -> None:
        table = self.ui.regionsTable
        self._filling = True
        table.setRowCount(len(self._regions))
        for row, region in enumerate(self._regions):
            hint = _("Checked: this segment has the λ beside it. Unchecked: it follows the slider.")
            item = Forms.checkable(region.name, region.key in self._lambdas, hint)
            item.setIcon(swatch(region.colour))
            table.setItem(row, NAME_COLUMN, item)
            table.setCellWidget(row, LAMBDA_COLUMN, self._spin_box(region.key))
            hint = _("Checked: this segment moves as one rigid body, such as a bone or an implant.")
            table.setItem(row, RIGID_COLUMN, Forms.checkable("", region.key in self._rigid, hint))
        self._filling = False
        Forms.show_rows(table, len(self._regions))
        self.ui.clearRegionsButton.enabled = bool(self._lambdas or self._rigid)

    def _spin_box(self, key: str) -> qt.QDoubleSpinBox:
        box = qt.QDoubleSpinBox()
        box.setRange(0.0, 1.0)
        box.setSingleStep(0.05)
        box.setDecimals(2)
        box.setValue(self._lambdas.get(key, self._last.get(key, self._slider)))
        box.setEnabled(key in self._lambdas)
        box.setToolTip(_("λ of this segment: 0 most flexible (soft tissue), 1 most rigid (bone)"))
        box.connect("valueChanged(double)", self._told(lambda value: self._set(key, value)))
        return box

    def _checked(self, item: qt.QTableWidgetItem) -> None:
        if self._filling or item.column() == LAMBDA_COLUMN:
            return
        key = self._regions[item.row()].key
        if item.column() == RIGID_COLUMN:
            self._rigid = self._rigid | {key} if item.checkState() == qt.Qt.Checked else self._rigid - {key}
            self._tell()
            return
        box = self.ui.regionsTable.cellWidget(item.row(), LAMBDA_COLUMN)
        box.setEnabled(item.checkState() == qt.Qt.Checked)
        if item.checkState() == qt.Qt.Checked:
            self._set(key, box.value)
        elif key in self._lambdas:
            self._last[key] = self._lambdas.pop(key)
            self._tell()

    def _set(self, key: str, value: float) -> None:
        self._lambdas[key] = round(value, 4)
        self._tell()

    def _clear(self) -> None:
        self._last |= self._lambdas
        self._lambdas, self._rigid = {}, set()
        self._fill()
        self._tell()

    def _chosen(self, node: Any) -> None:
        if node is self._node:
            return
        self._lambdas, self._last, self._rigid = {}, {}, set()
        if node is not None:
            self._on_error("")  # what was said of the one before
        self._take(node)
        self._fill()
        self._tell()

    def _tell(self) -> None:
        self.ui.clearRegionsButton.enabled = bool(self._lambdas or self._rigid)
        self._on_change(self._node if self._regions else None, dict(self._lambdas), set(self._rigid))

    def _edited(self, _caller: Any, _event: Any) -> None:
        self._rest.start()

    def _look_again(self) -> None:
        if self._node is None or slicer.mrmlScene.IsClosing() or regions.stamp(self._node) == self._stamp:
            return
        self._take(self._node)
        keys = {region.key for region in self._regions}
        self._lambdas = {key: lam for key, lam in self._lambdas.items() if key in keys}
        self._rigid &= keys
        self._fill()
        self._tell()


def swatch(colour: tuple[float, float, float]) -> qt.QIcon:
    """A square of the colour (red, green, blue, 0 to 1), for a row of a table."""
    pixmap = qt.QPixmap(SWATCH_PIXELS, SWATCH_PIXELS)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in colour)))
    return qt.QIcon(pixmap)
