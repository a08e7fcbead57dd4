"""Signals, slots, Python subclasses, threads and processes in the test host, as in PythonQt."""

from __future__ import annotations

import functools
import gc
import sys
import threading

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")


# --- signals ------------------------------------------------------------------------------------------------------


def test_connect_by_string_and_by_attribute(qt):
    button, calls = qt.QPushButton(), []
    assert button.connect("clicked(bool)", lambda checked: calls.append(("string", checked)))
    assert button.clicked.connect(lambda checked: calls.append(("attribute", checked)))
    assert button.connect("clicked()", lambda: calls.append(("none",)))
    button.click()
    assert calls == [("string", False), ("attribute", False), ("none",)]


def test_disconnect(qt):
    button, calls = qt.QPushButton(), []

    def slot():
        calls.append(1)

    button.connect("clicked()", slot)
    button.clicked.connect(slot)
    assert button.disconnect("clicked()", slot)
    button.click()
    assert button.clicked.disconnect(slot)
    button.click()
    assert len(calls) == 1


def test_wrong_signature_returns_false_and_prints(qt, host, capsys):
    assert qt.QPushButton().connect("clicked(int)", print) is False
    assert "No such signal QPushButton::clicked(int)" in capsys.readouterr().err
    assert len(host.records.warnings) == 1


def test_no_overload_indexing_pick_by_string(qt):
    combo, texts, numbers = qt.QComboBox(), [], []
    combo.addItems(["a", "b"])
    with pytest.raises(TypeError):
        combo.currentIndexChanged["QString"]
    assert combo.connect("currentIndexChanged(QString)", texts.append)
    assert combo.connect("currentIndexChanged(int)", numbers.append)
    combo.currentIndex = 1
    assert texts == ["b"] and numbers == [1]


def test_surplus_arguments_are_trimmed_for_functions_and_methods_only(qt, host):
    button, calls = qt.QPushButton(), []

    class Receiver:
        def slot(self):
            calls.append("method")

    receiver = Receiver()
    button.clicked.connect(receiver.slot)
    button.clicked.connect(lambda: calls.append("function"))
    button.clicked.connect(lambda *arguments: calls.append(arguments))
    button.clicked.connect(functools.partial(lambda *arguments: calls.append(arguments), "partial"))
    button.click()
    assert calls == ["method", "function", (False,), ("partial", False)]
    button.clicked.disconnect()
    button.clicked.connect(functools.partial(lambda name: None, "too many"))
    button.click()
    assert len(host.exceptions) == 1 and isinstance(host.exceptions[0], TypeError)
    host.exceptions.clear()


def test_lambda_default_is_overwritten_by_the_bool(qt):
    button, got = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda item="wanted": got.append(item))
    button.connect("clicked()", lambda item="wanted": got.append(item))
    button.click()
    assert got == [False, "wanted"]


def test_exception_in_a_slot_is_printed_and_never_raised(qt, host, capsys):
    button, after = qt.QPushButton(), []
    button.clicked.connect(lambda: 1 / 0)
    button.clicked.connect(lambda: after.append(1))
    button.click()
    assert after == [1]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [type(error) for error in host.exceptions] == [ZeroDivisionError]
    qt.QTimer.singleShot(0, lambda: {}["missing"])
    host.wait_until(lambda: len(host.exceptions) == 2)
    host.exceptions.clear()


def test_qt_signal_on_a_python_subclass(qt):
    class Sender(qt.QObject):
        happened = qt.Signal(str, object)

        def __init__(self):
            super().__init__()
            self.own = "attributes are allowed on Python subclasses"

    sender, got = Sender(), []
    sender.happened.connect(lambda text, thing: got.append((text, thing)))
    marker = object()
    sender.happened.emit("a", marker)
    sender.happened("b", None)
    assert got == [("a", marker), ("b", None)]


def test_python_subclass_overrides_virtuals(qt, host):
    class Panel(qt.QWidget):
        def __init__(self, parent=None):
            qt.QWidget.__init__(self, parent)
            self.seen = []

        def eventFilter(self, watched, event):
            self.seen.append((watched.className(), event.type() == qt.QEvent.MouseButtonPress))
            return False

        def resizeEvent(self, event):
            raise RuntimeError(f"{event.size().width()} wide")

    panel, button = Panel(), qt.QPushButton()
    button.installEventFilter(panel)
    button.enabled = False
    assert panel.seen[0] == ("QPushButton", False)
    panel.resize(120, 40)
    panel.show()
    host.process_events()
    assert "120 wide" in str(host.exceptions[0])
    host.exceptions.clear()
    assert isinstance(panel, qt.QWidget) and isinstance(panel, Panel)


def test_python_subclass_lives_as_long_as_its_parent(qt):
    class Row(qt.QWidget):
        def __init__(self, parent):
            super().__init__(parent)
            self.mark = 7

    parent = qt.QWidget()
    Row(parent)
    gc.collect()
    assert parent.children()[0].mark == 7


def test_exception_in_an_observer_is_recorded(host, scene):
    node = scene.AddNewNodeByClass("vtkMRMLModelNode")
    node.AddObserver("ModifiedEvent", lambda *_: 1 / 0)
    node.Modified()
    assert [type(error) for error in host.exceptions] == [ZeroDivisionError]
    host.exceptions.clear()


def test_gui_belongs_to_the_main_thread(host, qt):
    label, caught, fired = qt.QLabel("a"), [], []

    def work():
        qt.QTimer.singleShot(0, lambda: fired.append(1))
        try:
            label.text = "b"
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    host.process_events(0.05)
    assert len(caught) == 1 and label.text == "a" and not fired


# --- processes ----------------------------------------------------------------------------------------------------


def test_timer_polls_a_child_process(host, qt):
    process, timer, seen = qt.QProcess(), qt.QTimer(), []
    process.start(sys.executable, ["-c", "print('from the child')"])

    def poll():
        if process.state() == qt.QProcess.NotRunning:
            timer.stop()
            seen.append(str(process.readAllStandardOutput().data(), "utf-8").strip())

    timer.setInterval(10)
    timer.connect("timeout()", poll)
    timer.start()
    host.wait_until(lambda: seen)
    assert seen == ["from the child"]
