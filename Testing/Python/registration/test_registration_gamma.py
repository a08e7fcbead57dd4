"""A second hyperparameter, γ: declared by the card, chosen in the session; models of λ alone stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_pair import run, write_pair

from hyperreg.catalogue import CARD
from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.files import read_volume
from hyperreg.registration.anchors import difference_mm
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.model import hyperparameter_entries, save_untrained
from hyperreg.registration.session import LiveSession

DEFAULTS = {"lambda": 0.3, "gamma": 0.6}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gamma_models")
    save_untrained(folder, "both", defaults=DEFAULTS)
    save_untrained(folder, "smoothness-only")
    return folder


@pytest.fixture(scope="module")
def session(models: Path, tmp_path_factory: pytest.TempPathFactory) -> LiveSession:
    files = write_pair(tmp_path_factory.mktemp("pair"))
    live = LiveSession(read_card(models / "both"), "cpu")
    live.prepare(read_volume(files.fixed), read_volume(files.moving), initial="com")
    return live


def test_the_card_lists_both_with_what_each_means(models: Path) -> None:
    card = read_card(models / "both")
    assert [(h.name, h.default) for h in card.hyperparameters] == [("lambda", 0.3), ("gamma", 0.6)]
    assert all(h.title and h.description for h in card.hyperparameters)
    assert card.other_defaults == {"gamma": 0.6} and card.default_lambda == 0.3
    assert read_card(models / "smoothness-only").other_defaults == {}


def test_a_card_without_descriptions_is_read_and_one_without_lambda_first_is_not(models: Path) -> None:
    path = models / "both" / CARD
    text = path.read_text(encoding="utf-8")
    card = json.loads(text)
    try:
        for entry in card["hyperparameters"]:
            del entry["description"]
        path.write_text(json.dumps(card), encoding="utf-8")
        assert read_card(models / "both").hyperparameters[1].description == ""
        card["hyperparameters"].reverse()
        path.write_text(json.dumps(card), encoding="utf-8")
        with pytest.raises(WeightsError, match="first hyperparameter"):
            read_card(models / "both")
    finally:
        path.write_text(text, encoding="utf-8")


def test_choosing_gamma_changes_the_field_and_forgets_anchors(session: LiveSession) -> None:
    assert session.values == {"gamma": 0.6}
    before = session.field(0.2)
    session.anchors.add(0.2, before)
    session.choose({"gamma": 0.6})
    assert len(session.anchors) == 1, "nothing changed, nothing is forgotten"
    session.choose({"gamma": 0.1})
    assert session.values == {"gamma": 0.1} and len(session.anchors) == 0
    mean, _ = difference_mm(before.forward, session.field(0.2).forward)
    assert mean > 0.01
    session.choose({"gamma": 0.6})
    np.testing.assert_array_equal(session.field(0.2).forward.array, before.forward.array)


@pytest.mark.parametrize("values", [{"delta": 0.5}, {"lambda": 0.5}, {"gamma": 1.2}, {"gamma": float("nan")}])
def test_other_names_and_values_are_refused_and_nothing_changes(session: LiveSession, values: dict[str, float]) -> None:
    before = dict(session.values)
    with pytest.raises(InputError):
        session.choose(values)
    assert session.values == before


def test_a_model_of_lambda_alone_has_nothing_to_choose(models: Path) -> None:
    live = LiveSession(read_card(models / "smoothness-only"), "cpu")
    assert live.values == {}
    live.choose({})
    with pytest.raises(InputError, match="no hyperparameter 'gamma'"):
        live.choose({"gamma": 0.5})


def test_only_known_hyperparameters_can_be_declared() -> None:
    for defaults in ({"gamma": 0.5}, {"gamma": 0.5, "lambda": 0.3}, {"lambda": 0.3, "delta": 0.1}, {}):
        with pytest.raises(WeightsError, match="lambda and then"):
            hyperparameter_entries(defaults)


def test_the_command_line_passes_gamma_on_and_reports_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(models))
    files = write_pair(tmp_path)
    report = files.results / "report.json"
    shared = ["register", *files.images, "--init", "com", "--quiet", "--report", str(report)]
    assert run(*shared, "--model", "both", "--gamma", "0.25") == 0
    assert json.loads(report.read_text(encoding="utf-8"))["values"] == {"gamma": 0.25}
    assert run(*shared, "--model", "both") == 0
    assert json.loads(report.read_text(encoding="utf-8"))["values"] == {"gamma": 0.6}
    assert run(*shared, "--model", "smoothness-only", "--gamma", "0.25") == 2
    assert "no hyperparameter 'gamma'" in capsys.readouterr().err
