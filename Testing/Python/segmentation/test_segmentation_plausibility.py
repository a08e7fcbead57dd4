"""Results that cannot be right are called so; right ones are left in peace. Sizes in ml and places in mm, any grid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imaging_examples import oblique_grid
from segmentation_bench import CORE, NETWORKS, SHELL, eggs, make_card, make_model

from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import model
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from hyperreg.segmentation.plausibility import ALARM, judge, measure
from hyperreg.segmentation.session import Segmenter
from hyperreg.training.expectations import expectations

# Four balls of one person: label -> centre (R, A, S mm from the middle) and radius, mm.
PERSON = {1: ((-16, 0, 0), 8.0), 2: ((16, 0, 0), 8.0), 3: ((0, 14, 6), 6.0), 4: ((0, -10, -16), 7.0)}
OBLIQUE = oblique_grid((60, 44, 30), (1.5, 2.0, 3.0))


def person(grid: Grid = OBLIQUE, shift: Any = (0, 0, 0), scale: float = 1.0, **changes: Any) -> Volume:
    """A label map; changes: label_N = (centre, radius), or None for a ball that is not there."""
    labels = np.zeros(grid.shape, np.uint8)
    points = grid.points() - grid.centre - np.array(shift, dtype=float)
    for label, ball in {**PERSON, **{int(name[6:]): ball for name, ball in changes.items()}}.items():
        if ball is not None:
            centre, radius = ball
            labels[np.linalg.norm(points - scale * np.array(centre, dtype=float), axis=-1) < scale * radius] = label
    return Volume(labels, grid.ijk_to_ras, "labels")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    """Of a model that learned from eight people of sizes .9 to 1.1, on other grids and in other places."""
    people = [
        person(oblique_grid((50, 50, 50), (1.6, 1.6, 1.6)), shift=(n, -n, 2 * n), scale=0.9 + n / 35) for n in range(8)
    ]
    found = expectations(people, [()] * 8, 5)
    sides = {1: "Left", 2: "Right"}
    structures = [
        {
            "label": label, "channel": label, "name": f"Ball {label}", "colour": [label, 0, 0],
            "expected": found[label],
            **({"terminology": {
                "category": ["SCT", "123037004", "Anatomical Structure"], "type": ["SCT", "1", "Ball"],
                "modifier": ["SCT", str(label), sides[label]]}} if label in sides else {}),
        }
        for label in PERSON
    ]  # fmt: skip
    return make_card(
        tmp_path_factory.mktemp("card"), structures=structures, output={"channels": 5, "activation": "softmax"}
    )


def test_places_and_volumes_are_measured_in_mm_on_any_grid() -> None:
    found = measure(person(shift=(3, -4, 5)))
    assert set(found) == set(PERSON)
    for label, (centre, radius) in PERSON.items():
        expected = OBLIQUE.centre + np.array(centre) + (3, -4, 5)
        assert np.linalg.norm(found[label].centre_mm - expected) < 0.5
        assert found[label].volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.06)
        assert found[label].border == 0


def test_what_is_expected_is_where_and_how_large_people_s_structures_are(card: SegmentationCard) -> None:
    expected = {structure.label: structure.expected for structure in card.structures}
    one, two = (np.array(expected[label].centre_mm) for label in (1, 2))
    assert np.linalg.norm(two - one - (32, 0, 0)) < 1.5  # people differ in size around a mean of 1
    volume = 4 / 3 * np.pi * 8**3 / 1000
    low, high = expected[1].ml
    assert low == pytest.approx(volume * 0.9**3 / (1 + 1 / 8), rel=0.08)
    assert high == pytest.approx(volume * 1.1**3 * (1 + 1 / 8), rel=0.08)


def test_a_structure_that_was_not_looked_for_or_is_missing_in_some_may_be_missing() -> None:
    people = [person(), person(label_3=None), person(label_4=None)]
    found = expectations(people, [(), (), (4,)], 6)
    assert found[3]["ml"][0] == 0
    assert found[4]["ml"][0] > 0
    assert 5 not in found


@pytest.mark.parametrize("shift", [(0, 0, 0), (15, -9, 12)])
def test_a_person_like_the_others_is_left_in_peace(card: SegmentationCard, shift: Any) -> None:
    verdict = judge(measure(person(shift=np.array(shift) / 3, scale=1.05)), card, dict.fromkeys(PERSON, 0.9))
    assert (verdict.wrong, verdict.odd, verdict.warnings(card)) == (False, (), [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_3": ((0, 14, 6), 12.0), "label_4": ((0, -10, -16), 2.5)}, "Ball 3 7.* ml, expected"),
        ({"label_3": None, "label_4": None}, "Ball 4 was not found; Ball 3 was not found"),
        ({"label_3": ((0, -28, 6), 6.0), "label_4": ((0, 26, -16), 7.0)}, "Ball 3 is .* mm from its place"),
    ],
)
def test_sizes_and_places_out_of_the_ordinary_are_told(card: SegmentationCard, changes: dict, words: str) -> None:
    verdict = judge(measure(person(**changes)), card)
    assert verdict.wrong
    first, *_ = verdict.warnings(card)
    assert first.startswith(ALARM)

    assert re.search(words, first), first


def test_one_odd_structure_of_many_is_disease_not_a_wrong_image(card: SegmentationCard) -> None:
    verdict = judge(measure(person(label_3=None)), card)
    assert not verdict.wrong
    assert verdict.odd == ("Ball 3 was not found",)


def test_a_body_on_its_head_is_noticed_and_a_mirrored_one_by_its_sides_alone(card: SegmentationCard) -> None:
    upside_down = OBLIQUE.ijk_to_ras.copy()
    upside_down[1:3] *= -1
    assert judge(measure(Volume(person().array, upside_down, "x")), card).wrong
    mirrored = OBLIQUE.ijk_to_ras.copy()
    mirrored[0] *= -1
    verdict = judge(measure(Volume(person().array, mirrored, "x")), card)
    assert any("lie on each other's side" in note for note in verdict.notes)


def test_sides_of_very_different_size_are_told(card: SegmentationCard) -> None:
    verdict = judge(measure(person(label_1=((-16, 0, 0), 4.5))), card)
    assert any("differ in size" in note for note in verdict.notes)


def test_half_a_body_is_said_to_be_cut_off_but_not_wrong(card: SegmentationCard) -> None:
    whole = person(oblique_grid((60, 60, 60), (1.5, 1.5, 1.5)))
    half = Volume(whole.array[:30], whole.ijk_to_ras, "half")
    verdict = judge(measure(half), card)
    assert any("The image ends inside of" in note for note in verdict.notes)


def test_a_network_that_guesses_and_a_result_of_nothing(card: SegmentationCard, tmp_path: Path) -> None:
    verdict = judge(measure(person()), card, dict.fromkeys(PERSON, 0.4))
    assert verdict.wrong
    assert "sure of no more than 40 %" in verdict.odd[0]
    nothing = judge({}, card)
    assert nothing.wrong
    assert "nothing at all was found" in nothing.warnings(card)[0]
    # A model that says nothing of what it expects, as one of tumours: nothing may be right, and is said.
    assert judge({}, make_card(tmp_path)).warnings(make_card(tmp_path)) == ["In this image nothing at all was found."]


def test_the_verdict_comes_first_among_a_segmentation_s_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
    expected = {"ml": [400.0, 500.0], "centre_mm": [0.0, 0.0, 0.0], "spread_mm": 1.0}
    made = make_model(tmp_path, structures=[{**SHELL, "expected": expected}, CORE])
    result = Segmenter(made, "cpu").segment({"image": eggs(oblique_grid((40, 36, 30), (2.0, 2.0, 2.0)))})
    assert result.verdict.wrong
    assert result.warnings[0].startswith(ALARM)
    assert "expected 400 ml to 500 ml" in result.warnings[0]


@pytest.mark.parametrize(
    "entry", [{"ml": [2, 1]}, {"ml": [-1, 1]}, {"centre_mm": [0, float("nan"), 0]}, {"spread_mm": -1}]
)
def test_cards_that_expect_what_cannot_be_are_refused(tmp_path: Path, entry: dict) -> None:
    good = {"ml": [1.0, 2.0], "centre_mm": [0.0, 0.0, 0.0], "spread_mm": 1.0}
    make_card(tmp_path / "good", structures=[{**SHELL, "expected": good}, CORE])
    with pytest.raises(WeightsError, match=r"what is expected|no finite number"):
        make_card(tmp_path / "bad", structures=[{**SHELL, "expected": {**good, **entry}}, CORE])


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("brain_stroke/stroke_T2.nii.gz", False),
        ("cardiac/SC-HF-I-01_ED_cine.nii.gz", True),
    ],
)
def test_a_heart_is_no_brain_of_the_anatomy_model(real_data: Path, file: str, wrong: bool) -> None:
    result = Segmenter(find_model("brain-anatomy"), "cpu").segment({"image": read_volume(real_data / file)})
    assert result.verdict.wrong is wrong, result.verdict


def test_a_mouse_is_too_small_for_the_anatomy_model(real_data: Path) -> None:
    with pytest.raises(InputError, match="too small for the model"):
        Segmenter(find_model("brain-anatomy"), "cpu").segment(
            {"image": read_volume(real_data / "mouse" / "FVB_invivo_1_T2.nii.gz")}
        )
