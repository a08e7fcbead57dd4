"""The published schema of model cards: cards that are there fit it, and what it refuses HyperReg's readers refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from segmentation_bench import CORE, SHELL, card_entries, make_card

import hyperreg
from hyperreg.catalogue import CARD as FILE
from hyperreg.errors import WeightsError
from hyperreg.registration import catalogue as registration
from hyperreg.registration.model import save_untrained
from hyperreg.schema import CARD, schema_text
from hyperreg.schema import FILE as SCHEMA
from hyperreg.segmentation import catalogue as segmentation


def test_the_published_file_is_up_to_date_and_explains_itself() -> None:
    path = Path(hyperreg.__file__).parent / SCHEMA
    assert path.read_text(encoding="utf-8") == schema_text(), "python -m hyperreg.schema > hyperreg/card.schema.json"
    schema = json.loads(schema_text())
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["discriminator"]["mapping"]) == {segmentation.KIND, registration.KIND}


def test_every_card_in_the_repository_fits(repository: Path) -> None:
    paths = sorted((repository / "Resources" / "Models").glob(f"*/{FILE}"))
    assert len(paths) >= 2
    for path in paths:
        CARD.validate_json(path.read_text(encoding="utf-8"))


def test_cards_that_hyperreg_writes_fit(tmp_path: Path) -> None:
    more = {
        "memory_gb": 2.5, "seconds": {"cpu": 40, "cuda": 1.5}, "citation": "Somebody, 2020",
        "ensemble": {"weights-2.safetensors": "0" * 64}, "trained_on": "anything else is welcome",
    }  # fmt: skip
    CARD.validate_python(dict(make_card(tmp_path, **more).card))
    CARD.validate_python(dict(save_untrained(tmp_path).card))


WRONG: list[dict[str, Any]] = [
    {"inputs": []},
    {"structures": []},
    {"structures": [{**SHELL, "label": 0}]},
    {"structures": [{**SHELL, "colour": [0, 0, 300]}]},
    {"structures": [{**SHELL, "channel": -1}, CORE]},
    {"structures": [{**SHELL, "terminology": {"category": ["SCT", "1", "a~b"], "type": ["SCT", "2", "c"]}}, CORE]},
    {"modality": "XR"},
    {"output": {"channels": 3, "activation": "tanh"}},
    {"intensities": {"method": "guess"}},
    {"grid": {"axes": "up", "spacing_mm": [1, 1, 1], "window": [32, 32, 32]}},
    {"grid": {"axes": "ras", "spacing_mm": [0, 1, 1], "window": [32, 32, 32]}},
    {"grid": {"axes": "ras", "spacing_mm": [1, 1, 1], "window": [32, 32]}},
    {"grid": {"axes": "ras", "spacing_mm": [1, 1, 1], "window": [32, 32, 32], "flips": [3]}},
    {"memory_gb": 0},
    {"seconds": {"abacus": 1}},
    {"hyperparameters": [{"name": "lambda", "title": "λ", "default": 2}]},
    {"postprocessing": {"keep": "some"}},
    {"postprocessing": {"share": 2}},
    {"postprocessing": {"reach_mm": -1}},
    {"postprocessing": {"size_mm": 3}},
    {"ensemble": {"../weights.safetensors": "0" * 64}},
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: next(iter(change)))
def test_what_the_schema_refuses_the_reader_refuses(tmp_path: Path, change: dict[str, Any]) -> None:
    good = {**card_entries(), "sha256": "0" * 64}
    CARD.validate_python(good)
    with pytest.raises(ValidationError):
        CARD.validate_python({**good, **change})
    (tmp_path / FILE).write_text(json.dumps({**good, **change}), encoding="utf-8")
    with pytest.raises(WeightsError, match="damaged"):
        segmentation.read_card(tmp_path)
