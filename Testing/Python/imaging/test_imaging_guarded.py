"""Reading in a process that may die: its answers arrive whole, its errors in words, and its death harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import guarded

FUNCTIONS = """
import os, time
import numpy as np
from hyperreg.errors import InputError

def double(path, factor):
    print("a library that talks")
    return {"pid": os.getpid(), "path": path}, [np.arange(6, dtype=">i2").reshape(2, 3) * factor, np.ones((2, 0))]

def refuse(path):
    raise InputError(f"'{path}' is a picture of a cat.")

def fail(path):
    raise KeyError("something inside")

def crash(path):
    os.abort()

def hang(path):
    time.sleep(60)

def loop(path):
    while True:
        pass

def gigantic(path):
    return {}, [np.zeros(1 << 45, np.uint8)]
"""


@pytest.fixture(autouse=True)
def functions(tmp_path, monkeypatch):
    (tmp_path / "readers_of_the_test.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{tmp_path}")
    guarded.end_reader()
    yield
    guarded.end_reader()


def _call(name, *arguments, **options):
    return guarded.call(f"readers_of_the_test:{name}", "ä b.mha", *arguments, **options)


def test_facts_and_arrays_arrive_and_one_child_serves_many_calls():
    facts, (array, empty) = _call("double", 2)
    assert facts["path"] == os.path.abspath("ä b.mha") and facts["pid"] != os.getpid()
    np.testing.assert_array_equal(array, [[0, 2, 4], [6, 8, 10]])
    assert empty.shape == (2, 0)
    assert _call("double", 3)[0]["pid"] == facts["pid"]


def test_errors_of_the_function_are_raised_here():
    pid = _call("double", 1)[0]["pid"]
    with pytest.raises(InputError, match=r"ä b.mha' is a picture of a cat\.$"):
        _call("refuse")
    with pytest.raises(RuntimeError, match="something inside"):
        _call("fail")
    with pytest.raises(OutOfMemory, match="memory"):
        _call("gigantic")
    assert _call("double", 1)[0]["pid"] == pid, "an error is no reason to start another child"


@pytest.mark.parametrize(
    ("name", "words"),
    [("crash", "ended the program"), ("hang", "given up after 1 second"), ("loop", "given up after 1 second")],
)
def test_a_crash_or_a_hang_is_a_sentence_and_the_next_file_is_read(name, words):
    with pytest.raises(FileError, match=rf"'ä b.mha' is damaged.*{words}"):
        _call(name, seconds=1.0)
    assert _call("double", 1)[1][0].sum() == 15


def test_the_child_ends_with_its_parent_even_if_that_is_killed():
    code = (
        "import os, signal\nfrom hyperreg.imaging import guarded\n"
        "print(guarded.call('readers_of_the_test:double', 'x', 1)[0]['pid'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL if os.name == 'posix' else signal.SIGTERM)"
    )
    # The child shares standard error with its parent: that this ends means that both have ended.
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    assert ran.returncode != 0 and int(ran.stdout) > 0
    if os.path.isdir("/proc/self"):
        for _ in range(1000):
            if not os.path.exists(f"/proc/{int(ran.stdout)}"):
                break
            subprocess.run([sys.executable, "-c", ""], check=True)
        assert not os.path.exists(f"/proc/{int(ran.stdout)}")


def test_the_child_loads_no_torch():
    code = "import sys, hyperreg.imaging.files, hyperreg.imaging.guarded\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
