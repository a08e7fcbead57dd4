"""Private folders: removed by their owner, and after its death by whoever comes next, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperreg import scratch
from hyperreg.scratch import ScratchFolder

OWNER = """
import sys
from pathlib import Path
from hyperreg.scratch import ScratchFolder
folder = ScratchFolder("hyperreg-test-", Path(sys.argv[1]))
(folder.path / "patient").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_a_folder_is_private_and_goes_at_the_end(tmp_path: Path) -> None:
    with ScratchFolder("hyperreg-test-", tmp_path) as path:
        assert path.parent == tmp_path
        assert path.stat().st_mode & 0o077 == 0
        (path / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders in use cannot be removed there")
def test_what_a_killed_program_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().decode().strip())
    elsewhere = tmp_path / "hyperreg-test-00000000-of another machine"
    elsewhere.mkdir()
    linked = tmp_path / (left.name + "-link")
    linked.symlink_to(elsewhere)
    (elsewhere / "kept").write_text("x")
    with ScratchFolder("hyperreg-test-", tmp_path) as path:
        assert left.is_dir(), "its owner lives"
        owner.kill()
        owner.wait()
        with ScratchFolder("hyperreg-test-", tmp_path):
            assert not left.exists()
            assert path.is_dir()
    assert set(tmp_path.iterdir()) == {elsewhere, linked}
    assert (elsewhere / "kept").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_copy_removes_nothing(tmp_path: Path) -> None:
    folder = ScratchFolder("hyperreg-test-", tmp_path)
    child = os.fork()
    if child == 0:
        scratch.remove_all()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()
    scratch.remove_all()
    assert not folder.path.exists()
