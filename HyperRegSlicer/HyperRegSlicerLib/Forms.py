"""What the panels do with widgets of every kind: timers, changes without signals, choices, tables, rows. Qt only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import qt

# Tables show so many rows at once; what is more is scrolled.
ROWS_SHOWN, ROW_PIXELS = 8, 26


def rest_timer(milliseconds: int, slot: Callable[[], Any]) -> Any:
    """A timer that calls the slot once, so long after its last start."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.connect("timeout()", slot)
    return timer


@contextlib.contextmanager
def quiet(widget: Any) -> Iterator[None]:
    """What is changed in the widget meanwhile is told to nobody."""
    was = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(was)


def fill_combo(combo: Any, entries: Iterable[tuple[str, str]], chosen: str) -> None:
    """Offers other entries, title and value, and shows the one with the chosen value, if any; nobody is told."""
    with quiet(combo):
        combo.clear()
        for title, value in entries:
            combo.addItem(title, value)
        combo.setCurrentIndex(combo.findData(chosen))


def prepare_table(table: Any, titles: Sequence[str], stretched: int | None = 0) -> None:
    """A table that nobody types into, with columns of these titles, one of which takes what width is left."""
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(ROW_PIXELS)
    table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    # Wrapped, a long text would lose all but its first words in a row of one line.
    table.setWordWrap(False)
    if stretched is not None:
        table.horizontalHeader().setSectionResizeMode(stretched, qt.QHeaderView.Stretch)


def show_rows(table: Any, rows: int, header_pixels: int = ROW_PIXELS + 4) -> None:
    """Makes a table as high as its rows, and hides one without any."""
    table.visible = rows > 0
    table.minimumHeight = table.maximumHeight = min(rows, ROWS_SHOWN) * ROW_PIXELS + header_pixels


def checkable(text: str, checked: bool, hint: str) -> Any:
    """A cell that can be checked."""
    item = qt.QTableWidgetItem(text)
    item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
    item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    item.setToolTip(hint)
    return item


def emptied(panel: Any) -> Any:
    """The form layout of a widget, without the rows that it had."""
    layout = panel.layout()
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
    return layout


def named(slot: Callable[[str, Any], None], name: str) -> Callable[[Any], None]:
    """The slot with the row's name before what the signal says.

    Not a lambda with a default argument: PythonQt would put the signal's own into it.
    """

    def called(value: Any) -> None:
        slot(name, value)

    return called
