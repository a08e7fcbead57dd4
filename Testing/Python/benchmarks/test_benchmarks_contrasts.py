"""The measurement of the contrast detection: the table, and the balance of a pair with one contrast turned over."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.contrasts import Row, measure, table, write
from benchmarks.registration.case import Case
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import head_phantom_pair


def test_a_wrong_decision_is_named(tmp_path: Path) -> None:
    rows = [Row("one", False, 0.97), Row("two", True, -0.2), Row("odd", True, 0.95)]
    lines = table(rows).splitlines()
    assert lines[2] == "| one | the same | 0.970 | the same |  |"
    assert lines[3] == "| odd | different | 0.950 | the same | WRONG |"
    assert lines[4] == "| two | different | -0.200 | different |  |"
    assert "Above 0.9" in write(rows, tmp_path)
    assert len((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()) == 4


def test_an_inverted_image_is_another_contrast(tmp_path: Path) -> None:
    pair = head_phantom_pair((40, 48, 44))
    inverted = Volume(np.where(pair.moving.array > 0, pair.moving.array.max() - pair.moving.array, 0),
                      pair.moving.ijk_to_ras, "inverted")  # fmt: skip
    for name, volume in (("fixed", pair.fixed), ("moving", pair.moving), ("inverted", inverted)):
        write_volume(volume, tmp_path / f"{name}.nii.gz")
    fixed, moving, other = (tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving", "inverted"))
    same = measure(Case("same", "made", fixed, moving), tmp_path / "out")
    different = measure(Case("different", "made", fixed, other, cross=True), tmp_path / "out")
    assert not same.taken_for_different and not same.different
    assert different.taken_for_different and different.different
    assert measure(Case("same", "made", fixed, moving), tmp_path / "out") == same
