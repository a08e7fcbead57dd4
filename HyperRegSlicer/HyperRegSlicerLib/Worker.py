"""The module's connection to the worker process. Nothing is started before the first registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live import LiveRegistration
from HyperRegSlicerLib import Install


class Connection:
    """A worker client and the live registration on it."""

    def __init__(self) -> None:
        self._client = WorkerClient(python=Install.worker_python())
        self.registration = LiveRegistration(self._client)

    def poll(self) -> None:
        """Delivers what the worker has sent; to be called by a timer."""
        self._client.poll()

    def ask_devices(self, on_answer: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
        """Asks the worker what it can run on; see `hyperreg.worker.device.list_devices`."""
        job = self._client.submit("devices")
        job.on_done = lambda ended: on_answer(ended.result["devices"])

    def close(self) -> None:
        """Ends the worker."""
        self.registration.close()
        self._client.stop()
