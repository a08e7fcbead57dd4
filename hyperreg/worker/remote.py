"""Long operations as applications see them: one job at a time, told by callbacks, given up at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.worker.client import Outputs, WorkerClient
from hyperreg.worker.jobs import Job


class Remote:
    """The base. Whoever owns it calls `client.poll()` regularly.

    on_progress(fraction, text), on_done(result), on_error(text): from `poll`, at most one of the last two per job;
    on_error in words for the user, also when the worker died, after which the next job starts it again.
    on_cancelled(): from `cancel`.
    """

    # Why a second job cannot be started.
    BUSY = ""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._job: Job | None = None
        self.on_progress: Callable[[float, str], None] | None = None
        self.on_done: Callable[[Any], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self.on_cancelled: Callable[[], None] | None = None

    @property
    def running(self) -> bool:
        """Whether something is being computed that is still wanted."""
        return self._job is not None

    def cancel(self) -> None:
        """Gives the job up at once; harmless if none is running.

        The worker lets go of it a little later, or is ended; the next job waits for that, a second or so.
        """
        job, self._job = self._job, None
        if job is None:
            return
        job.cancel()
        if self.on_cancelled is not None:
            self.on_cancelled()

    def close(self) -> None:
        """Gives the job up; no callback any more. The client stays as it is."""
        self.on_progress = self.on_done = self.on_error = self.on_cancelled = None
        self.cancel()

    def _check_idle(self) -> None:
        """Raises InputError while a job is running."""
        if self._job is not None:
            raise InputError(self.BUSY)

    def _submit(
        self,
        operation: str,
        wanted: Mapping[str, Any],
        volumes: Mapping[str, Volume],
        outputs: Outputs,
        result: Callable[[Job], Any],
    ) -> Job:
        """Starts a job. wanted: its parameters; volumes: become its inputs, by name. result(job): for `on_done`.

        Raises OutOfMemory if there is no room for the copies.
        """
        places = {
            name: {"name": volume.name, "ijk_to_ras": volume.ijk_to_ras.tolist()} for name, volume in volumes.items()
        }
        arrays = {name: volume.array for name, volume in volumes.items()}
        job = self._client.submit(operation, {**wanted, "volumes": places}, arrays, outputs=outputs)
        self._job = job
        job.observers.append(lambda job: self._changed(job, result))
        return job

    def _changed(self, job: Job, result: Callable[[Job], Any]) -> None:
        if job is not self._job:
            return
        if not job.ended:
            if self.on_progress is not None:
                self.on_progress(*job.progress)
            return
        self._job = None
        if job.state == "done":
            if self.on_done is not None:
                self.on_done(result(job))
        elif job.state == "failed":
            if self.on_error is not None:
                self.on_error(job.error)
        elif self.on_cancelled is not None:
            self.on_cancelled()
