"""Fixtures that all tests share: real data where it is at hand, a tiny model, no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("MPLBACKEND", "Agg")
# Two threads, as the smallest machine has: more make the tests slower there and their times incomparable.
os.environ.setdefault("OMP_NUM_THREADS", "2")

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
TINY_MODEL = "tiny-untrained"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images beside the repository, not part of it: tests that need it are skipped without."""
    if not REAL_DATA.is_dir():
        pytest.skip("skipped: no real data")
    return REAL_DATA


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds one tiny, untrained model."""
    from hyperreg.registration.model import save_untrained

    folder = tmp_path_factory.mktemp("models")
    save_untrained(folder, TINY_MODEL)
    return folder


@pytest.fixture
def tiny_model(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny, untrained model that the catalogue finds, in this process and in its children."""
    monkeypatch.setenv("HYPERREG_MODELS", str(tiny_models))
    return TINY_MODEL


def _library() -> dict[str, ModuleType]:
    """What reloads of the Slicer modules take anew, as it is imported now."""
    packages = ("HyperRegSlicerLib.", "SegmentationModuleLib.", "hyperreg.mrml.")
    return {name: found for name, found in sys.modules.items() if f"{name}.".startswith(packages)}


@pytest.fixture
def same_library_afterwards() -> Iterator[None]:
    """Whatever a test reloads, the next one sees and patches the library that its helpers were imported from."""
    before = _library()
    yield
    for name in _library():
        del sys.modules[name]
    sys.modules.update(before)
    for name, found in before.items():
        package, _dot, part = name.rpartition(".")
        if package:
            setattr(sys.modules[package], part, found)


@pytest.fixture(scope="session", autouse=True)
def no_proxies() -> Iterator[None]:
    """Tests talk to this machine only; a proxy between a test and its own server would break or slow it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        yield


_hooks = [sys.excepthook]


def _keep_excepthook() -> None:
    if sys.excepthook.__module__.partition(".")[0] == "typer":
        sys.excepthook = _hooks[0]
    _hooks[0] = sys.excepthook


@pytest.fixture(autouse=True)
def unchanged_excepthook() -> Iterator[None]:
    """The command line's library sets its own hook for unhandled exceptions, which must not take the host's place."""
    _keep_excepthook()
    yield
    _keep_excepthook()
