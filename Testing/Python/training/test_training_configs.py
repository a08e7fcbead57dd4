"""The configurations of the bundled models: each can be read, and tells of the model that it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hyperreg.training
from hyperreg.errors import FileError, InputError
from hyperreg.segmentation.catalogue import list_models
from hyperreg.training.config import read_config
from hyperreg.training.segmentation_config import read_segmentation_config

CONFIGS = sorted((Path(hyperreg.training.__file__).parent / "configs").glob("*.yaml"))
SEGMENTATION = [path for path in CONFIGS if "structures:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SEGMENTATION, ids=lambda path: path.stem)
def test_segmentation_configurations_are_valid(path: Path) -> None:
    config = read_segmentation_config(path)
    assert path.stem == config.name.replace("-", "_")
    if config.synthesis is not None:
        assert set(np.unique(config.class_table)) - {0} == set(range(1, config.classes))
    # Both sides of a structure may have one colour, as FreeSurfer's have.
    assert len({(structure.colour, structure.side) for structure in config.structures}) == len(config.structures)
    assert all(structure.terminology is not None for structure in config.structures)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in SEGMENTATION], ids=lambda path: path.stem)
def test_registration_configurations_are_valid(path: Path) -> None:
    assert path.stem == read_config(path).name.replace("-", "_")


def test_bundled_models_are_what_their_configurations_describe() -> None:
    configs = {config.name: config for config in map(read_segmentation_config, SEGMENTATION)}
    bundled = [card for card in list_models() if "Resources" in card.folder.parts]
    for card in bundled:
        config = configs[card.name]
        assert [s.name for s in card.structures] == [s.name for s in config.structures]
        assert card.network == config.network
        assert card.spacing_mm == tuple(config.grid["spacing_mm"])
        assert card.card["seed"] == config.seed
        # A run may be stopped when its learning rate has all but ended.
        recipe = card.card["recipe"]
        minutes = 0.0 if config.minutes is None else 60 * recipe["hours"] / config.minutes
        assert max(recipe["steps_done"] / config.steps, minutes) >= 0.9, "the card is of an unfinished run"
        assert card.memory_gb is not None and "cpu" in card.seconds
        assert card.weights.stat().st_size <= 8e6


def test_a_configuration_that_is_no_text_or_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    (config,) = [path for path in CONFIGS if path.name == "brain.yaml"]
    text = config.read_text(encoding="utf-8")
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(text.replace("title: ", "title: \xe4", 1).encode("latin-1"))
    with pytest.raises(InputError, match="is no YAML"):
        read_config(broken)
    broken.write_text(f"{text}\nname: another\n", encoding="utf-8")
    with pytest.raises(InputError, match="'name' is given twice"):
        read_config(broken)
    broken.write_text(text, encoding="utf-16")
    assert read_config(broken).name == read_config(config).name
    with pytest.raises(FileError, match="cannot be read"):
        read_config(tmp_path)
