"""Arrays in shared memory that belongs to the application: it creates and removes, the worker only attaches.

Not multiprocessing.shared_memory: before Python 3.13 that starts a resource tracker in every process that touches a
segment (inside Slicer, from an executable that may not be a Python), and it does not reserve the pages, so that a full
/dev/shm (64 MB in a default container) ends the process with SIGBUS instead of an error. Here a segment is a file in
memory (POSIX; in the temporary folder where /dev/shm is missing or full) or a named mapping (Windows). Its file is
removed as soon as both sides have it mapped; the memory lives on until the last array over it is gone.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError, OutOfMemory, WorkerError
from hyperreg.scratch import ScratchFolder
from hyperreg.worker.protocol import ArraySpec

# Marks a segment that its owner has filled in; arrays start behind it, aligned for any vector instruction.
_MAGIC = b"HyperReg segment"
_HEADER_BYTES = 64
_PREFIX = "hyperreg-worker-"


class Workspace:
    """Private folders of one application process: one in memory (where there is one), one in the temporary folder.

    folders: where segments are looked for, in this order. The last one is on disk and holds the worker's log too.
    Raises WorkerError if they cannot be made.
    """

    def __init__(self, memory_root: Path | None = Path("/dev/shm"), disk_root: Path | None = None) -> None:  # noqa: S108
        disk_root = disk_root or Path(tempfile.gettempdir())
        roots = [disk_root]
        if memory_root is not None and sys.platform != "win32" and os.access(memory_root, os.W_OK | os.X_OK):
            roots.insert(0, memory_root)
        self._scratch: list[ScratchFolder] = []
        try:
            for root in roots:
                self._scratch.append(ScratchFolder(_PREFIX, root))
        except OSError as error:
            self.close()
            raise WorkerError(
                f"The HyperReg engine needs room for temporary files in '{root}': {error.strerror or error}."
            ) from error
        self.folders = [scratch.path for scratch in self._scratch]

    @property
    def is_mine(self) -> bool:
        """False in a forked copy of the owner, which must not clean up when it ends."""
        return all(scratch.is_mine for scratch in self._scratch)

    def create(self, shape: Sequence[int], dtype: npt.DTypeLike) -> tuple[ArraySpec, npt.NDArray]:
        """A new array, all zero, and its description. Remove its name with `remove` when the worker is done with it.

        Raises InputError for what cannot be shared, OutOfMemory if neither memory nor disk has room.
        """
        kind = np.dtype(dtype)
        if kind.kind not in "biuf" or kind.itemsize > 8 or not shape or min(shape) < 1:
            raise InputError(f"An array of type {kind} and shape {tuple(shape)} cannot be used; expected real numbers.")
        spec = ArraySpec(secrets.token_hex(16), kind.str.replace("=", "<"), tuple(int(n) for n in shape))
        return spec, _array(self._map_new(spec), spec)

    def remove(self, spec: ArraySpec) -> None:
        """Takes the name away; the memory is freed with the last array over it."""
        for folder in self.folders:
            (folder / spec.segment).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes both folders with everything in them."""
        for scratch in self._scratch:
            scratch.close()

    def _map_new(self, spec: ArraySpec) -> mmap.mmap:
        size = _HEADER_BYTES + spec.nbytes
        if sys.platform == "win32":
            try:
                memory = mmap.mmap(-1, size, tagname=spec.segment)
            except OSError as error:
                raise OutOfMemory(_no_room(size)) from error
        else:
            memory = self._map_new_file(spec.segment, size)
        memory[: len(_MAGIC)] = _MAGIC
        return memory

    def _map_new_file(self, name: str, size: int) -> mmap.mmap:
        for folder in self.folders:
            path = folder / name
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                _reserve(descriptor, size)
                return mmap.mmap(descriptor, size)
            except OSError:
                path.unlink()
            finally:
                os.close(descriptor)
        raise OutOfMemory(_no_room(size))


def attach(spec: ArraySpec, folders: Sequence[Path], *, writable: bool) -> npt.NDArray:
    """The array that the other process described. Raises WorkerError if its memory is gone or too small."""
    size = _HEADER_BYTES + spec.nbytes
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    memory = None
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size, tagname=spec.segment, access=access)
    else:
        for folder in folders:
            try:
                descriptor = os.open(folder / spec.segment, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                if os.fstat(descriptor).st_size >= size:
                    memory = mmap.mmap(descriptor, size, access=access)
            finally:
                os.close(descriptor)
    # A named mapping that nobody holds any more is silently made anew by Windows: only the mark tells.
    if memory is None or memory[: len(_MAGIC)] != _MAGIC:
        raise WorkerError("The memory shared with the worker is gone. Try again.")
    return _array(memory, spec)


def remove_folders(folders: Sequence[Path]) -> None:
    """Removes private folders; the worker does this too when its application was killed."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _array(memory: mmap.mmap, spec: ArraySpec) -> npt.NDArray:
    count = spec.nbytes // np.dtype(spec.dtype).itemsize
    return np.frombuffer(memory, dtype=spec.dtype, count=count, offset=_HEADER_BYTES).reshape(spec.shape)


def _reserve(descriptor: int, size: int) -> None:
    """Takes all pages now: a sparse file on a full file system would end the process at the first write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.write(descriptor, block[: min(len(block), size - start)])


def _no_room(size: int) -> str:
    return (
        f"There is no room for {size / 2**20:.0f} MB of working memory, neither in memory nor in the temporary folder. "
        "Close other programs or free some disk space, then try again."
    )
