"""Writing results so that they are whole or not there: a temporary name beside the target, then a move.

What is no earlier result is never replaced: inputs (whatever they are called), files that belong to something else,
devices.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.scratch import ScratchFolder

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# Hidden, and beside the target, so that a move is a change of name. What a killed program left goes with the next.
_PREFIX = ".hyperreg-"
LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str], expected_bytes: int = 0) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`; on success, move what was written there.

    A file written next to it under another name (the .raw of an .mhd) is moved too, before the target itself. On any
    failure the temporary folder is removed and an older file at `path` is left as it was. A file that replaces another
    one gets its permissions.
    expected_bytes: an upper estimate; when the disk has less, FileError is raised before anything is written (some
    writers do not notice a full disk themselves).
    Raises FileError if the folder is missing, read-only or full, `path` is no ordinary file, a file next to it would
    replace one that is no part of it, or the writer fails.
    """
    path = Path(path)
    folder = path.absolute().parent
    existing = _examined(path)
    if existing is not None and stat.S_ISDIR(existing.st_mode):
        raise FileError(f"'{path}' is a folder. Give the name of a file.")
    if existing is not None and not stat.S_ISREG(existing.st_mode):
        raise FileError(f"'{path}' is a device or the like, no ordinary file. Leave out outputs that are not wanted.")
    if not folder.is_dir():
        raise FileError(f"The folder '{folder}' does not exist. Create it, or choose another place for '{path.name}'.")
    workplace: ScratchFolder | None = None
    try:
        free = shutil.disk_usage(folder).free
        if free < expected_bytes:
            raise OSError(errno.ENOSPC, f"{expected_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
        workplace = ScratchFolder(_PREFIX, folder)
        target = workplace.path / path.name
        yield target
        if not target.is_file():
            raise FileError(f"'{path}' could not be written.")
        moves = {file: folder / file.name for file in sorted(workplace.path.iterdir(), key=lambda file: file == target)}
        for file, place in moves.items():
            replaced = _examined(place)
            if file != target and replaced is not None and existing is None:
                raise FileError(
                    f"'{path}' needs a file '{place.name}' beside it, and there is one that is not its own."
                )
            earlier = replaced or existing
            if earlier is not None:
                file.chmod(stat.S_IMODE(earlier.st_mode))
        for file, place in moves.items():
            os.replace(file, place)
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
            workplace.close()


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder for results, and those above it, if it is not there. Raises FileError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"The folder '{path}' cannot be made: {reason}. Choose another place.") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes a folder for results, in which no other run works until the block ends.

    A run that was killed does not count. Raises InputError if another run does, FileError if the folder cannot be made
    or written.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"Another run works in '{folder}'. Wait for it, cancel it, or give another folder.") from error
    except OSError as error:
        raise FileError(_explain(folder, error)) from error
    try:
        yield
    finally:
        lock.release()


def _examined(path: Path) -> os.stat_result | None:
    """What the system says of a file, links followed; None if there is none. Raises FileError for impossible names."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        name = path.name if len(path.name) <= 80 else f"{path.name[:60]}...{path.suffix}"
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"'{name}' cannot be the name of an output: {reason}. Choose another one.") from error


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


def _explain(path: Path | None, error: OSError) -> str:
    if error.errno in _FULL:
        reason = f"the disk is full ({error.strerror}). Free some space or choose another disk"
    elif error.errno in _FORBIDDEN:
        reason = "the folder or file is read-only or in use. Choose another place, or ask for permission to write there"
    else:
        reason = f"{error.strerror or error}. Choose another place"
    return f"{'The results' if path is None else f'{str(path)!r}'} could not be written: {reason}."


class StagedOutputs:
    """Checks that files can be written before a long computation, and moves them into place after it.

    On entering, every target gets a hidden folder beside it, which proves that the place is writable. Files are written
    to `path(name)` and moved to their targets when the block ends without an error; otherwise nothing is left behind.

    targets: name -> path, or None for an output that is not wanted.
    inputs: files that no target may replace, whatever their name (links), and folders none of whose files it may.
    Raises InputError for targets that collide, FileError for places that cannot be written, and FileError at the end of
    the block, before anything is moved, if an output was not written or the disk is full.
    """

    def __init__(self, targets: Mapping[str, Path | None], inputs: Iterable[Path | None] = ()) -> None:
        self.targets = {name: Path(path) for name, path in targets.items() if path is not None}
        self._inputs = [Path(path).absolute() for path in inputs if path is not None]
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
        if isinstance(error, OSError) and (error.errno in _FULL or self._target_of(error.filename) is not None):
            raise FileError(_explain(self._target_of(error.filename), error)) from error
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

    def _target_of(self, file: str | os.PathLike[str] | int | bytes | None) -> Path | None:
        """The target for which the file is written."""
        if not isinstance(file, (str, os.PathLike)):
            return None
        folders = {staged.parent: self.targets[name] for name, staged in self._staged.items()}
        return folders.get(Path(file).parent)

    def _check_targets(self) -> None:
        protected = {_identity(path.stat()): path for path in self._inputs if os.path.exists(path)}
        named = {path.resolve() for path in self._inputs}
        taken: set[Path] = set()
        for target in self.targets.values():
            existing = _examined(target)
            place = target.resolve()
            if place in named or (existing is not None and _identity(existing) in protected):
                raise InputError(f"'{target}' is one of the inputs; give the output another name.")
            above = [_identity(folder.stat()) for folder in place.parents] if existing is not None else []
            inside = [protected[identity] for identity in above if identity in protected]
            if inside:
                raise InputError(f"'{target}' is a file of the input '{inside[0]}'; give the output another name.")
            if place in taken:
                raise InputError(f"'{target}' is named for two outputs; give each its own name.")
            if existing is not None and stat.S_ISREG(existing.st_mode) and not os.access(target, os.W_OK):
                raise FileError(f"'{target}' exists and is write-protected; choose another name.")
            taken.add(place)

    def _abandon(self) -> None:
        # The writers are told of a cancellation, not of the error itself: they would take an OSError for their own.
        self._stack.__exit__(Cancelled, Cancelled("not saved"), None)


def _identity(status: os.stat_result) -> tuple[int, int]:
    """The same for the same file or folder, whatever names lead to it."""
    return status.st_dev, status.st_ino
