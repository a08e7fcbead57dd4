"""Cards of segmentation models: what is read of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_pair import run
from segmentation_bench import CORE, SHELL, card_entries, make_card

from hyperreg import catalogue as models
from hyperreg import doctor
from hyperreg.catalogue import CARD
from hyperreg.cli.console import ExitCode
from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.structures import Code, Terminology
from hyperreg.registration import catalogue as registration
from hyperreg.segmentation import catalogue
from hyperreg.segmentation.catalogue import find_model, list_models, read_card


def write(folder: Path, card: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps({"sha256": "0", **card}), encoding="utf-8")
    return folder


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = make_card(tmp_path, citation="Somebody, 2020", flips=[])
    card.check_weights()
    assert (card.name, card.modality, card.citation, card.exclusive) == ("bands", "MR", "Somebody, 2020", True)
    assert card.spacing_mm == (2.0, 2.0, 2.0)
    shell, core = card.structures
    assert (shell.label, shell.channel, shell.name, shell.colour) == (2, 1, "Outer shell", (10, 220, 30))
    assert shell.terminology == Terminology(
        Code("SCT", "123037004", "Anatomical Structure"),
        Code("SCT", "64033007", "Kidney"),
        Code("SCT", "24028007", "Right"),
    )
    assert core.terminology is not None
    assert core.terminology.modifier is None


def test_what_was_measured_of_a_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_card(tmp_path, name="plain")
    assert (plain.memory_gb, plain.seconds, plain.measured) == (None, {}, "")
    measured = make_card(
        tmp_path, name="measured", memory_gb=2.5, seconds={"cpu": 45, "cuda": 2.0}, measured="Dice 0.7"
    )
    assert (measured.memory_gb, measured.seconds) == (2.5, {"cpu": 45.0, "cuda": 2.0})
    assert measured.measured == "Dice 0.7"
    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path])
    assert run("models") == 0
    assert capsys.readouterr().out.count("needs about") == 1
    assert run("models") == 0
    assert "needs about 45 s on a CPU, 2 s on a GPU, 2.5 GB of memory" in capsys.readouterr().out


def wrong(path: str, value: object) -> tuple[str, object]:
    return path, value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        wrong("structures", []),
        wrong("structures", [SHELL, {**CORE, "label": 2}]),
        wrong("structures", [SHELL, {**CORE, "channel": 3}]),
        wrong("structures", [SHELL, {**CORE, "channel": 1}]),
        wrong("structures", [SHELL, {**CORE, "colour": [1, 2, 300]}]),
        wrong("structures", [SHELL, {**CORE, "label": 0}]),
        wrong("structures", [{**SHELL, "terminology": {"category": ["SCT", "1", "a~b"], "type": ["SCT", "2", "c"]}}]),
        wrong("inputs", []),
        wrong("inputs", [{"name": "T1", "title": "a"}, {"name": "T1", "title": "b"}]),
        wrong("output", {"channels": 2, "activation": "softmax"}),
        wrong("output", {"channels": 3, "activation": "tanh"}),
        wrong("modality", "XR"),
        wrong("intensities", {"method": "guess"}),
        wrong("grid", {"axes": "ras", "spacing_mm": [0, 1, 1], "window": [32, 32, 32]}),
        wrong("grid", {"axes": "rrs", "spacing_mm": [1, 1, 1], "window": [32, 32, 32]}),
        wrong("grid", {"axes": "ras", "spacing_mm": [1, 1, 1], "window": [32, 32]}),
        wrong("grid", {"axes": "ras", "spacing_mm": [1, 1, 1], "window": [32, 32, 32], "flips": [3]}),
        wrong("memory_gb", 0),
        wrong("temperature", 0),
        wrong("temperature", float("inf")),
        wrong("seconds", {"cpu": -1}),
        wrong("seconds", {"abacus": 1}),
        wrong("seconds", 7),
    ],
)
def test_cards_that_contradict_themselves_are_refused(tmp_path: Path, path: str, value: object) -> None:
    with pytest.raises(WeightsError, match="damaged"):
        read_card(write(tmp_path / "bad", {**card_entries(), path: value}))


@pytest.mark.parametrize("entry", ["name", "licence", "inputs", "structures", "output", "grid", "network"])
def test_incomplete_cards_are_refused(tmp_path: Path, entry: str) -> None:
    card = card_entries()
    del card[entry]
    with pytest.raises(WeightsError, match=entry):
        read_card(write(tmp_path / "bad", card))


def test_each_catalogue_lists_its_own_kind(tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_card(tmp_path)
    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path, tiny_models])
    assert [card.name for card in list_models()] == ["bands"]
    assert [card.name for card in registration.list_models()] == ["none", "tiny-untrained"]
    assert find_model("bands").folder == tmp_path / "bands"
    with pytest.raises(WeightsError, match=r"no model 'tiny-untrained'.*bands"):
        find_model("tiny-untrained")
    with pytest.raises(WeightsError, match=f"'{catalogue.KIND}'"):
        registration.read_card(tmp_path / "bands")


def test_models_lists_both_kinds(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_card(tmp_path)
    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path, tiny_models])
    assert run("models") == 0
    text = capsys.readouterr().out
    registered, segmented = text.split("Segmentation (hyperreg segment):")
    assert "none (default): None (solver alone)" in registered and "tiny-untrained" in registered
    assert "bands: bands" in segmented
    assert "structures: Outer shell, Core" in segmented
    assert "inputs (MR): image" in segmented


LIVER = {**CORE, "name": "Liver"}
SIDES = [{**SHELL, "name": "Hippocampus, left"}, {**CORE, "name": "Hippocampus, right"}]


@pytest.mark.parametrize(
    ("words", "modality", "structure", "expected"),
    [
        ("", "", "", ["belly", "head", "tumour"]),
        ("LIVER", "", "", ["belly"]),
        ("flair glioma", "", "", ["tumour"]),
        ("flair liver", "", "", []),
        ("", "mr", "", ["head", "tumour"]),
        ("", "CT", "", ["belly", "tumour"]),
        ("", "", "right hippocampus", ["head"]),
        ("", "", "left right", []),
        ("somebody", "MR", "hippo", ["head"]),
    ],
)
def test_models_are_found_by_words_modality_and_structure(
    tmp_path: Path, words: str, modality: str, structure: str, expected: list[str]
) -> None:
    flair = [{"name": "FLAIR", "title": "T2 FLAIR"}]
    cards = [
        make_card(tmp_path, name="belly", modality="CT", structures=[SHELL, LIVER]),
        make_card(tmp_path, name="head", structures=SIDES, citation="Somebody, 2020"),
        make_card(tmp_path, name="tumour", modality="any", inputs=flair, description="Glioma"),
    ]
    assert [card.name for card in catalogue.search(cards, words, modality, structure)] == expected


def test_a_modality_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="'XR' is no modality"):
        catalogue.search([], modality="XR")


def test_models_can_be_searched_on_the_command_line(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_card(tmp_path, modality="CT")
    make_card(tmp_path, name="head", structures=SIDES, citation="Somebody, 2020")
    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path, tiny_models])

    def names(*arguments: str) -> list[str]:
        assert run("models", *arguments) == 0
        text = capsys.readouterr().out
        return [name for name in ("tiny-untrained", "bands", "head") if f"{name}: " in text or f"{name} (" in text]

    assert names() == ["tiny-untrained", "bands", "head"]
    assert names("random", "weights") == ["tiny-untrained"]
    assert names("hippocampus") == ["head"]
    assert names("--modality", "CT") == ["bands"]
    assert names("--structure", "core") == ["bands"]
    assert run("models", "knee") == 0
    assert "No model fits" in capsys.readouterr().out
    assert run("models", "--modality", "XR") == ExitCode.INPUT
    capsys.readouterr()
    assert run("models", "head") == 0
    text = capsys.readouterr().out
    assert "voxels: 2 x 2 x 2 mm" in text
    assert "cite: Somebody, 2020" in text


@pytest.mark.parametrize("harm", ["weights", "card"])
def test_doctor_looks_at_segmentation_models_too(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    card = make_card(tmp_path)
    for module in (models, doctor):
        monkeypatch.setattr(module, "model_folders", lambda: [tmp_path, tiny_models])
    checks = {check.subject: check for check in doctor.diagnose().checks}
    assert checks["model bands"].state is doctor.State.OK
    path = card.weights if harm == "weights" else card.folder / CARD
    path.write_bytes(path.read_bytes().replace(b'"window"', b'"wind"') if harm == "card" else b"x")
    faults = doctor.diagnose().faults
    assert [check.subject for check in faults] == ["model bands"]


def test_models_of_one_s_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(models.MODELS_VARIABLE, raising=False)
    assert models.model_folders()[0] == models.own_models() == tmp_path / "hyperreg" / "models"
    make_card(models.own_models())
    assert find_model("bands").folder == tmp_path / "hyperreg" / "models" / "bands"
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path / "chosen"))
    assert models.model_folders()[0] == models.own_models() == tmp_path / "chosen"
