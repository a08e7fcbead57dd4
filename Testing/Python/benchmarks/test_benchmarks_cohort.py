"""What the benchmark of cohorts makes of its measurements."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cohort
from benchmarks.cohort import overlap, pairs_tables, template_table
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import Volume


def test_overlap_is_the_mean_dice_of_structures_over_all_pairs() -> None:
    first, second, third = (np.zeros((4, 4, 1), dtype=np.int16) for _ in range(3))
    first[:2], second[:1], third[:2] = 1, 1, 1
    first[3], second[3] = 9, 9
    # First and second: 2/3 and 1. First and third: 1, and a structure that only one has. Second and third: 2/3.
    assert overlap([first, second, third]) == pytest.approx(((2 / 3 + 1) / 2 + 1 + 2 / 3) / 3)


def test_ratios_and_what_large_cohorts_cost() -> None:
    def row(place: str, wall: float) -> dict[str, Any]:
        return {
            "place": place,
            "pairs": 4,
            "wall_s": wall,
            "cpu_s": 18.0,
            "read_mb": 10.0,
            "written_mb": 20.0,
            "load": 1.0,
        }

    rows = [row("one", 40.0), row("two", 25.0), {"place": "ray", "note": "not installed"}]
    lines = pairs_tables(rows).splitlines()
    assert lines[3] == "| two | 4 | 25 | 1.60 | 18.0 | 1.0 |"
    assert lines[4].startswith("| ray | not installed |")
    # 100,000 pairs of 18 CPU-s are 500 CPU-h; 10 MB read and 20 MB written each.
    assert lines[9] == "| 100,000 | 500 | 250.0 | 7.8 | 0.5 | 1000 | 2000 |"


def test_templates_stand_side_by_side() -> None:
    rows = [{"method": "ours", "dice": 0.5, "cpu_s": 60.0, "wall_s": 90.0}, {"method": "ants", "note": "none"}]
    assert template_table(rows).splitlines()[2:] == ["| ours | 0.500 | 60 | 90 |", "| ants | none | | |"]


def test_labels_are_carried_onto_antspyx_s_template_by_its_own_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes on an oblique grid, each moved by so many voxels: the maps that move them back lay them on each other."""
    turned = np.array([[1.6, -0.6, 0.0], [0.8, 1.2, 0.0], [0.0, 0.0, 2.5]])
    place = np.eye(4)
    place[:3, :3] = turned
    shifts = {name: np.array([number, -number, number // 2]) for number, name in enumerate(cohort.SUBJECTS)}
    (tmp_path / "brain_oasis").mkdir()
    monkeypatch.setattr(cohort, "DATA", tmp_path)
    for name, shift in shifts.items():
        labels = np.zeros((24, 24, 16), np.uint8)
        (i, j, k), size = 8 + shift, 6
        labels[i : i + size, j : j + size, k : k + size] = 3
        for path, array in zip(cohort.files_of(name), (100 * labels, labels), strict=True):
            write_volume(Volume(array.astype(np.float32 if array is not labels else np.uint8), place), path)
    asked: list[Any] = []

    def registration(fixed: Any, moving: Any, kind: str, outprefix: str, random_seed: int) -> dict[str, list[str]]:
        asked.append((fixed, kind, random_seed))
        matrix = np.eye(4)
        matrix[:3, 3] = turned @ shifts[Path(outprefix).name]
        write_transform(Transform((matrix,)), Path(f"{outprefix}.tfm"))
        return {"fwdtransforms": [f"{outprefix}.tfm"]}

    ants: Any = types.ModuleType("ants")
    ants.__spec__ = ModuleSpec("ants", None)
    ants.from_numpy = lambda array, *_place: array
    ants.build_template = lambda image_list, random_seed: f"mean of {len(image_list)}"
    ants.registration = registration
    monkeypatch.setitem(sys.modules, "ants", ants)
    row = cohort.ants_template()
    assert row["dice"] == pytest.approx(1.0)
    assert asked == [("mean of 6", "SyN", 1)] * 6
    # Where they lie without these maps, they overlap little.
    assert overlap(cohort.on_template(Volume(labels, place).grid, dict.fromkeys(shifts, Transform()))) < 0.5
