"""Which computer computes: this one, or another one that is reached by ssh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperreg.errors import InputError
from hyperreg.mrml.i18n import tr as _
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job


class Computer:
    """The computer that a client's requests are computed on.

    on_told(text): what is to be shown beside the choice, from `choose` and from `client.poll`; "" for nothing.
    """

    def __init__(self, client: WorkerClient, on_told: Callable[[str], None]) -> None:
        self._client = client
        self._on_told = on_told

    @property
    def address(self) -> str:
        """Of the other computer; "" for this one."""
        return self._client.address

    def choose(self, address: str) -> None:
        """Computes there from now on, and tries whether that works. address: see `WorkerClient.move_to`.

        What is wrong with an address, or with choosing while something is computed, is told like all else.
        """
        address = address.strip()
        if address == self.address:
            return
        try:
            self._client.move_to(address)
        except InputError as error:
            self._on_told(str(error))
            return
        self._on_told("")
        if address:
            self._on_told(_("Connecting..."))
            job = self._client.submit("devices")
            job.on_done = lambda ended: self._on_told(_answer(ended.result["devices"]))
            job.on_failed = self._told_failure

    def _told_failure(self, job: Job) -> None:
        if self.address:
            self._on_told(job.error)


def _answer(devices: Sequence[Mapping[str, Any]]) -> str:
    return _("Connected: {devices}").format(devices="; ".join(str(device["title"]) for device in devices))
