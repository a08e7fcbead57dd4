"""Dialogs never block: they are recorded and answered from the queue of the test (``records.answer``)."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets

from .convert import EnumInt
from .record import RECORDS, DialogRecord, record_exception

_STATIC: dict[tuple[str, str], Any] = {
    **{
        ("QMessageBox", n): QtWidgets.QMessageBox.StandardButton.Ok
        for n in ("information", "warning", "critical", "about")
    },
    ("QMessageBox", "question"): QtWidgets.QMessageBox.StandardButton.Yes,
    ("QFileDialog", "getOpenFileName"): "",
    ("QFileDialog", "getSaveFileName"): "",
    ("QFileDialog", "getExistingDirectory"): "",
    ("QFileDialog", "getOpenFileNames"): (),
    ("QInputDialog", "getText"): "",
    ("QInputDialog", "getItem"): "",
    ("QInputDialog", "getInt"): 0,
    ("QInputDialog", "getDouble"): 0.0,
    ("QColorDialog", "getColor"): None,
}


def is_static_dialog(owner: str, name: str) -> bool:
    """Whether ``owner.name`` is a static function that opens a modal dialog."""
    return (owner, name) in _STATIC or (owner == "ctkMessageBox" and ("QMessageBox", name) in _STATIC)


def static_dialog(owner: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """Record a static dialog function such as QMessageBox.question and return its answer."""
    default = _STATIC[("QMessageBox" if owner == "ctkMessageBox" else owner, name)]
    texts = [argument for argument in arguments if isinstance(argument, str)]
    answer = RECORDS.next_answer(EnumInt(default) if hasattr(default, "value") else default)
    RECORDS.dialogs.append(
        DialogRecord(f"{owner}.{name}", texts[1] if len(texts) > 1 else "", texts[0] if texts else "", answer)
    )
    return answer


def is_dialog_method(raw: Any, name: str) -> bool:
    """Whether calling ``name`` on a Qt object would wait for the user."""
    return name in ("exec", "exec_") and isinstance(raw, (QtWidgets.QDialog, QtWidgets.QMenu))


def run_dialog(wrapper: Any, raw: Any) -> Any:
    """Show a dialog or menu without waiting, let the test's handler work on it, return the answer."""
    if isinstance(raw, QtWidgets.QMenu):
        RECORDS.dialogs.append(DialogRecord("QMenu", ", ".join(a.text() for a in raw.actions())))
        return RECORDS.next_answer(None)
    is_box = isinstance(raw, QtWidgets.QMessageBox)
    labels = [label.text() for label in raw.findChildren(QtWidgets.QLabel)]
    text = raw.text() if is_box else "\n".join(label for label in labels if label)
    record = DialogRecord(wrapper.className(), text, raw.windowTitle())
    RECORDS.dialogs.append(record)
    finished: list[int] = []
    raw.finished.connect(finished.append)
    raw.show()
    if RECORDS.dialog_handler is not None:
        try:
            RECORDS.dialog_handler(wrapper)
        except Exception as error:  # noqa: BLE001 - the test looks at the recorded exceptions
            record_exception(error)
    QtWidgets.QApplication.processEvents()
    if finished:
        record.answer = finished[-1]
    elif is_box:
        record.answer = RECORDS.next_answer(_default_button(raw))
        button = raw.button(QtWidgets.QMessageBox.StandardButton(int(record.answer)))
        if button is not None:
            button.click()
    else:
        record.answer = RECORDS.next_answer(0)
        raw.done(int(record.answer))
    raw.hide()
    return record.answer


def _default_button(box: QtWidgets.QMessageBox) -> EnumInt:
    """Return the button that agrees: Ok, Yes, Retry, or whatever there is."""
    kinds = QtWidgets.QMessageBox.StandardButton
    for kind in (kinds.Ok, kinds.Yes, kinds.Retry, kinds.Save, kinds.Close, kinds.Cancel, kinds.No):
        if box.button(kind) is not None:
            return EnumInt(kind)
    return EnumInt(kinds.Ok)
