"""Writing results so that they are whole or not there: a temporary name beside the target, then a move."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from hyperreg.errors import Cancelled, FileError, InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(path: str | os.PathLike[str], expected_bytes: int = 0) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`; on success, move what was written there.

    A file written next to it under another name (the .raw of an .mhd) is moved too, before the target itself. On any
    failure the temporary folder is removed and an older file at `path` is left as it was.
    expected_bytes: an upper estimate; when the disk has less, FileError is raised before anything is written (some
    writers do not notice a full disk themselves).
    Raises FileError if the folder is missing, read-only or full, or the writer fails.
    """
    path = Path(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileError(f"The folder '{folder}' does not exist. Create it, or choose another place for '{path.name}'.")
    if path.is_dir():
        raise FileError(f"'{path}' is a folder. Give the name of a file.")
    workplace: Path | None = None
    try:
        free = shutil.disk_usage(folder).free
        if free < expected_bytes:
            raise OSError(errno.ENOSPC, f"{expected_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
        workplace = Path(tempfile.mkdtemp(prefix=".hyperreg-", dir=folder))
        target = workplace / path.name
        yield target
        if not target.is_file():
            raise FileError(f"'{path}' could not be written.")
        for written in sorted(workplace.iterdir(), key=lambda file: file == target):
            os.replace(written, folder / written.name)
    except OSError as error:
        raise FileError(_explain(path, error)) from error
    except RuntimeError as error:  # SimpleITK's only error type; its last line says what happened
        lines = str(error).strip().splitlines()
        raise FileError(
            f"'{path}' could not be written ({lines[-1].strip() if lines else 'unknown reason'}). "
            "Check that the disk is not full and choose another place or format."
        ) from error
    finally:
        if workplace is not None:
            shutil.rmtree(workplace, ignore_errors=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden folder beside `path` that becomes `path` when the block ends; on any failure nothing is left.

    Raises FileError if `path` is there already (unless as an empty folder), or its place is missing, read-only or full.
    """
    path = Path(path).absolute()
    workplace: Path | None = None
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileError(f"'{path}' is there already. Give the name of a new or an empty folder.")
        if not path.parent.is_dir():
            raise FileError(f"The folder '{path.parent}' does not exist. Create it, or choose another place.")
        workplace = Path(tempfile.mkdtemp(prefix=".hyperreg-", dir=path.parent))
        yield workplace
        # mkdtemp makes folders that nobody else may read.
        workplace.chmod(0o777 & ~_umask())
        if path.exists():
            path.rmdir()
        os.replace(workplace, path)
    except OSError as error:
        raise FileError(_explain(path, error)) from error
    finally:
        if workplace is not None:
            shutil.rmtree(workplace, ignore_errors=True)


def _umask() -> int:
    """The permissions that new files are denied; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _explain(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        reason = f"the disk is full ({error.strerror}). Free some space or choose another disk"
    elif error.errno in _FORBIDDEN:
        reason = "the folder or file is read-only or in use. Choose another place, or ask for permission to write there"
    else:
        reason = f"{error.strerror or error}. Choose another place"
    return f"'{path}' could not be written: {reason}."


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
