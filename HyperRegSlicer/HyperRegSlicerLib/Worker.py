"""A module's connection to a worker process of its own. Nothing is started before something is to be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperreg.mrml.computer import Computer
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.fusion import RemoteFuser
from hyperreg.worker.live.registration import LiveRegistration
from hyperreg.worker.models import ModelStore
from hyperreg.worker.segmentation import RemoteSegmenter
from HyperRegSlicerLib import Install


class Connection:
    """A worker client, and what the modules do with it: the live registration, the segmenter, the fuser."""

    def __init__(self) -> None:
        self._client = WorkerClient(python=Install.worker_python())
        self.registration = LiveRegistration(self._client)
        self.segmenter = RemoteSegmenter(self._client)
        self.fuser = RemoteFuser(self._client)

    def computer(self, on_told: Callable[[str], None]) -> Computer:
        """For the choice of the computer that computes."""
        return Computer(self._client, on_told)

    def models(self, on_error: Callable[[str], None]) -> ModelStore:
        """For adding and removing models."""
        return ModelStore(self._client, on_error)

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
        self.segmenter.close()
        self.fuser.close()
        self._client.stop()
