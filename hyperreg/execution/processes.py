"""Many tasks: one after the other here, or several at once in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice
from multiprocessing import resource_tracker
from queue import Empty
from typing import Any, Protocol, TypeVar

from hyperreg.errors import Cancelled, HyperRegError, OutOfMemory
from hyperreg.machine import is_out_of_memory, main_memory, visible_gpus
from hyperreg.reporting import Cancel, Progress

# Memory that one registration needs beside the others, bytes: what two 1 mm heads took, and room.
NEEDED = 3 * 1024**3
MOST_PROCESSES = 8
# How often a parent looks after its children, seconds.
LOOK = 0.2


class Named(Protocol):
    """A task; its name is what messages and progress call it."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
R = TypeVar("R")
# Does one task: a function of a module, because other processes import it. It tells how far it is, and may be asked to
# stop.
Work = Callable[[T, Progress, Cancel | None], R]
# Name of the task, fraction 0..1 of it that is done, what is being done.
TaskProgress = Callable[[str, float, str], None]

# In a child: how to tell the parent. Set once per process by `_begin`.
_parent: dict[str, Any] = {}


def fitting_jobs(device: str) -> int:
    """How many registrations may run at once: one on a GPU, else as many as cores and free memory allow."""
    if device == "cuda":
        return 1
    free, _total = main_memory()
    room = 1 if free is None else max(1, free // NEEDED)
    return int(max(1, min(os.cpu_count() or 1, room, MOST_PROCESSES)))


def results(
    work: Work[T, R], tasks: Iterable[T], jobs: int, progress: TaskProgress, cancelled: Cancel | None = None
) -> Iterator[tuple[T, R | HyperRegError]]:
    """Do all tasks; each comes out as soon as it is done, with its result or the error that ended it.

    tasks: each is taken when its turn comes, so that they may depend on the time and on results before. jobs: how many
    at once; with more than one they run in processes of their own, each of which sees one of the GPUs. When a process
    dies, for lack of memory usually, what was running is done again, half as many at a time; a task that dies alone has
    failed. Raises Cancelled.
    """
    rest = iter(tasks)
    first = list(islice(rest, max(jobs, 1)))
    jobs, rest = len(first), chain(first, rest)
    if jobs <= 1:
        for task in rest:
            _check(cancelled)
            yield task, attempt(work, task, partial(progress, task.name), cancelled)
        return
    while True:
        running: list[T] = []
        try:
            yield from _in_processes(work, rest, running, jobs, progress, cancelled)
            return
        except BrokenProcessPool:
            if len(running) == 1:
                yield running.pop(), OutOfMemory("The process that did this ended, for lack of memory usually.")
            jobs, rest = max(1, jobs // 2), chain(running, rest)


def attempt(work: Work[T, R], task: T, progress: Progress, cancelled: Cancel | None = None) -> R | HyperRegError:
    """Do one task here: its result, or the error that ended it. Raises Cancelled."""
    try:
        return work(task, progress, cancelled)
    except Cancelled:
        raise
    except HyperRegError as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return OutOfMemory("There was not enough memory for this registration.")


def _in_processes(
    work: Work[T, R], tasks: Iterator[T], running: list[T], jobs: int, progress: TaskProgress, cancelled: Cancel | None
) -> Iterator[tuple[T, R | HyperRegError]]:
    """running: is kept up to date with the tasks that were taken and did not come back."""
    # Not by fork: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    if sys.platform != "win32":
        # Before there is a semaphore, which a kill would leave behind until the tracker has started.
        resource_tracker.ensure_running()
    news = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    before = multiprocessing.active_children()
    gpus, places = visible_gpus(), context.Queue()
    for number in range(jobs):
        places.put(gpus[number % len(gpus)] if gpus else None)
    pool = ProcessPoolExecutor(jobs, context, _begin, (news, threads, places))
    pending: dict[Future[R | HyperRegError], T] = {}
    try:
        while True:
            while len(pending) < jobs and (task := next(tasks, None)) is not None:
                running.append(task)
                with _without_interrupts():
                    pending[pool.submit(_do, work, task)] = task
            if not pending:
                return
            _check(cancelled)
            finished, _rest = wait(pending, LOOK, FIRST_COMPLETED)
            with suppress(Empty):
                while True:
                    progress(*news.get_nowait())
            for future in finished:
                result, done = future.result(), pending.pop(future)
                running.remove(done)
                yield done, result
    except BaseException:
        # Nothing of theirs is half done: what they write is whole or not there.
        for child in multiprocessing.active_children():
            if child not in before:
                child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for queue in (news, places):
            queue.close()
            queue.cancel_join_thread()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile get no Ctrl+C: the terminal sends it to all, but their parent decides."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(news: Any, threads: int, places: Any) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # One that is killed while it tells something must not keep the others from ending.
    news.cancel_join_thread()
    if (gpu := places.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts
    try:
        import torch
    except (ImportError, OSError, MemoryError) as error:
        if is_out_of_memory(error):
            os._exit(1)  # without a traceback: the parent goes on with fewer
        raise
    torch.set_num_threads(threads)
    _parent["news"] = news


def _end_with(parent: Any) -> None:
    """Ends this process with its parent, which, killed, cannot say so; even while it waits for a task."""
    parent.join()
    os._exit(1)


def _do(work: Work[T, R], task: T) -> R | HyperRegError:
    return attempt(work, task, lambda fraction, text: _parent["news"].put((task.name, fraction, text)), None)


def _check(cancelled: Cancel | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("Cancelled.")
