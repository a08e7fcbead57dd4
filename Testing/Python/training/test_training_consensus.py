"""From the results of a cohort to a segmentation model in the catalogue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fusion_toy import ball, oblique_grid

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import read_card
from hyperreg.segmentation.session import Segmenter
from hyperreg.training.consensus import ConsensusTraining, train_on_consensus, write_config

SMALL = ConsensusTraining("balls", spacing_mm=2.0, window=16, filters=4, steps=2)


def results_in(folder: Path, count: int = 2) -> Path:
    grid = oblique_grid()
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 0.1, grid.shape)
        image, labels = folder / f"case{number}.nii.gz", folder / f"case{number}_labels.nii.gz"
        write_volume(Volume((ball(grid) + noise).astype(np.float32), grid.ijk_to_ras), image)
        write_volume(Volume(ball(grid, label=300), grid.ijk_to_ras), labels)
        rows = [{"label": 300, "name": "Ball", "volume_ml": 2.0}, {"label": 7, "name": "Nothing", "volume_ml": 0.0}]
        report = {"target": {"file": str(image)}, "outputs": {"segmentation": str(labels)}, "structures": rows}
        (folder / f"case{number}_report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def test_consensuses_become_a_model_that_segments(tmp_path: Path) -> None:
    results = results_in(tmp_path)
    folder = train_on_consensus(results, tmp_path / "model", SMALL)
    card = read_card(folder)
    assert (card.name, [(s.label, s.name) for s in card.structures]) == ("balls", [(300, "Ball")])
    assert "2 images" in card.description
    grid = oblique_grid()
    found = Segmenter(card, "cpu").segment({"image": Volume(ball(grid).astype(np.float32) + 1.5, grid.ijk_to_ras)})
    assert found.labels.grid.matches(grid)
    assert set(np.unique(found.labels.array)) <= {0, 300}


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result of a cohort"):
        write_config(tmp_path, tmp_path / "model", SMALL)
    results = results_in(tmp_path, 1)
    (tmp_path / "case0_labels.nii.gz").unlink()
    with pytest.raises(FileError, match="case0_labels"):
        write_config(results, tmp_path / "model", SMALL)
    (tmp_path / "case0_report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileError, match="case0_report"):
        write_config(results, tmp_path / "model", SMALL)
