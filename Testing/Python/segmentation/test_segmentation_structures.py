"""Label map, uncertainty and volumes from probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from segmentation_bench import CORE, SHELL, make_card

from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.structures import decide


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    return make_card(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    nested = [{**SHELL, "channel": 1}, {**CORE, "channel": 0}]
    return make_card(
        tmp_path_factory.mktemp("card"), structures=nested, output={"channels": 2, "activation": "sigmoid"}
    )


def column(*voxels: tuple[float, ...]) -> np.ndarray:
    """Probabilities of a few voxels: (channels, N, 1, 1)."""
    return np.array(voxels, dtype=np.float32).T[..., None, None]


def test_the_most_probable_structure_wins(card: SegmentationCard) -> None:
    found = decide(column((0.9, 0.1, 0), (0.3, 0.4, 0.3), (0.1, 0.1, 0.8), (0.5, 0.5, 0)), card, 0.001)
    assert found.labels.ravel().tolist() == [0, 2, 5, 0]
    assert found.labels.dtype == np.uint8


def test_uncertainty_is_0_where_all_agree_and_1_where_nothing_is_known(card: SegmentationCard) -> None:
    found = decide(column((1, 0, 0), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0)), card, 0.001)
    np.testing.assert_allclose(found.uncertainty.ravel(), [0, 1, math.log(2) / math.log(3)], atol=1e-5)


def test_volumes_in_ml_and_their_spread(card: SegmentationCard) -> None:
    probabilities = column((0.2, 0.8, 0), (0.4, 0.6, 0), (0.7, 0.3, 0), (1, 0, 0))
    shell, core = decide(probabilities, card, 0.012).volumes
    assert (shell.structure.name, core.structure.name) == ("Outer shell", "Core")
    assert (shell.volume_ml, shell.sure_ml, shell.doubtful_ml) == pytest.approx((0.024, 0.012, 0.036))
    assert shell.mean_probability == pytest.approx(0.7)
    assert (core.volume_ml, core.doubtful_ml) == (0, 0)
    assert math.isnan(core.mean_probability)


def test_regions_are_painted_in_the_card_s_order(regions: SegmentationCard) -> None:
    """Channel 0 is the core, which lies inside channel 1; the later one in the card is on top."""
    found = decide(column((0.1, 0.9), (0.9, 0.9), (0.9, 0.2), (0.2, 0.1)), regions, 0.001)
    assert found.labels.ravel().tolist() == [2, 5, 5, 0]
    shell, core = found.volumes
    assert (shell.volume_ml, core.volume_ml) == pytest.approx((0.001, 0.002))
    # The shell is there, and not the core: 0.9 * 0.9 in the first voxel, 0.9 * 0.1 in the second.
    assert (shell.sure_ml, shell.doubtful_ml) == pytest.approx((0.001, 0.001))
    assert shell.mean_probability == pytest.approx(0.81)
    assert found.uncertainty.ravel()[1] == pytest.approx(0.469, abs=1e-3)  # entropy of 0.9, in bits
    assert found.uncertainty.ravel()[2] == pytest.approx(0.722, abs=1e-3)  # the most doubtful region: 0.2


def test_classes_come_to_the_image_one_at_a_time_and_each_is_handed_out(card: SegmentationCard) -> None:
    probabilities = np.random.default_rng(0).dirichlet((1, 1, 1), 27).T.reshape(3, 3, 3, 3).astype(np.float32)
    asked: list[int] = []
    given: dict[str, np.ndarray] = {}

    def twice_as_fine(values: np.ndarray) -> np.ndarray:
        asked.append(values.size)
        return values.repeat(2, 0)

    found = decide(probabilities, card, 1, twice_as_fine, lambda s, values: given.update({s.name: values}))
    assert asked == [27, 27, 27]
    assert found.labels.shape == (6, 3, 3)
    np.testing.assert_array_equal(given["Core"], probabilities[2].repeat(2, 0))
    assert set(given) == {"Core", "Outer shell"}
    np.testing.assert_array_equal(found.labels[::2], np.array([0, 2, 5])[probabilities.argmax(0)])


def test_large_labels_have_room(tmp_path_factory: pytest.TempPathFactory) -> None:
    card = make_card(tmp_path_factory.mktemp("card"), structures=[SHELL, {**CORE, "label": 2035}])
    found = decide(column((0, 0, 1)), card, 1)
    assert found.labels.dtype == np.uint16
    assert found.labels.item() == 2035
