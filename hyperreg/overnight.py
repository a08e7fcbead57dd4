"""A training over night: a process of its own, which outlives the window that started it and is found again.

What both sides share lies in one folder: the state (how far it is, what came of it), the log, and a lock that the
training holds as long as it lives, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.output import alone_in, make_folder, replacing
from hyperreg.reporting import Progress

# In the user's own folder, see `user_folder`.
FOLDER = "learning"
STATE, LOG = "state.json", "log.txt"
MOST_HOURS = 1000
# The state is written so often at most.
EVERY_S = 1.0
CANCELLED = "Cancelled. What was learned is kept: started again for the same images, it goes on from there."
INTERRUPTED = "It was interrupted. Started again for the same images, it goes on from where it was."


@dataclass(frozen=True)
class State:
    """How far a training is, or what came of it. images: the folder; pid: of its process, 0 before it works; fraction:
    0 to 1; text: in words for the user; ended: whether it has said its last word."""

    images: str = ""
    pid: int = 0
    fraction: float = 0.0
    text: str = ""
    ended: bool = False


@contextmanager
def telling(folder: Path, images: Path) -> Iterator[Progress]:
    """The training's side: a function (fraction, text), the last text of which is what came of it.

    Raises InputError if another training works in the folder, FileError if it cannot be written.
    """
    with alone_in(folder):
        state, written = State(str(images), os.getpid()), 0.0

        def tell(fraction: float, text: str) -> None:
            nonlocal state, written
            state = replace(state, fraction=fraction, text=text)
            if time.monotonic() > written + EVERY_S:
                _write(folder, state)
                written = time.monotonic()

        tell(0.0, "Starting")
        try:
            yield tell
        except Exception as error:
            text = str(error) if isinstance(error, HyperRegError) else f"It failed: {error!r}"
            _write(folder, replace(state, text=text, ended=True))
            raise
        except KeyboardInterrupt:
            _write(folder, replace(state, text=CANCELLED, ended=True))
            raise
        _write(folder, replace(state, fraction=1.0, ended=True))


class Overnight:
    """The window's side: starts one training at a time, and finds the one that another window has started.

    folder: see above. python: executable (None: this one; in Slicer, PythonSlicer). arguments: what it runs.
    """

    def __init__(
        self, folder: Path, python: str | None = None, arguments: tuple[str, ...] = ("-m", "hyperreg.cli")
    ) -> None:
        self._folder, self._command = folder, [python or sys.executable, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether a training works, whoever has started it."""
        if self._process is not None and self._process.poll() is None:
            return True
        if not self._folder.is_dir():
            return False
        try:
            with alone_in(self._folder):
                return False
        except InputError:
            return True
        except (HyperRegError, ImportError):  # nothing that could hold the lock is installed
            return False

    def start(self, images: Path, model: str, hours: float) -> None:
        """Goes on with a model's training on the images of a folder, from where an earlier run on them had come.

        What is wrong with images or model the training says itself, by its state. Raises InputError if one works
        already, for no folder, and for impossible hours; FileError if it cannot be started.
        """
        if self.running:
            raise InputError("A training is running already; wait for it, or cancel it.")
        if not images.is_dir():
            raise InputError(f"'{images}' is no folder of the computer that HyperReg runs on.")
        if not 0 < hours <= MOST_HOURS:
            raise InputError(f"Say for how many hours it may learn at most: a number up to {MOST_HOURS}.")
        make_folder(self._folder)
        _write(self._folder, State(str(images), text="Starting"))
        package = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        options = ["--images", str(images.absolute()), "--model", model, "--minutes", str(60 * hours)]
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        try:
            with (self._folder / LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [*self._command, "train", "registration", *options, "--state", str(self._folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths},
                    start_new_session=True, creationflags=flags,
                )  # fmt: skip
        except OSError as error:
            raise FileError(f"The training could not be started: {error.strerror or error}.") from error

    def cancel(self) -> None:
        """Ends it; what was learned is kept. Harmless if none works."""
        if self.running and (pid := self.look().pid or (self._process.pid if self._process is not None else 0)):
            os.kill(pid, signal.SIGTERM)

    def look(self) -> State:
        """How far the last training is, or what came of it; its text is "" if there was none."""
        try:
            state = State(**json.loads((self._folder / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return State()
        if state.ended or self.running:
            return state
        return replace(state, text=INTERRUPTED if state.pid else self._last_words(), ended=True)

    def _last_words(self) -> str:
        """Of a training that has ended before it could tell anything."""
        try:
            lines = (self._folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "It could not be started.")


def _write(folder: Path, state: State) -> None:
    with replacing(folder / STATE) as target:
        target.write_text(json.dumps(asdict(state)), encoding="utf-8")
