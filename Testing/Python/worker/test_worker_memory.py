"""Shared memory: full file systems, foreign and damaged segments, what killed applications leave behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hyperreg.errors import OutOfMemory, WorkerError
from hyperreg.worker.memory import Workspace, attach
from hyperreg.worker.protocol import ArraySpec


def test_full_memory_falls_back_to_disk_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.mkdir()
    slow.mkdir()
    workspace = Workspace(fast, slow)
    in_memory, _ = workspace.create((4,), np.int16)
    full: set[int] = set()
    real = os.posix_fallocate

    def fallocate(descriptor: int, start: int, size: int) -> None:
        if os.fstat(descriptor).st_dev in full or Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent in refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, start, size)

    refused = {workspace.folders[0]}
    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    on_disk, array = workspace.create((3, 4), np.float32)
    array[...] = 5
    assert (workspace.folders[0] / in_memory.segment).exists()
    assert (workspace.folders[1] / on_disk.segment).exists()
    np.testing.assert_array_equal(attach(on_disk, workspace.folders, writable=False), np.full((3, 4), 5))
    refused.add(workspace.folders[1])
    with pytest.raises(OutOfMemory, match="no room for 8 MB"):
        workspace.create((1 << 20,), np.float64)
    assert sum(len(list(folder.glob("?" * 32))) for folder in workspace.folders) == 2
    workspace.close()
    assert list(fast.iterdir()) == list(slow.iterdir()) == []


def test_only_own_whole_segments_are_attached(tmp_path: Path) -> None:
    workspace = Workspace(None, tmp_path)
    spec, array = workspace.create((2, 3), np.float32)
    array[...] = 7
    view = attach(spec, workspace.folders, writable=True)
    view[0, 0] = 9
    assert array[0, 0] == 9
    with pytest.raises(ValueError, match="read-only"):
        attach(spec, workspace.folders, writable=False)[0, 0] = 1
    longer = ArraySpec(spec.segment, spec.dtype, (2, 4))
    foreign = ArraySpec("f" * 32, "|u1", (10,))
    linked = ArraySpec("e" * 32, "|u1", (10,))
    (workspace.folders[0] / foreign.segment).write_bytes(bytes(200))
    (workspace.folders[0] / linked.segment).symlink_to(workspace.folders[0] / spec.segment)
    for refused in (longer, foreign, linked, ArraySpec("d" * 32, "|u1", (10,))):
        with pytest.raises(WorkerError, match="gone"):
            attach(refused, workspace.folders, writable=False)
    workspace.close()
