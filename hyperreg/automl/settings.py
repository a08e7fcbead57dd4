"""What a search is, in settings that are checked, written down, and compared when it goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperreg.automl.trial import TrialSettings
from hyperreg.errors import FileError, InputError
from hyperreg.imaging.output import replacing

SETTINGS = "settings.json"
# Settings that a search may go on with others of.
MAY_CHANGE = ("budget_s", "memory_gb", "final", "rounds")


@dataclass(frozen=True)
class SearchSettings:
    """One search; a folder holds one, and is resumed with the same settings, but for MAY_CHANGE.

    data: a data list. budget_s: seconds in all, over all resumes. rungs: steps at which trials are compared; the best
    `1 / reduction` go on to the next. first: random configurations to begin with. each: proposals of the predictor in
    a round. candidates: that it orders. rounds: of the predictor at most; as many as the budget allows if None.
    repeats: so many of the first ones are trained again with another seed: differences within that noise teach nothing.
    final: share of the budget for the longer training of the best one; 0: none.
    memory_gb: a trial's limit; if None, what Ray keeps free for it, or most of what is free.
    """

    name: str
    data: Path
    budget_s: float
    rungs: tuple[int, ...] = (120, 360, 1080)
    reduction: int = 3
    first: int = 27
    each: int = 9
    candidates: int = 10_000
    rounds: int | None = None
    repeats: int = 4
    final: float = 0.25
    seed: int = 0
    memory_gb: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    trial: TrialSettings = field(default_factory=TrialSettings)

    def check(self) -> None:
        """Raise InputError for settings that make no search."""
        rising = all(a < b for a, b in zip((0, *self.rungs), self.rungs, strict=False))
        if not self.rungs or not rising or self.reduction < 2 or self.first < 2 or self.each < 1:
            raise InputError("Give rungs of rising numbers of steps, two first configurations or more, one per round.")
        if not 0 <= self.final < 1 or self.budget_s <= 0 or self.candidates < self.each:
            raise InputError("Give a budget above zero, a final share from 0 to 1, and more candidates than proposals.")


def check_same(settings: SearchSettings, out: Path, resume: bool) -> None:
    """Raise FileError or InputError unless the folder is free, or holds the search that is to go on."""
    path = out / SETTINGS
    if not path.exists():
        if resume:
            raise FileError(f"There is no search in '{out}' to go on with; leave --resume out.")
        return
    if not resume:
        raise FileError(f"'{out}' holds a search already; go on with --resume, or name another folder.")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"'{path}' cannot be read: {error}. Begin in a new folder.") from error
    entry = _entry(settings)
    changed = [name for name in entry if name not in MAY_CHANGE and there.get(name) != entry[name]]
    if changed:
        raise InputError(f"The search in '{out}' has other settings: {', '.join(changed)}. Give the same again.")


def write_settings(settings: SearchSettings, out: Path) -> None:
    """Write the settings into the folder, unless they are there. Raises FileError."""
    if not (out / SETTINGS).exists():
        with replacing(out / SETTINGS) as target:
            target.write_text(json.dumps(_entry(settings), indent=2) + "\n", encoding="utf-8")


def _entry(settings: SearchSettings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    entry: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str))
    return entry
