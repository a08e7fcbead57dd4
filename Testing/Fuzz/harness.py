"""What is done with every damaged file, whatever it holds: damage, reading, and the verdict."""

from __future__ import annotations

import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from hyperreg.errors import HyperRegError
from Testing.Fuzz.mutations import mutated

# No damaged file may take longer, or more memory than this, s and kB; the files of the corpus have 30 kB.
LONGEST = 60
MOST_MEMORY = 1 << 20


@dataclass(frozen=True)
class Seed:
    """A whole file. damaged: the file that is damaged. read: what HyperReg does with it, or with what it belongs to.

    same: whether what was read is what the whole file holds. judge: what is wrong with what was read from these bytes,
    in words; "" if nobody could have seen the damage, or the user was told.
    """

    damaged: Path
    read: Callable[[], Any]
    same: Callable[[Any], bool]
    judge: Callable[[Any, bytes], str]


def faults(
    kinds: Sequence[Sequence[Seed]], folder: Path, count: int, seed: int = 0, tally: Counter[str] | None = None
) -> Iterator[str]:
    """A description of every fault among `count` damaged files; the damaged file is kept in `folder` with it.

    kinds: the corpus, by kinds, which take turns. tally: is told what became of the others.

    A fault is: any error but one in words; a hang; memory out of proportion; and silent nonsense, see `Seed.judge`.
    """
    random = np.random.default_rng(seed)
    tally = Counter() if tally is None else tally
    for number in range(count):
        turn, place = number % len(kinds), number // len(kinds)
        chosen = kinds[turn][place % len(kinds[turn])]
        whole = chosen.damaged.read_bytes()
        name, raw = next(mutated(whole, random))
        if raw == whole:
            continue
        chosen.damaged.write_bytes(raw)
        try:
            problem = _problem(chosen, raw, tally)
        finally:
            chosen.damaged.write_bytes(whole)
        if problem:
            kept = folder / f"fault-{seed}-{number}-{chosen.damaged.name}"
            kept.write_bytes(raw)
            yield f"{kept.name} ({name}): {problem}"


def _problem(seed: Seed, raw: bytes, tally: Counter[str]) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _limit():
            read = seed.read()
    except HyperRegError as error:
        tally["refused"] += 1
        text = str(error)
        return "" if text.endswith((".", "?", "!", ")")) and "Traceback" not in text else f"no sentence: {text!r}"
    except TimeoutError:
        return f"took longer than {LONGEST} s"
    except Exception:  # noqa: BLE001 (that is what is looked for)
        return traceback.format_exc()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MOST_MEMORY:
        return f"took {grown / 1024:.0f} MB for {len(raw) / 1024:.0f} kB"
    same = seed.same(read)
    tally["read as it was" if same else "read, with other content"] += 1
    return "" if same else seed.judge(read, raw)


@contextmanager
def _limit() -> Iterator[None]:
    def end(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
