"""A client with the stand-in for the worker, a live registration that writes down what it says, and ways to wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_in_worker import true_field

from hyperreg.imaging.volume import Grid, Volume
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live.registration import LiveRegistration
from hyperreg.worker.live.state import LiveState, Shown

STAND_IN = Path(__file__).with_name("stand_in_worker.py")
LONG_S = 60
QUICK, FULL = 1, 2
# Oblique, anisotropic and flipped.
AFFINE = np.array(
    [[-1.2 * 0.8, 0.6 * 0.9, 0, 30], [1.2 * 0.6, 0.8 * 0.9, 0, -40], [0, 0, -2.5, 55], [0, 0, 0, 1]], dtype=float
)


def volume(seed: int = 0, shape: tuple[int, int, int] = (24, 20, 16), name: str = "head") -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=shape).astype(np.float32), AFFINE, name)


class Observed(LiveRegistration):
    """A live registration that writes down what it tells. Full resolution comes only when it is asked for.

    fields: λ of every preview (False) and quick field (True) that was shown; drafts, full: λ of those stages.
    measured: λ and metrics whenever they were others; curves: λ of the response and suggestion, likewise.
    """

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.set_full_automatically(False)
        self.fields: list[tuple[float, bool]] = []
        self.drafts: list[float] = []
        self.full: list[float] = []
        self.last: Shown | None = None
        self.measured: list[tuple[float, Mapping[str, Any]]] = []
        self.errors: list[str] = []
        self.progress: list[tuple[float, str]] = []
        self.work: list[tuple[float, str]] = []
        self.curves: list[tuple[list[float], Any]] = []
        self.events: list[str] = []
        self._before = LiveState()
        self.on_state = self._state_told
        self.on_error = self._error

    @property
    def anchor_count(self) -> int:
        return 0 if self._pair is None else len(self._pair.store.anchors)

    @property
    def grid(self) -> Grid:
        return self._prepared().prepared.grid

    @property
    def linear(self) -> np.ndarray:
        return self._prepared().prepared.linear

    @property
    def solved_lam(self) -> float | None:
        """λ, if a field of the quick stage or better is shown that was computed for it."""
        state = self.state
        return state.lam if state.is_solved and state.shown is not None and state.shown.stage >= QUICK else None

    def _state_told(self, state: LiveState) -> None:
        before, self._before = self._before, state
        if state.pair is not before.pair and state.pair is not None:
            self.events.append("ready")
        if state.shown is not before.shown and state.shown is not None:
            self._field(state.shown)
        if "maps_sent" in state.metrics:  # those of the stand-in
            assert state.shown is not None and state.shown.solved
            assert state.metrics["stage"] == state.shown.stage, "of what is shown, and of nothing else"
            assert state.metrics["similarity"] == pytest.approx(1 - state.shown.lam)
        if state.metrics and state.metrics is not before.metrics:
            assert state.shown is not None
            self.measured.append((state.shown.lam, state.metrics))
            self.events.append("metrics")
        if state.pair is not before.pair or state.response != before.response:
            self.curves.append(([row["lambda"] for row in state.response.rows], state.suggestion))
        if state.progress is not None and state.progress != before.progress:
            self.progress.append(state.progress)
        if state.work is not None and state.work != before.work:
            self.work.append((state.work.fraction, state.work.text))

    def _field(self, shown: Shown) -> None:
        self.last = shown
        if shown.solved and shown.stage != QUICK:
            (self.full if shown.stage > QUICK else self.drafts).append(shown.lam)
            self.events.append("full" if shown.stage > QUICK else "draft")
        else:
            self.fields.append((shown.lam, shown.solved))
            self.events.append("solved" if shown.solved else "preview")

    def _error(self, message: str) -> None:
        self.errors.append(message)
        self.events.append("error")


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    client = WorkerClient(arguments=[str(STAND_IN)])
    yield client
    client.stop()


@pytest.fixture
def live(client: WorkerClient) -> Observed:
    return Observed(client)


def wait_until(client: WorkerClient, condition: Callable[[], bool], say: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        client.poll()
        assert time.monotonic() < deadline, f"nothing happened; {say()}; the worker's log: {client.log}"
        time.sleep(0.002)


def kill_worker(client: WorkerClient) -> None:
    """Kill the worker, as the system does when memory runs out, and wait until its client knows."""
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(client, lambda: not client.alive)
    client.poll()


def folders(client: WorkerClient) -> list[Path]:
    assert client._link is not None
    return list(client._link.workspace.folders)


def segments(client: WorkerClient) -> list[str]:
    """Names of shared memory that still exist (the lock and the log of each client stay)."""
    return [path.name for folder in folders(client) for path in folder.iterdir() if len(path.name) == 32]


def is_running(pid: int) -> bool:
    """Killed and not waited for by anybody is not running."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def semaphores_of(pid: int) -> list[Path]:
    """Those that the process has mapped: by inode, since the C library makes them under another name."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="ascii").splitlines()
    inodes = {int(line.split()[4]) for line in maps if "/sem." in line}
    found = []
    for path in Path("/dev/shm").glob("sem.mp-*"):  # noqa: S108  where Linux has them
        with suppress(FileNotFoundError):  # other programs have some, too
            if path.stat().st_ino in inodes:
                found.append(path)
    return found


def prepare(client: WorkerClient, live: Observed, model: str = "plain", **options: Any) -> None:
    live.prepare(volume(0), volume(1), model=model, **options)
    wait_until(client, lambda: live.state.ready or bool(live.errors))
    assert live.errors == []


def fill(client: WorkerClient, live: Observed) -> None:
    """Until nothing is left to do."""
    wait_until(client, lambda: not live.state.busy, lambda: live.events)


def assert_fields(live: Observed, lam: float, atol: float = 0.0) -> None:
    assert live.last is not None
    expected = true_field(live.grid, lam)
    np.testing.assert_allclose(live.last.forward.array, expected, atol=atol)
    assert live.last.inverse is not None
    np.testing.assert_allclose(live.last.inverse.array, -expected, atol=atol)
    assert live.last.forward.grid.matches(live.grid)
