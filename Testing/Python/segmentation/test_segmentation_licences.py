"""Licences of models that were added: shown before first use, and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_pair import run
from segmentation_bench import OBLIQUE, eggs, make_card

from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError
from hyperreg.imaging.files import write_volume
from hyperreg.segmentation import licences
from hyperreg.segmentation.catalogue import SegmentationCard


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegmentationCard:
    """A model in the user's own folder."""
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    return make_card(tmp_path / "models", licence="CC BY-NC 4.0")


def test_acceptance_is_remembered_for_these_weights_only(card: SegmentationCard, tmp_path: Path) -> None:
    assert not licences.is_accepted(card)
    licences.accept(card)
    assert licences.is_accepted(card)
    record = json.loads((tmp_path / "models" / licences.RECORD).read_text(encoding="utf-8"))
    entry = record[card.sha256]
    assert (entry["model"], entry["licence"]) == ("bands", "CC BY-NC 4.0")
    assert entry["accepted"].endswith("+00:00")
    structures = [*card.card["structures"]]
    newer = make_card(
        tmp_path / "models", name="newer", structures=structures[:1], output={"channels": 2, "activation": "softmax"}
    )
    assert not licences.is_accepted(newer)
    licences.forget(card)
    assert not licences.is_accepted(card)


def test_models_that_come_with_hyperreg_are_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    assert licences.is_accepted(make_card(tmp_path / "Resources"))
    assert not (tmp_path / "models").exists()


def test_the_text_beside_the_weights_is_what_is_shown(card: SegmentationCard) -> None:
    assert licences.licence_of(card) == "Licence: CC BY-NC 4.0"
    (card.folder / licences.LICENCE).write_text("All of it.", encoding="utf-8")
    assert licences.licence_of(card) == "All of it."


def test_a_damaged_record_asks_again_and_an_unwritable_one_is_told(card: SegmentationCard, tmp_path: Path) -> None:
    licences.accept(card)
    path = tmp_path / "models" / licences.RECORD
    path.write_text("[1", encoding="utf-8")
    assert not licences.is_accepted(card)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileError, match="accepted licences"):
        licences.accept(card)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_volume(eggs(OBLIQUE), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def test_segment_refuses_until_the_licence_is_accepted(
    card: SegmentationCard, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("segment", str(image), "--model", "bands", "--device", "cpu", "--out", str(tmp_path / "s.nii.gz"))
    assert run(*command) == ExitCode.INPUT
    told = " ".join(capsys.readouterr().err.split())
    assert "(CC BY-NC 4.0) was not accepted yet" in told
    assert "--accept-licence" in told
    assert not (tmp_path / "s.nii.gz").exists()
    assert run(*command, "--accept-licence") == 0
    (tmp_path / "s.nii.gz").unlink()
    assert run(*command) == 0
    assert (tmp_path / "s.nii.gz").is_file()


def test_segment_asks_at_a_terminal(
    card: SegmentationCard, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert run("segment", str(image), "--model", "bands", "--device", "cpu") == ExitCode.CANCELLED
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    monkeypatch.setattr("typer.confirm", lambda _: True)
    assert run("segment", str(image), "--model", "bands", "--device", "cpu") == 0
    assert licences.is_accepted(card)
