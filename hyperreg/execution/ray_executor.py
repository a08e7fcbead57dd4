"""Tasks by the machines of a Ray cluster, or by one that is started here for the while.

Ray retries a task whose worker or machine was lost. Nothing large travels: tasks name files, results are numbers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import hyperreg
from hyperreg.errors import Cancelled, HyperRegError, InputError, OutOfMemory, WorkerError
from hyperreg.execution.processes import LOOK, R, T, TaskProgress, Work, attempt, fitting_jobs
from hyperreg.reporting import Cancel

if TYPE_CHECKING:
    from hyperreg.execution.executors import Place

# A cluster that has not answered after so many seconds is called dead. Ray itself waits two minutes and then ends the
# whole process, so that a child asks first.
PATIENCE, PATIENCE_TO_REACH = 60.0, 10.0
# How often Ray does a task again whose worker or machine was lost.
RETRIES = 5
# Tasks that are handed to Ray, for each that can run: enough that no machine waits for the next one.
AHEAD = 2
# Where Ray keeps the token that machines of a cluster show each other; with one there, `ray start` asks for it.
TOKEN = Path(".ray") / "auth_token"

_ASK = """
import json, sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
    print("connected")
except BaseException as error:
    print(str(error).strip() or type(error).__name__)
"""


class RayExecutor:
    """Does tasks by Ray, between `with` and its end.

    Raises InputError if Ray is not installed, its version or Python's differ from the cluster's, or no machine is large
    enough for a task; WorkerError if the cluster does not answer.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> RayExecutor:  # noqa: PYI034 (typing.Self needs Python 3.11)
        if find_spec("ray") is None:
            raise InputError("Ray is not installed: `pip install 'hyperreg[ray]'`, on every machine of the cluster.")
        # Ray would send statistics home, and take the handling of SIGTERM over.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self._place.address
        if address is not None:
            _ask(address)
        import ray

        handler = signal.getsignal(signal.SIGTERM)
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address is None:
                jobs = self._place.jobs or fitting_jobs("cpu")
                cpus = max(1, round(jobs * self._place.cpus))
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
            else:
                ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WorkerError(f"Ray could not be started: {_last_line(error)}") from error
        finally:
            with suppress(ValueError):  # not in the main thread: Ray did not take it either
                signal.signal(signal.SIGTERM, handler)
        self._check_size()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    @property
    def _needs(self) -> dict[str, float]:
        return {"CPU": self._place.cpus, "GPU": self._place.gpus_per_task, "memory": self._place.memory_gb * 1024**3}

    def _check_size(self) -> None:
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(has.get(name, 0) >= amount for name, amount in self._needs.items()) for has in machines):
            return
        self.__exit__(None, None, None)
        largest = {name: max((has.get(name, 0) for has in machines), default=0) for name in self._needs}
        raise InputError(
            f"No machine of the cluster is large enough for one task: it needs {self._place.cpus:g} CPUs, "
            f"{self._needs['GPU']:g} GPUs and {self._place.memory_gb:g} GB, and the most that a machine has is "
            f"{largest['CPU']:g}, {largest['GPU']:g} and {largest['memory'] / 1024**3:.1f} GB. Ask for less "
            "(--cpus-per-task, --gpus-per-task, --memory-per-task)."
        )

    def results(
        self, work: Work[T, R], tasks: Iterable[T], progress: TaskProgress, cancelled: Cancel | None = None
    ) -> Iterator[tuple[T, R | HyperRegError]]:
        import ray

        needs = {
            "num_cpus": self._place.cpus,
            "num_gpus": self._place.gpus_per_task,
            "memory": int(self._needs["memory"]),
        }
        there = ray.remote(**needs, max_retries=RETRIES)(_do_there)
        pending: dict[Any, T] = {}
        rest = iter(tasks)
        while True:
            at_once = self._at_once()
            while len(pending) < at_once and (task := next(rest, None)) is not None:
                pending[there.remote(hyperreg.__version__, self._place.cpus, work, task)] = task
            if not pending:
                return
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled.")
            ready, _ = ray.wait(list(pending), timeout=LOOK)
            for one in ready:
                result = _fetched(one)
                task = pending.pop(one)
                progress(task.name, 1.0, "Done")
                yield task, result
        # What runs when this is left early ends with the connection. It is not cancelled: Ray 2.60 ends the process
        # that cancels a task in the moment in which it is done.

    def _at_once(self) -> int:
        """How many tasks are handed to Ray: more where machines have joined."""
        import ray

        if self._place.jobs is not None:
            return self._place.jobs
        has = ray.cluster_resources()
        slots = min(has.get(name, 0) / amount for name, amount in self._needs.items() if amount > 0)
        return max(1, round(AHEAD * slots))


def _do_there(version: str, cpus: float, work: Work[T, R], task: T) -> R | HyperRegError:
    """One task, on a machine of the cluster. version, cpus: of the HyperReg that asks; what Ray keeps free."""
    if version != hyperreg.__version__:
        raise InputError(
            f"The machine '{socket.gethostname()}' has HyperReg {hyperreg.__version__}, the one that hands out the "
            f"work {version}. Install the same version on all."
        )
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    return attempt(work, task, lambda _fraction, _text: None)


def _fetched(reference: Any) -> Any:
    """A task's result, or the error that ended it. Raises what ends them all: WorkerError, InputError."""
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, HyperRegError):
            raise cause from error
        if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
            raise WorkerError(
                "The machines of the cluster cannot load HyperReg: install it, with its requirements, in the Python "
                f"that runs Ray on each of them. Ray says: {_last_line(error)}"
            ) from error
        raise
    except exceptions.OutOfMemoryError:
        return OutOfMemory("The machine that did this had too little memory, again and again. Ask Ray for more.")
    except exceptions.WorkerCrashedError:
        return OutOfMemory("The process that did this ended, again and again, for lack of memory usually.")
    except exceptions.RayError as error:
        return WorkerError(f"This was lost with its machine {RETRIES + 1} times, or by Ray: {_last_line(error)}")


def _ask(address: str) -> None:
    """Find out in a child, within PATIENCE, whether a cluster answers. Raises InputError or WorkerError."""
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not port.isdigit() or "/" in address:
            raise InputError(
                f"'{address}' is not the address of a Ray cluster: give HOST:PORT, as `ray start --head` prints it, on "
                "a machine that belongs to the cluster."
            )
        try:
            socket.create_connection((host, int(port)), PATIENCE_TO_REACH).close()
        except (OSError, OverflowError) as error:
            raise WorkerError(
                f"No Ray cluster answers at '{address}' ({error}). Start one with `ray start --head --port={port}` "
                "there, or leave --address out to use this machine alone."
            ) from error
    if "RAY_AUTH_MODE" not in os.environ and ("RAY_AUTH_TOKEN" in os.environ or (Path.home() / TOKEN).is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"
    try:
        child = subprocess.run([sys.executable, "-c", _ASK, address], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"What runs at '{address}' did not answer as Ray does within {PATIENCE:g} s.") from error
    text = child.stdout.strip()
    if text.endswith("connected"):
        return
    if "ersion mismatch" in text:
        ours = " ".join(text.split())
        raise InputError(f"The cluster at '{address}' runs other versions; install the same ones everywhere. {ours}")
    if "InvalidAuthToken" in child.stderr or "token" in text.lower():
        raise WorkerError(
            f"The cluster at '{address}' asks for another token: copy ~/{TOKEN} from its first machine to this one."
        )
    raise WorkerError(f"Ray could not connect to '{address}': {text.splitlines()[-1] if text else 'no reason given'}")


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
