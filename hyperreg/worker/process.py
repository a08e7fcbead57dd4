"""The worker's process as the application sees it: started, watched, ended with all its children, its output kept."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperreg.errors import WorkerError
from hyperreg.worker.protocol import GREETING_VARIABLE

# The log is for a bug report: what happened last is enough.
LOG_BYTES = 64 << 10
_LOG_LIMIT_BYTES = 1 << 20
# How long a process that was told to end, or lost its connection, may take before it is ended.
_GRACE_S = 1.0
# Exit code of a worker that has no room for its libraries.
EXIT_NO_MEMORY = 71
# How long what is left of the worker's group may take to tidy up.
_TIDY_S = 0.5


class WorkerProcess:
    """A running worker.

    python: the executable; arguments: what it runs; environment: additions to this process's one.
    folders: private folders of the application (see `memory.Workspace`), the last one on disk.
    Raises WorkerError if it cannot be started.
    """

    def __init__(
        self,
        python: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        port: int,
        key: str,
        folders: Sequence[Path],
    ) -> None:
        self._log_path = folders[-1] / "worker.log"
        self._earlier_log = b""
        package_parent = str(Path(__file__).resolve().parents[2])
        variables = {**os.environ, **environment}
        paths = [package_parent, variables.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        # The key goes through the environment: a command line is visible to everybody on the machine, and a launcher
        # like PythonSlicer need not pass standard input on.
        greeting = {"port": port, "key": key, "folders": [str(folder) for folder in folders]}
        variables[GREETING_VARIABLE] = json.dumps(greeting)
        # A session of its own, so that no Ctrl-C meant for the application reaches it and the group can be ended whole.
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        try:
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [python, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=variables,
                    cwd=folders[-1],  # -m looks for modules in the current folder first: an empty, private one
                    start_new_session=True,  # ignored on Windows
                    creationflags=flags,
                )
        except (OSError, ValueError) as error:
            raise WorkerError(
                f"The HyperReg engine could not be started with '{python}': {error}. "
                "Check the installation (hyperreg doctor)."
            ) from error

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, seconds: float = _GRACE_S) -> bool:
        """Whether it has ended by itself within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self, tidy_s: float = _TIDY_S) -> None:
        """Ends it and all its children now. tidy_s: how long what is left of its group may take to tidy up."""
        if sys.platform == "win32":
            if self._process.poll() is None:
                subprocess.run(
                    ["taskkill", "/F", "/T", "/PID", str(self._process.pid)],
                    capture_output=True,
                    creationflags=subprocess.CREATE_NO_WINDOW,
                )
                self._process.kill()
        else:
            # Also when the worker itself has ended: its children share its group. First in a way that Python's resource
            # tracker survives: it removes the semaphores of parallel registrations once all others are gone.
            self._signal_group(signal.SIGTERM)
            deadline = time.monotonic() + tidy_s
            while self._signal_group(0) and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(0.01)
            self._signal_group(signal.SIGKILL)
        self.wait(5.0)

    def _signal_group(self, number: int) -> bool:
        """Whether there was somebody to get the signal."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def explain_exit(self) -> str:
        """Why it ended, in words for the user."""
        code = self.exit_code
        if code in (-9, 137, EXIT_NO_MEMORY):
            how = "could not start" if code == EXIT_NO_MEMORY else "was ended by the system"
            return (
                f"The HyperReg engine {how}, most likely because memory ran out. "
                "Close other programs, or crop or downsample the images. The next request starts it again."
            )
        if code is None or code == 0:
            return "The HyperReg engine stopped answering. The next request starts it again."
        return (
            f"The HyperReg engine ended unexpectedly (exit code {code}). The next request starts it again; "
            "if this repeats, its log tells more."
        )

    def log(self) -> str:
        """The last of what it printed, at most LOG_BYTES."""
        try:
            current = self._tail()
        except OSError:
            current = b""
        return (self._earlier_log + current)[-LOG_BYTES:].decode(errors="replace")

    def bound_log(self) -> None:
        """Keeps the log file small; to be called now and then."""
        with contextlib.suppress(OSError):
            if self._log_path.stat().st_size > _LOG_LIMIT_BYTES:
                self._earlier_log = self._tail()
                os.truncate(self._log_path, 0)  # the worker appends, so that it goes on at the new end

    def _tail(self) -> bytes:
        with self._log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            return log.read()
