"""Several values of lambda solved side by side: on a CPU that uses the cores better than one after the other on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import torch

from hyperreg.errors import Cancelled
from hyperreg.registration.anchors import Fields

Tick = Callable[[float], None]


def side_by_side(solve: Callable[[float, Tick], Fields], lambdas: Sequence[float], tick: Tick) -> dict[float, Fields]:
    """The fields of each lambda (at least one): as many of them as torch has threads, from the first on.

    solve: gives the fields of one lambda; calls its tick with the fraction done. tick: is told of the first one, from
    this thread; if it raises, all end, and that is raised. Raises what solving the first one raises; of the others,
    those that fail are left out.
    """
    threads = torch.get_num_threads()
    first, *others = lambdas[:threads]
    if not others:
        return {first: solve(first, tick)}
    stop = Event()

    def tick_beside(_fraction: float) -> None:
        if stop.is_set():
            raise Cancelled("Another λ was cancelled.")

    def solve_beside(lam: float) -> Fields:
        torch.set_num_threads(own)  # of this thread
        return solve(lam, tick_beside)

    own = threads // (1 + len(others))
    found: dict[float, Fields] = {}
    try:
        with ThreadPoolExecutor(len(others)) as pool:
            beside = {lam: pool.submit(solve_beside, lam) for lam in others}
            try:
                torch.set_num_threads(own)
                found[first] = solve(first, tick)
                while wait(beside.values(), timeout=0.1).not_done:
                    tick(1.0)
            except BaseException:
                stop.set()
                raise
        found |= {lam: future.result() for lam, future in beside.items() if future.exception() is None}
    finally:
        torch.set_num_threads(threads)
    return found
