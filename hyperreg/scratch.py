"""Private folders for what is in the making: removed by their owner, or by the next program once the owner is dead.

The owner holds a lock (flock) on the folder itself, which the system lets go of when the process ends, however it ends.
Whoever makes a folder of the same kind in the same place first removes those whose lock is free.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import weakref
import zlib
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl

# Another machine's lock on a folder that both reach over the network may not show here, so each minds its own folders.
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"

# The folders of this process that are there.
_alive: weakref.WeakSet[ScratchFolder] = weakref.WeakSet()


class ScratchFolder:
    """A new, empty folder (`path`) that only this user can enter; it goes with `close` or at the end of a `with`.

    prefix: of its name; says what it is for. root: where it is made, by default the folder for temporary files.
    Raises OSError if it cannot be made.
    """

    def __init__(self, prefix: str, root: Path | None = None) -> None:
        root = root or Path(tempfile.gettempdir())
        self._owner = os.getpid()
        self._lock: int | None = None
        remove_stale(prefix, root)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}{_HOST}-", dir=root))
            if sys.platform == "win32":
                break  # files that are open cannot be deleted there, and nothing is removed as stale
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if self.path.is_dir():
                    break
            except FileNotFoundError:
                pass
            except OSError:
                break  # a file system without locks: then nobody takes the folder for stale either
            # Taken for stale in the moment before it was locked.
            self._unlock()
        _alive.add(self)

    @property
    def is_mine(self) -> bool:
        """False in a forked copy of the owner, which must not clean up when it ends."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Removes the folder with everything in it. Harmless in a forked copy, or when it is gone already."""
        if self.is_mine:
            shutil.rmtree(self.path, ignore_errors=True)
            self._unlock()
            _alive.discard(self)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_all() -> None:
    """Removes every folder of this process: for a process that is about to end without unwinding."""
    for folder in list(_alive):
        folder.close()


def remove_stale(prefix: str, root: Path) -> None:
    """Removes the folders of this user's programs on this machine that have died (their lock is free)."""
    if sys.platform == "win32":
        return
    for folder in root.glob(f"{prefix}{_HOST}-*"):
        with contextlib.suppress(OSError):  # somebody else's, locked by an owner who lives, or just removed
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
