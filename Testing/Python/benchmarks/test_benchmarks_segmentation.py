"""The segmentation benchmark: which manual labels make up a structure, thick slices, figures, tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segmentation_bench import SHELL

from benchmarks.readme import replace_section
from benchmarks.segmentation import brains, few_labels
from benchmarks.segmentation.calibration import judged, reliability
from benchmarks.segmentation.measure import agreement
from benchmarks.segmentation.published import with_published
from benchmarks.segmentation.report import few_labels_table, mean_dice, tables, whole_table, write_report
from benchmarks.segmentation.structures import (
    LEFT,
    MANUAL,
    NUMBERS,
    RIGHT,
    SUBCORTICAL,
    found_structures,
    manual_structures,
    wrong_side,
)
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.model import new_card, save_untrained

# A word that the name of every label of a structure has in label_information.csv; cortex: gyri, and the rest of it.
WORDS = {
    "Cerebral white matter": "Cerebral White Matter", "Lateral ventricle": "Vent", "Thalamus": "Thalamus",
    "Cerebellar white matter": "Cerebellum White Matter", "Cerebellar cortex": "Cerebell", "Caudate nucleus": "Caudate",
    "Putamen": "Putamen", "Globus pallidus": "Pallidum", "Third ventricle": "3rd", "Fourth ventricle": "4th",
    "Brain stem": "Brain Stem", "Hippocampus": "Hippocampus", "Amygdala": "Amygdala",
    "Nucleus accumbens": "Accumbens", "Ventral diencephalon": "Ventral DC",
}  # fmt: skip


def card_of(folder: Path, *names: str) -> SegmentationCard:
    structures = [{**SHELL, "label": 2 * n, "channel": n, "name": name} for n, name in enumerate(names, start=1)]
    return save_untrained(folder, new_card("toy", structures))


def test_both_sides_of_a_structure_are_compared_together(tmp_path: Path) -> None:
    putamen, cortex = NUMBERS["Putamen"], NUMBERS["Cerebral cortex"]
    manual = np.array([[0, 57, 58, 100], [207, 43, 44, 69]])
    white = NUMBERS["Cerebral white matter"]
    assert manual_structures(manual).tolist() == [[0, putamen, putamen, cortex], [cortex, cortex, white, 0]]
    card = card_of(tmp_path, "Left putamen", "Cerebrospinal fluid", "Right putamen", "Cerebral cortex")
    found = np.array([0, 2, 4, 6, 8])
    assert found_structures(found, card).tolist() == [0, putamen, 0, putamen, cortex]


def test_few_labels_are_compared_patient_by_patient_with_an_interval(tmp_path: Path) -> None:
    def training(variant: str, seed: int, *dice: float) -> dict[str, Any]:
        patients = {f"pt{n}": {"Mandible": {"dice": value}} for n, value in enumerate(dice)}
        return {
            "part": "few-labels", "case": f"{variant}, {seed}", "model": None, "version": "training",
            "variant": variant, "count": 8, "seed": seed, "training_cpu_s": 60.0 + seed,
            "regions": patients,
        }  # fmt: skip

    rows = [
        training(few_labels.PLAIN, 0, 0.5, 0.6), training(few_labels.BRANCH, 0, 0.6, 0.7),
        training(few_labels.PLAIN, 1, 0.4, 0.5), training(few_labels.BRANCH, 1, 0.5, 0.6),
        training(few_labels.PLAIN, 2, 0.0, 0.0),  # its counterpart is not there yet
    ]  # fmt: skip
    line = few_labels_table(rows).splitlines()[-1]
    assert line == "| 8 | SegResNet; SegResNet with VAE | 2 | 0.500 | 0.600 | +10.0 (+10.0 to +10.0) | 60 and 60 |"
    write_report(rows, tmp_path)
    assert (tmp_path / "few-labels.png").is_file()
    published = with_published([], tmp_path / "results.csv")
    assert few_labels_table(published).splitlines()[-1] == line, "from what is published as from what was measured"
    low, high = few_labels.interval(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert low == 0.0 and high == 1.0, "both patients and trainings are drawn anew"


def test_what_is_found_on_the_wrong_side_is_counted(tmp_path: Path) -> None:
    card = card_of(tmp_path, "Left putamen", "Right putamen", "Third ventricle", "Left cerebral cortex")
    # Right, right, left; the third ventricle has no side; a voxel that is no putamen does not count; left cortex.
    manual = np.array([57, 57, 58, 4, 57, 101])
    found = np.array([4, 2, 2, 6, 0, 8])
    assert wrong_side(found, manual, card) == pytest.approx(1 / 4)
    assert wrong_side(found, manual, card_of(tmp_path / "both", "Putamen")) is None


def test_no_manual_label_belongs_to_two_structures() -> None:
    numbers = [number for labels in MANUAL.values() for number in labels]
    assert len(numbers) == len(set(numbers))
    assert set(SUBCORTICAL) < set(MANUAL)


def test_the_numbers_are_those_of_the_label_table(real_data: Path) -> None:
    with (real_data / "brain_oasis" / "label_information.csv").open(encoding="utf-8") as stream:
        names = {int(row["Label Number"]): row["Label Name"] for row in csv.DictReader(stream)}
    for structure, word in WORDS.items():
        assert all(word in names[number] for number in MANUAL[structure]), structure
    assert all("Exterior" in names[n] or n >= 100 for n in MANUAL["Cerebral cortex"])
    for side, numbers in (("Right", RIGHT), ("Left", LEFT)):
        assert all(names[number].startswith(side) for number in numbers if number in names)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_become_thick_along_the_body(axis: int) -> None:
    directions = np.roll(np.eye(3), axis - 2, axis=1)  # the axis that runs along S is `axis`
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = (5, -3, 11)
    labels = np.zeros((7, 7, 7), np.int16)
    np.moveaxis(labels, axis, 0)[2:4] = 57  # two of the first three slices' third, one of the next three
    image = np.moveaxis(np.broadcast_to(np.arange(7.0)[:, None, None], (7, 7, 7)), 0, axis).copy()
    thick, mapped = brains.thickened(Volume(image, affine), Volume(labels, affine), 3)
    assert thick.array.shape[axis] == 2
    np.testing.assert_allclose(np.moveaxis(thick.array, axis, 0)[:, 0, 0], [1.0, 4.0])
    # The middle of the first thick slice is that of the second thin one.
    index = np.zeros(3)
    index[axis] = 1
    np.testing.assert_allclose(thick.grid.to_ras([0, 0, 0]), Volume(image, affine).grid.to_ras(index))
    np.testing.assert_allclose(np.sort(thick.spacing), [1, 1, 3])
    assert np.unique(np.moveaxis(mapped.array, axis, 0)[0]).tolist() == [0]
    np.moveaxis(labels, axis, 0)[1] = 57
    again = brains.thickened(Volume(image, affine), Volume(labels, affine), 3)[1]
    assert np.unique(np.moveaxis(again.array, axis, 0)[0]).tolist() == [NUMBERS["Putamen"]]


def test_agreement_is_dice_and_distance() -> None:
    one, two = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    one[2:6, 2:6, 2:6] = two[3:7, 2:6, 2:6] = 4
    found = agreement(one, two, [(4, "Putamen"), (5, "Thalamus")], (2.0, 1.0, 1.0))
    assert list(found) == ["Putamen"]
    assert found["Putamen"]["dice"] == pytest.approx(0.75)
    assert found["Putamen"]["hd95_mm"] == pytest.approx(2.0)


def test_the_calibration_error_is_how_far_probabilities_are_from_the_truth() -> None:
    # Channels: background, left and right of structure 1, structure 2.
    parts = np.array([0, 1, 1, 2])
    probabilities = np.array(
        [[0.1, 0.9, 0.3, 0.8], [0.4, 0.05, 0.1, 0.1], [0.45, 0.03, 0.1, 0.1], [0.05, 0.02, 0.5, 0]]
    )
    sure, right = judged(probabilities.astype(np.float32), parts, np.array([1, 0, 1, 2]))
    # The second voxel is background for both and does not count; the last one was missed.
    np.testing.assert_allclose(sure, [0.85, 0.5, 0.8], rtol=1e-6)
    assert right.tolist() == [True, False, False]
    figures = reliability(np.array([0.95, 0.96, 0.55, 0.52], np.float32), np.array([True, True, True, False]))
    assert figures["ece"] == pytest.approx((0.045 + 0.035) / 2, abs=1e-6)
    assert (figures["voxels_9"], figures["right_5"]) == (2, 0.5)
    row = {"part": "calibration", "case": "a", "model": "toy", "version": "abc", "temperature": 1.5}
    row |= {f"{when}_{name}": value for when in ("before", "after") for name, value in figures.items()}
    text = tables([row])["calibration"]
    assert "| toy | 1 | 1.50 | 0.040 | 0.040 |" in text and "| 0.5 to 0.6 | 50.0 | 50 | 50 |" in text


def known_rows() -> list[dict[str, object]]:
    def row(case: str, dice: float) -> dict[str, object]:
        structures = {name: {"dice": dice, "hd95_mm": 2.0} for name in MANUAL}
        return {"part": "whole", "case": case, "model": "toy", "version": "abc", "structures": structures,
                "cpu_s": 10.0, "wall_s": 20.0, "peak_gb": 1.5}  # fmt: skip

    return [row("1000", 0.1), row("1002", 0.7), row("1004", 0.9)]


def test_tables_leave_out_what_was_looked_at(tmp_path: Path) -> None:
    rows = known_rows()
    text = whole_table(rows)
    assert "| Putamen | 0.800 | 0.700–0.900 | 2.0 |" in text
    assert "**mean of all** | 0.800 | 0.700–0.900" in text
    assert mean_dice(rows[1], SUBCORTICAL) == pytest.approx(0.7)
    assert "| toy | 3 | 10.0 | 20.0 | 1.5 |" in tables(rows)["cost"]
    write_report(rows, tmp_path)
    assert "0.800" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "dice.png").stat().st_size > 5000
    with (tmp_path / "results.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 3 * (2 * len(MANUAL) + 3)


def test_what_was_published_stays_beside_a_part_that_is_measured_anew(tmp_path: Path) -> None:
    contrasts = {
        "part": "contrasts", "case": "p", "model": "toy", "version": "abc",
        "regions": {"T1, T2": {"Putamen": {"dice": 0.75, "hd95_mm": 3.0}}},
        "structures": {"Putamen": {"ml_T1": 8.0, "ml_T2": 9.0, "ml_FLAIR": 0.0}},
    }  # fmt: skip
    inferer = {
        "part": "inferer", "case": "1002, own window", "model": "toy", "version": "abc", "ours_cpu_s": 2.0,
        "monai_cpu_s": 4.0, "ratio": 0.5, "largest_difference": 0.001, "shape": "6x8x6", "window": "4x4x4",
        "precision": "float32", "threads": 1,
    }  # fmt: skip
    rows = [*known_rows(), contrasts, inferer]
    first = write_report(rows, tmp_path)
    assert "| Putamen | 0.750 | 8.0 | 9.0 | 0.0 |" in first["contrasts"]
    assert "| 6x8x6, 1 threads, float32 | 4x4x4 | 2.00 | 4.00 | 0.50 | 0.001 |" in first["inferer"]
    again = write_report(with_published([], tmp_path / "results.csv"), tmp_path / "again")
    assert again == first
    newer = [{**row, "version": "def"} for row in known_rows()]
    merged = with_published(newer, tmp_path / "results.csv")
    assert {(row["part"], row["version"]) for row in merged} == {
        ("whole", "def"), ("contrasts", "abc"), ("inferer", "abc"),
    }  # fmt: skip
    # Another model's figures of the same part stay, too.
    other = with_published([{**row, "model": "other", "version": "x"} for row in newer], tmp_path / "results.csv")
    assert {row["version"] for row in other if row["part"] == "whole"} == {"abc", "x"}


def test_a_table_replaces_its_section_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n", encoding="utf-8")
    replace_section(path, "x", "new")
    replace_section(path, "y", "other")
    assert path.read_text(encoding="utf-8") == "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n"
