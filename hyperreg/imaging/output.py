"""Writing results so that they are either whole or not there: a temporary name beside the target, then a move."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperreg.errors import FileError

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


def _explain(path: Path, error: OSError) -> str:
    if error.errno in _FULL:
        reason = f"the disk is full ({error.strerror}). Free some space or choose another disk"
    elif error.errno in _FORBIDDEN:
        reason = "the folder or file is read-only or in use. Choose another place, or ask for permission to write there"
    else:
        reason = f"{error.strerror or error}. Choose another place"
    return f"'{path}' could not be written: {reason}."
