"""pytest fixtures for tests of Slicer modules: import ``host`` and the others from here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .host import Host, start


@pytest.fixture
def host() -> Iterator[Host]:
    """The host with an empty scene and no scripted modules. Fails the test if a slot raised and nobody looked.

    A test that expects exceptions in slots clears ``host.exceptions`` after looking at them.
    """
    running = start()
    running.reset()
    yield running
    unseen = list(running.exceptions)
    running.reset()
    assert not unseen, f"exceptions in slots: {unseen}"


@pytest.fixture
def scene(host: Host) -> Any:
    """The (empty) MRML scene of the host."""
    import slicer

    return slicer.mrmlScene


@pytest.fixture
def qt(host: Host) -> Any:
    """The module ``qt``."""
    import qt as module

    return module


@pytest.fixture
def ctk(host: Host) -> Any:
    """The module ``ctk``."""
    import ctk as module

    return module
