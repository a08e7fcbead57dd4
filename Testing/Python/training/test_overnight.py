"""A training over night: it is found by another window, cancelled, interrupted, and says what came of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stand_in_training
from cli_pair import run as run_program

from hyperreg.cli.console import ExitCode
from hyperreg.errors import InputError
from hyperreg.overnight import CANCELLED, INTERRUPTED, LOG, Overnight, State
from hyperreg.view.learning import LearningControls

PATIENCE_S = 120
PROGRAM = (str(Path(stand_in_training.__file__)),)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Overnight]:
    found = Overnight(tmp_path / "state", sys.executable, PROGRAM)
    for name in ("heads", "quick", "few", "broken"):
        (tmp_path / name).mkdir()
    yield found
    found.cancel()
    until(lambda: not found.running)


def test_it_is_found_by_another_window_and_cancelled_there(window: Overnight, tmp_path: Path) -> None:
    assert window.look() == State() and not window.running
    window.start(tmp_path / "heads", "brain", 8)
    until(lambda: window.look().text.startswith("Step"))
    assert window.look().text.endswith("of brain, 480 minutes")
    other = Overnight(tmp_path / "state", sys.executable, PROGRAM)
    assert other.running and other.look().images == str(tmp_path / "heads")
    for one in (window, other):
        with pytest.raises(InputError, match="running already"):
            one.start(tmp_path / "heads", "brain", 8)
    other.cancel()
    until(lambda: not window.running)
    assert other.look() == window.look() and window.look().text == CANCELLED and window.look().ended
    window.cancel()


def test_one_that_was_killed_says_that_it_can_go_on(window: Overnight, tmp_path: Path) -> None:
    window.start(tmp_path / "heads", "brain", 8)
    until(lambda: window.look().pid != 0)
    os.kill(window.look().pid, signal.SIGKILL)
    until(lambda: not window.running)
    for one in (window, Overnight(tmp_path / "state", sys.executable, PROGRAM)):
        assert (one.look().text, one.look().ended) == (INTERRUPTED, True)
    window.start(tmp_path / "quick", "brain", 8)
    until(lambda: not window.running)
    assert (window.look().text, window.look().fraction) == ("Nothing was gained.", 1.0)


@pytest.mark.parametrize(
    ("folder", "words"), [("few", "There are 3 images; 10 are needed."), ("broken", "hyperreg: PyTorch is missing.")]
)
def test_what_is_wrong_is_said(window: Overnight, tmp_path: Path, folder: str, words: str) -> None:
    window.start(tmp_path / folder, "brain", 8)
    until(lambda: not window.running)
    assert (window.look().text, window.look().ended) == (words, True)
    assert (tmp_path / "state" / LOG).is_file()


def test_the_command_tells_why_it_did_not_begin(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    options = "--images", str(tmp_path / "few"), "--state", str(tmp_path / "state")
    assert run_program("train", "registration", *options) == ExitCode.INPUT
    state = Overnight(tmp_path / "state").look()
    assert state.ended and "has 0 images" in state.text


@pytest.fixture
def page(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setenv("HYPERREG_MODELS", str(tiny_models))
    entries: dict[str, Any] = {"learn_images": "", "learn_hours": "8", "learn_running": False, "error": ""}
    return SimpleNamespace(**entries, told=[], offered=0)


def test_the_page_starts_it_and_offers_what_came_of_it(
    window: Overnight, page: SimpleNamespace, tmp_path: Path
) -> None:
    def offer() -> None:
        page.offered += 1

    controls = LearningControls(page, window, offer, page.told.append)
    assert controls.is_possible and "tiny-untrained" in [entry["value"] for entry in page.learn_models]
    page.learn_images, page.learn_model = str(tmp_path / "quick"), "tiny-untrained"
    for name, wrong, words in (
        ("learn_hours", "many", "how many hours"),
        ("learn_hours", float("nan"), "how many hours"),
        ("learn_model", "none", "Choose the model"),
        ("learn_images", str(tmp_path / "nowhere"), "is no folder"),
    ):
        right = getattr(page, name)
        setattr(page, name, wrong)
        controls.start()
        assert words in page.told.pop() and not window.running
        setattr(page, name, right)
    controls.start()
    assert page.learn_running and page.learn_text
    until(lambda: not window.running)
    controls._looked_at = 0.0
    controls.step()
    assert (page.learn_running, page.learn_text, page.offered, page.told) == (False, "Nothing was gained.", 1, [])


def test_a_page_that_keeps_nothing_offers_none(page: SimpleNamespace) -> None:
    controls = LearningControls(page, None, lambda: None, page.told.append)
    controls.start(".")
    controls.cancel()
    controls.step()
    assert not controls.is_possible and not page.learn_running
