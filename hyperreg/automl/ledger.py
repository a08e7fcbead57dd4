"""The book of a search: every run of every trial in Optuna's journal file, which survives whatever happens."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hyperreg.automl.space import Configuration, from_json
from hyperreg.automl.trial import Measured
from hyperreg.errors import FileError

# Optuna warns of its own experimental parts and tells of every trial; the search tells the user what matters.
optuna.logging.set_verbosity(optuna.logging.ERROR)

STUDY = "search"


@dataclass(frozen=True)
class Record:
    """One run that ended: a configuration and a seed, trained to `steps` steps in all.

    source: who proposed it (random, predictor, ...). score, dice: as measured; None if it failed: `reason` says why.
    cpu_s: of all its training so far.
    """

    configuration: Configuration
    seed: int
    source: str
    steps: int
    score: float | None
    dice: float | None = None
    by_class: tuple[float, ...] = ()
    cpu_s: float = 0.0
    reason: str = ""

    @property
    def key(self) -> str:
        return trial_key(self.configuration, self.seed)


def trial_key(configuration: Configuration, seed: int) -> str:
    """A name for a configuration with a seed: of its checkpoint, say."""
    text = json.dumps([configuration.to_json(), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """Runs of trials, kept by Optuna: each is asked for when it starts and told when it ends.

    Raises FileError if the journal cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[int, optuna.Trial] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )  # fmt: skip
            # What was running when the last driver ended will never be told; or it was, but for Optuna's own state.
            for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                score = trial.user_attrs.get("result", {}).get("score")
                self._study.tell(trial.number, score, state=TrialState.FAIL if score is None else None)
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise FileError(f"The journal of the search, '{path}', cannot be used: {error}") from error

    def start(self, configuration: Configuration, seed: int, source: str, steps: int) -> int:
        """Note that a run begins; its number is what `end` and `fail` want."""
        with _writing(self.path):
            trial = self._study.ask()
            trial.set_user_attr("configuration", configuration.to_json())
            trial.set_user_attr("run", {"seed": seed, "source": source, "steps": steps})
            self._open[trial.number] = trial
            return int(trial.number)

    def end(self, number: int, measured: Measured) -> None:
        """Note what a run reached."""
        with _writing(self.path):
            found = [None if math.isnan(value) else value for value in measured.by_class]
            result: dict[str, Any] = {"dice": measured.dice, "by_class": found, "cpu_s": measured.cpu_s}
            # A driver may be killed between this line and the next but one.
            result["score"] = None if math.isnan(measured.score) else measured.score
            result["reason"] = "diverged" if measured.diverged else ""
            self._open.pop(number).set_user_attr("result", result)
            self._study.tell(number, measured.score)

    def fail(self, number: int, reason: str, cpu_s: float = 0.0) -> None:
        """Note that a run failed; it is never taken for one that reached a Dice of 0."""
        with _writing(self.path):
            self._open.pop(number).set_user_attr(
                "result", {"dice": None, "by_class": [], "cpu_s": cpu_s, "reason": reason}
            )
            self._study.tell(number, state=TrialState.FAIL)

    def records(self) -> list[Record]:
        """Every run that ended by itself, in the order of their starts."""
        return [record for trial in self._study.get_trials(deepcopy=False) if (record := _record(trial)) is not None]


def _record(trial: optuna.trial.FrozenTrial) -> Record | None:
    attributes = trial.user_attrs
    if "result" not in attributes or not trial.state.is_finished():
        return None
    run, result = attributes["run"], attributes["result"]
    return Record(
        from_json(attributes["configuration"]),
        int(run["seed"]),
        str(run["source"]),
        int(run["steps"]),
        trial.value if trial.state == TrialState.COMPLETE else None,
        result["dice"],
        tuple(math.nan if value is None else float(value) for value in result["by_class"]),
        float(result["cpu_s"]),
        str(result["reason"]),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what a full or read-only disk does to the journal into a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"The journal of the search, '{path}', cannot be written: {error.strerror or error}. Free some space, then "
            "resume."
        ) from error


def best(records: Sequence[Record], steps: int) -> Record | None:
    """The best run of so many steps; None if there is none."""
    reached = [record for record in records if record.steps == steps and record.score is not None]
    return max(reached, key=lambda record: record.score or 0.0, default=None)
