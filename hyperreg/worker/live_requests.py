"""The one request of a live registration that may be on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperreg.errors import HyperRegError, SessionLost
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job


class Requests:
    """Sends requests to the worker one at a time, so that a new lambda waits for no more than one of them.

    on_progress(job), on_error(text), on_idle(): the next one can be sent.
    job: what is on its way, or None.
    """

    def __init__(
        self,
        client: WorkerClient,
        on_progress: Callable[[Job], None],
        on_error: Callable[[str], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._client = client
        self._on_progress, self._on_error, self._on_idle = on_progress, on_error, on_idle
        self.job: Job | None = None

    def send(
        self,
        operation: str,
        parameters: dict[str, Any],
        done: Callable[[Job], None],
        ended: Callable[[bool], None],
        **options: Any,
    ) -> Job | None:
        """Sends a request; see `WorkerClient.submit` for the options.

        done(job): it succeeded. ended(failed): it did not, but failed (after which the user is told) or was cancelled.
        Returns None, and tells the user, if there is no room for what it shares with the worker.
        """

        def changed(job: Job) -> None:
            if job is not self.job:
                return  # overtaken by another pair, or by reset
            if not job.ended:
                self._on_progress(job)
                return
            self.job = None
            if job.state == "done":
                done(job)
            elif isinstance(job.failure, SessionLost) and job.generation != generation:
                pass  # the worker was replaced while this waited: what is wanted still is, after a preparation
            else:
                ended(job.state == "failed")
                if job.state == "failed":
                    self._on_error(job.error)
            self._on_idle()

        try:
            self.job = job = self._client.submit(operation, parameters, **options)
        except HyperRegError as error:
            ended(True)
            self._on_error(str(error))
            return None
        generation = job.generation
        job.observers.append(changed)
        return job
