"""What happened while a module ran: exceptions in slots, messages, dialogs. Tests assert on these lists."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DialogRecord:
    """One dialog, message box or slicer.util display that would have been shown to the user."""

    kind: str
    text: str
    title: str = ""
    answer: Any = None
    level: str = ""


@dataclass
class Records:
    """Everything a test may want to look at afterwards.

    ``exceptions`` holds the exceptions raised in slots, virtual methods and timers: PythonQt prints these and goes on,
    so a test that does not look here passes although the user sees a traceback in the Python console.
    """

    exceptions: list[BaseException] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dialogs: list[DialogRecord] = field(default_factory=list)
    pip: list[tuple[str, Any]] = field(default_factory=list)
    sample_data: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: deque[Any] = field(default_factory=deque)
    dialog_handler: Callable[[Any], Any] | None = None

    def clear(self) -> None:
        """Forget everything, including answers that nobody asked for."""
        for part in (self.exceptions, self.warnings, self.dialogs, self.pip, self.sample_data, self.answers):
            part.clear()
        self.dialog_handler = None

    def answer(self, *values: Any) -> None:
        """Queue answers for the next dialogs: a button, a text, a file name, True or False."""
        self.answers.extend(values)

    def next_answer(self, default: Any) -> Any:
        """Return the next queued answer, or ``default`` when none is queued."""
        return self.answers.popleft() if self.answers else default


RECORDS = Records()


def record_exception(error: BaseException) -> None:
    """Print the traceback, as PythonQt does, and keep the exception for the test."""
    RECORDS.exceptions.append(error)
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)


def record_unhandled(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """sys.excepthook: VTK reports exceptions in observers here; printed and kept, like those in slots."""
    RECORDS.exceptions.append(error)
    traceback.print_exception(kind, error, trace, file=sys.stderr)


def record_warning(text: str) -> None:
    """Print a warning that PythonQt or Qt would print, and keep it."""
    RECORDS.warnings.append(text)
    print(text, file=sys.stderr)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a callable that Qt calls: its exceptions are printed and recorded, never raised into Qt."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a slot raises must not reach Qt
            record_exception(error)
            return None

    return call
