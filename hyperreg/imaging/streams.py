"""The bytes of a file, compressed or not: recognised by content, counted, and their checksums verified."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError

CHUNK = 1 << 22
GZIP_MARK = b"\x1f\x8b"
# Speed matters more than the last per cent of size: level 1 halves the time of a large field and costs about 5 % more
# bytes.
GZIP_LEVEL = 1
# More than this behind the voxels is no padding.
PADDING_BYTES = 4096


def damaged(path: Path) -> FileError:
    """The error for a file whose content is not whole."""
    return FileError(
        f"'{path}' is damaged or was cut short (an interrupted copy or download?). Copy or export it again."
    )


def check_there(path: Path, folders: bool = False) -> None:
    """Raise FileError unless a file of this name is there to be read, and read again (a pipe's bytes come once).

    folders: whether a folder will do, too.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise FileError(f"'{path}' does not exist. Check the name and the folder.") from error
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if stat.S_ISDIR(mode) and not folders:
        raise FileError(f"'{path}' is a folder. Give the name of a file.")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FileError(f"'{path}' is a pipe or a device, no ordinary file. Save what comes out of it as a file first.")


def same_file(first: Path, second: Path) -> bool:
    """Whether two names mean one file or folder, by whatever links; of what is no file (SOURCE#2), whether both are
    one name.
    """
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return first == second


def is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GZIP_MARK)) == GZIP_MARK


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed if it is gzip, whatever its name says.

    Reading to the end verifies gzip's checksum and length (see `rest`). Raises FileError for what cannot be opened or
    is damaged, also while it is being read.
    """
    try:
        compressed = is_gzip(path)
        with cast(BinaryIO, gzip.open(path)) if compressed else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path) from error
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A new file, compressed if its name ends in .gz or .mgz."""
    compressed = path.name.lower().endswith((".gz", ".mgz"))
    with cast(BinaryIO, gzip.open(path, "wb", GZIP_LEVEL)) if compressed else open(path, "wb") as file:
        yield file


def skip(file: BinaryIO, count: int) -> int:
    """Read over `count` bytes; how many there were."""
    left = count
    while left > 0 and (chunk := file.read(min(left, CHUNK))):
        left -= len(chunk)
    return count - left


def fill(file: BinaryIO, array: npt.NDArray) -> bool:
    """Read a contiguous array's bytes, of either order; whether there were enough."""
    left = array.reshape(-1, order="A").view(np.uint8).data
    while left:
        chunk = file.read(min(len(left), CHUNK))
        if not chunk:
            return False
        left[: len(chunk)] = chunk
        left = left[len(chunk) :]
    return True


def rest(file: BinaryIO) -> tuple[int, bytes]:
    """How many bytes are left, and the first of them, at most PADDING_BYTES; reading gzip to its end verifies it."""
    first = file.read(PADDING_BYTES)
    count = len(first)
    while chunk := file.read(CHUNK):
        count += len(chunk)
    return count, first


def inflated_size(path: Path, offset: int) -> int:
    """Length of the zlib or gzip data that begin at `offset`, uncompressed. Raises FileError if they are damaged."""
    count = 0
    with open(path, "rb") as file:
        file.seek(offset)
        while True:
            inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of the two formats
            try:
                while not inflater.eof:
                    chunk = inflater.unconsumed_tail or file.read(CHUNK)
                    count += len(inflater.decompress(chunk, CHUNK) if chunk else inflater.flush())
                    if not chunk and not inflater.eof:
                        raise damaged(path)
            except zlib.error as error:
                raise damaged(path) from error
            # gzip files may consist of several parts in a row.
            file.seek(-len(inflater.unused_data), 1)
            follows = file.read(len(GZIP_MARK))
            file.seek(-len(follows), 1)
            if follows != GZIP_MARK:
                return count


def check_surplus(path: Path, count: int, first: bytes) -> list[str]:
    """What to say of `count` bytes behind the voxels that the header speaks of, which begin with `first`.

    Zeros may be padding. Raises FileError for anything else: the header's sizes are not those of the data.
    """
    if count == 0:
        return []
    if count > PADDING_BYTES or any(first):
        raise FileError(
            f"'{path}' holds {count} bytes more than the voxels of which its header speaks: header or voxels are "
            "damaged, or do not belong together. Copy or export it again."
        )
    return [f"'{path.name}' holds {count} bytes more than its header says; they are zero and were taken for padding."]
