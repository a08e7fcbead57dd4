"""Output files that appear all together or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.imaging.output import replacing


class StagedOutputs:
    """Checks that files can be written before a long computation, and moves them into place after it.

    On entering, every target gets a hidden folder beside it, which proves that the place is writable. Files are written
    to `path(name)` and moved to their targets when the block ends without an error; otherwise nothing is left behind.

    targets: name -> path, or None for an output that is not wanted.
    inputs: files that no target may overwrite.
    Raises InputError for targets that collide, FileError for places that cannot be written, and FileError at the end of
    the block, before anything is moved, if an output was not written.
    """

    def __init__(self, targets: Mapping[str, Path | None], inputs: Iterable[Path | None] = ()) -> None:
        self.targets = {name: Path(path) for name, path in targets.items() if path is not None}
        self._inputs = {Path(path).resolve() for path in inputs if path is not None}
        self._staged: dict[str, Path] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StagedOutputs:  # noqa: PYI034 (typing.Self needs Python 3.11)
        self._check_targets()
        try:
            for name, target in self.targets.items():
                self._staged[name] = self._stack.enter_context(replacing(target))
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = [target for name, target in self.targets.items() if not self._staged[name].is_file()]
        if error is not None or missing:
            self._abandon()
        if isinstance(error, FileError):
            raise FileError(self._without_hidden_folders(str(error))) from error
        if error is None and missing:
            raise FileError(f"'{missing[0]}' could not be written; nothing was saved.")
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self.targets

    def path(self, name: str) -> Path:
        """Where to write the output `name`: the target's file name, in the hidden folder."""
        return self._staged[name]

    def _without_hidden_folders(self, text: str) -> str:
        """A message about a staged file, as one about its target."""
        for name, target in self.targets.items():
            text = text.replace(str(self._staged[name]), str(target))
        return text

    def _check_targets(self) -> None:
        taken: set[Path] = set()
        for target in self.targets.values():
            place = target.resolve()
            if place in self._inputs:
                raise InputError(f"'{target}' is one of the inputs; give the output another name.")
            if place in taken:
                raise InputError(f"'{target}' is named for two outputs; give each its own name.")
            if target.is_file() and not os.access(target, os.W_OK):
                raise FileError(f"'{target}' exists and is write-protected; choose another name.")
            taken.add(place)

    def _abandon(self) -> None:
        # The writers are told of a cancellation, not of the error itself: they would take an OSError for their own.
        self._stack.__exit__(Cancelled, Cancelled("not saved"), None)
