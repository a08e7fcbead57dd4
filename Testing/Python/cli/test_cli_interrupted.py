"""Commands that are interrupted: they end, soon, in a sentence, with nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_pair import run

from hyperreg.cli.console import ExitCode, exit_code, held_back, progress_bar
from hyperreg.machine import is_out_of_memory

SCRIPT = """
import hashlib, sys, time
from pathlib import Path
from hyperreg.cli.console import cancel_on_interrupt, guarded
from hyperreg.errors import Cancelled
from hyperreg.imaging.output import StagedOutputs

def compute(how, cancelled):
    print("running", flush=True)
    if how == "library":
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1 << 30)  # minutes, without coming back to Python
    while True:
        time.sleep(0.05)
        if how == "listens" and cancelled():
            raise Cancelled("Cancelled; nothing was written.")

@guarded
def command(how, place):
    with StagedOutputs({"a": Path(place) / "a.txt"}):
        if how == "other":
            compute(how, None)
        with cancel_on_interrupt() as cancelled:
            compute(how, cancelled)

import typer
try:
    command(*sys.argv[1:])
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("how", "signals"),
    [
        ("listens", [signal.SIGINT]),
        ("listens", [signal.SIGTERM]),
        ("listens", [signal.SIGHUP]),
        ("deaf", [signal.SIGINT, signal.SIGINT]),
        ("library", [signal.SIGINT, signal.SIGINT]),
        ("library", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]),
        ("other", [signal.SIGTERM]),
        ("other", [signal.SIGHUP]),
    ],
)
def test_a_command_that_is_asked_to_end_leaves_nothing(tmp_path: Path, how: str, signals: list[signal.Signals]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    assert [path.name[:10] for path in tmp_path.iterdir()] == [".hyperreg-"]
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    try:
        _output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == ExitCode.CANCELLED
    assert "nothing was written" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_what_is_to_survive_the_terminal_does(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SCRIPT
    process = subprocess.Popen(
        [sys.executable, "-c", code, "listens", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.CANCELLED


def test_an_interrupt_while_a_command_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperreg.cli.app.app", interrupted)
    assert run("models") == ExitCode.CANCELLED


def test_progress_without_a_terminal_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        for step in range(1000):
            progress(step / 1000, f"atlas {step % 7}: step {step}")
        progress(1.0, "Done")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 22
    assert lines[0] == "  0% atlas 0: step 0"
    assert lines[-1] == "100% Done"


@pytest.mark.parametrize(
    "error",
    [
        OSError(12, "Cannot allocate memory"),
        OSError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libblas.so.3: failed to map segment from shared object"),
        ImportError("/x/libtorch.so: cannot allocate memory in static"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
def test_whatever_says_that_memory_lacks_is_told_as_such(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert exit_code(error) == ExitCode.MEMORY
    wrapped = ImportError("numpy could not be loaded")
    wrapped.__cause__ = ImportError(str(error)) if isinstance(error, ImportError) else error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
        ModuleNotFoundError("No module named 'x'", name="x"),
        RuntimeError("shape mismatch"),
    ],
)
def test_and_nothing_else(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_who_asks_to_end_while_libraries_are_loaded_is_heard_afterwards() -> None:
    """Libraries in C++ swallow what is raised while they are imported: the app would have gone on as if nothing was."""
    loaded = []
    with pytest.raises(KeyboardInterrupt), held_back():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        loaded.append("slicer")
    assert loaded == ["slicer"]
    with held_back():
        loaded.append("trame")
    assert loaded == ["slicer", "trame"]
