"""What the commands share: exit codes, errors in one line, progress, warnings."""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hyperreg import scratch
from hyperreg.errors import Cancelled, FileError, HyperRegError, InputError, OutOfMemory, WeightsError, WorkerError
from hyperreg.machine import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")

DEBUG_VARIABLE = "HYPERREG_DEBUG"
# Without a terminal, progress is told in lines, one per such a share of the whole.
LINE_SHARE = 0.05
# How long a computation may go on after the second Ctrl+C before the process ends without waiting for it.
LAST_SECONDS = 3.0

# Results go to stdout; progress, warnings and errors to stderr, so that output can be piped.
output = Console(soft_wrap=True, highlight=False)
messages = Console(stderr=True, soft_wrap=True, highlight=False)


class ExitCode(IntEnum):
    """How `hyperreg` ends. The help text lists them (`EXIT_CODES`)."""

    SUCCESS = 0
    OTHER = 1
    INPUT = 2
    FILE = 3
    WEIGHTS = 4
    MEMORY = 5
    WORKER = 6
    INSTALLATION = 7
    CANCELLED = 130


EXIT_CODES = (
    "Exit codes: 0 success; 1 another error; 2 wrong usage or unusable input; 3 a file cannot be read or written; "
    "4 model missing or damaged; 5 out of memory; 6 the worker process failed; 7 the installation is incomplete; "
    "130 cancelled. After any code but 0, no output file was written or changed."
)

_CODES: tuple[tuple[type[HyperRegError], ExitCode], ...] = (
    (InputError, ExitCode.INPUT),
    (FileError, ExitCode.FILE),
    (WeightsError, ExitCode.WEIGHTS),
    (OutOfMemory, ExitCode.MEMORY),
    (WorkerError, ExitCode.WORKER),
    (Cancelled, ExitCode.CANCELLED),
)


def debugging() -> bool:
    """Whether tracebacks are wanted (`--debug`)."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def exit_code(error: BaseException) -> ExitCode:
    """The exit code for an error that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.CANCELLED
    if is_out_of_memory(error):
        return ExitCode.MEMORY
    if isinstance(error, ModuleNotFoundError):
        return ExitCode.INSTALLATION
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if _is_of_a_file(error):
        return ExitCode.FILE
    return ExitCode.OTHER


def explanation(error: BaseException) -> str:
    """One line for the user."""
    if isinstance(error, HyperRegError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Cancelled; nothing was written."
    if is_out_of_memory(error):
        return "Not enough memory. Close other programs, or crop the images."
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The Python package '{error.name}' is missing. `hyperreg doctor` lists what is installed; "
            "`pip install 'hyperreg[view]'` installs everything that the commands need."
        )
    if isinstance(error, OSError) and _is_of_a_file(error):
        place = "What is printed" if error.filename is None else f"'{os.fspath(error.filename)}'"
        return f"{place} cannot be read or written: {error.strerror}."
    text = str(error).strip().splitlines()
    return (
        f"Unexpected error ({type(error).__name__}{': ' + text[-1] if text else ''}). This is a fault of HyperReg: "
        "run the command again with --debug and report what it prints."
    )


def _is_of_a_file(error: BaseException) -> bool:
    """Whether the system refused a file (a name too long, no permission) or had no room: no fault of HyperReg."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Ends a command that failed with one line on stderr and its exit code, instead of a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _ended_in_order():
                return command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if debugging():
                messages.print_exception(show_locals=False)
            messages.print(f"hyperreg: {explanation(error)}", style="red", markup=False)
            raise typer.Exit(exit_code(error)) from error

    return run


def warn(warnings: list[str], alarm: str = "") -> None:
    """Print warnings to stderr, one per line; in red the ones that begin with `alarm`, if it is given."""
    for text in warnings:
        if alarm and text.startswith(alarm):
            messages.print(text, style="bold red", markup=False)
        else:
            messages.print(f"Warning: {text}", style="yellow", markup=False)


def print_rows(rows: list[dict[str, Any]], quiet: bool) -> None:
    """Say what became of many images, and exit with OTHER if some failed. rows: see `execution.many`."""
    failed = [row for row in rows if row["state"] == "failed"]
    for row in failed:
        messages.print(f"hyperreg: {row['target']}: {row['error']}", style="red", markup=False)
    if not quiet:
        output.print(f"{len(rows) - len(failed)} of {len(rows)} targets done; figures in quality.csv.", markup=False)
    if failed:
        raise typer.Exit(ExitCode.OTHER)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[float, str], None]]:
    """A function (fraction, text) that shows progress: a bar on a terminal, else a line per stage; nothing if quiet."""
    if quiet:
        yield lambda _fraction, _text: None
    elif messages.is_terminal:
        columns = (
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=messages, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda fraction, text: bar.update(task, completed=fraction, description=text)
    else:
        shown, last = "", -1.0

        def line(fraction: float, text: str) -> None:
            nonlocal shown, last
            if text != shown and (fraction >= last + LINE_SHARE or fraction >= 1):
                shown, last = text, fraction
                messages.print(f"{fraction:4.0%} {text}", markup=False)

        yield line


def _terminations() -> list[signal.Signals]:
    """The signals that ask a process to end, but for those that it is to ignore (as `nohup` has it)."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs, the signals that ask to end go to the handler (in the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _terminations()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Whoever asks the process to end, and however, it ends as after Ctrl+C: with nothing left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Whoever asks the process to end while the block runs is heard when it is done: then KeyboardInterrupt is raised.

    For imports of libraries in C++, which swallow what a signal raises in them: it would be lost.
    """
    asked: list[int] = []
    with _handled(lambda number, _frame: asked.append(number)):
        yield
    if asked:
        raise KeyboardInterrupt


@contextmanager
def cancel_on_interrupt() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl+C was pressed or the process was asked to end; a second Ctrl+C ends at once.

    The computation looks at it between its steps, so that it stops where nothing is half done. A library that does not
    come back to Python after the second Ctrl+C gets some seconds.
    """
    asked = 0
    wanted = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        wanted.set()
        if asked == 2:
            raise KeyboardInterrupt

    with _handled(ask), _watched_signals():
        yield wanted.is_set


@contextmanager
def _watched_signals() -> Iterator[None]:
    """Answers Ctrl+C while a library computes, when Python's own handlers have to wait."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    watched = {int(number) for number in _terminations()}
    ours, system = socket.socketpair()
    system.setblocking(False)
    over = threading.Event()

    def watch() -> None:
        count = 0
        while data := ours.recv(64):
            for number in data:
                count += number in watched
                if count == 1 and number in watched:
                    messages.print("Cancelling... (press Ctrl+C again to stop at once)")
                elif count == 2 and number in watched:
                    threading.Thread(target=end, daemon=True).start()

    def end() -> None:
        if not over.wait(LAST_SECONDS):
            scratch.remove_all()
            for child in multiprocessing.active_children():
                child.kill()
            messages.print("hyperreg: Cancelled; nothing was written.", style="red", markup=False)
            os._exit(ExitCode.CANCELLED)

    before = signal.set_wakeup_fd(system.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        system.close()
        watcher.join()
        ours.close()
