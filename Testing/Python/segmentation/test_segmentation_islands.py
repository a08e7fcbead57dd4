"""Islands: what is far from where it belongs goes, both halves of a structure stay, and everything tells the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imaging_examples import oblique_grid
from segmentation_bench import CORE, NETWORKS, SHELL, make_card, make_model

from hyperreg.errors import Cancelled
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import model
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.islands import remove_islands
from hyperreg.segmentation.session import Segmenter

RULE = {"keep": "largest", "bridge_mm": 4, "share": 0.2, "reach_mm": 5}
SPACING = (2.0, 1.0, 2.5)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SegmentationCard]:
    return lambda **entries: make_card(tmp_path_factory.mktemp("card"), **entries)


def ball(grid: Grid, centre: Any, radius: float) -> np.ndarray:
    """Voxels within `radius` mm of a point given in mm from the middle, along R, A and S."""
    return np.linalg.norm(grid.points() - grid.centre - np.array(centre, dtype=float), axis=-1) < radius


def straight() -> Grid:
    return Grid((40, 80, 32), np.diag([*SPACING, 1.0]))


def exclusive(shell: np.ndarray, core: np.ndarray | None = None, sure: float = 0.8) -> np.ndarray:
    """Probabilities of background and of both structures in masks, the rest going to background: (3, I, J, K)."""
    found = np.zeros((3, *shell.shape), np.float32)
    for channel, mask in enumerate((shell, np.zeros_like(shell) if core is None else core), start=1):
        found[channel][mask] = sure
    found[0] = 1 - found[1:].sum(axis=0)
    return found


def scene() -> dict[str, np.ndarray]:
    """A body, a slab beside it that a bridge 4 mm thick joins to it, and a speck; two halves of a core and specks."""
    grid = straight()
    body = ball(grid, (0, 0, 0), 18)
    points = grid.points() - grid.centre
    slab = (abs(points[..., 1] - 31) < 3) & (np.linalg.norm(points[..., [0, 2]], axis=-1) < 14)
    bridge = (np.linalg.norm(points[..., [0, 2]], axis=-1) < 2.5) & (points[..., 1] > 0) & (points[..., 1] < 31)
    return {
        "body": body,
        "attached": (slab | bridge) & ~body,
        "speck": ball(grid, (0, -36, 0), 3),
        "left": ball(grid, (-9, 0, 0), 5),
        "right": ball(grid, (9, 0, 0), 4),
        "near": ball(grid, (9, 7, 0), 1.5),
        "far": ball(grid, (0, 0, 14), 2.6),
    }


def labelled(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.argmax(axis=0)


def test_the_whole_loses_what_a_thin_bridge_holds(make: Callable[..., SegmentationCard]) -> None:
    parts = scene()
    everything = parts["body"] | parts["attached"] | parts["speck"]
    probabilities = exclusive(everything & ~parts["left"], everything & parts["left"])
    removed = remove_islands(probabilities, make(postprocessing=RULE), SPACING)
    found = labelled(probabilities) > 0
    assert found[parts["body"]].all()
    assert not found[parts["speck"]].any()
    assert found[parts["attached"]].mean() < 0.1  # the root of the bridge, within reach of the body
    assert removed == (everything & ~found).sum() > 0
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-6)
    assert (probabilities[0][everything & ~found] == 1).all()
    # Without cutting bridges, what is joined stays.
    probabilities = exclusive(everything)
    remove_islands(probabilities, make(postprocessing={"keep": "largest"}), SPACING)
    assert np.array_equal(labelled(probabilities) > 0, parts["body"] | parts["attached"])


def test_both_halves_of_a_structure_stay_and_what_is_far_and_small_becomes_what_lies_around(
    make: Callable[..., SegmentationCard],
) -> None:
    parts = scene()
    core = parts["left"] | parts["right"] | parts["near"] | parts["far"]
    assert parts["far"].sum() > parts["near"].sum()  # size alone does not tell them apart
    probabilities = exclusive(parts["body"] & ~core, core)
    probabilities[1][core] = 0.15  # what the network would have said next
    probabilities[0][core] = 0.05
    removed = remove_islands(probabilities, make(postprocessing=RULE), SPACING)
    found = labelled(probabilities)
    for name in ("left", "right", "near"):
        assert (found[parts[name]] == 2).all()
    assert (found[parts["far"]] == 1).all()
    assert removed == 0  # nothing became background
    np.testing.assert_allclose(probabilities[:, parts["far"]].T, [[0.25, 0.75, 0]] * parts["far"].sum(), atol=1e-6)


def test_regions_lose_islands_too(make: Callable[..., SegmentationCard]) -> None:
    """A sigmoid's regions: there is no background that takes what is removed."""
    nested = [{**SHELL, "channel": 0}, {**CORE, "channel": 1}]
    card = make(structures=nested, output={"channels": 2, "activation": "sigmoid"}, postprocessing=RULE)
    parts = scene()
    shown = np.stack([parts["body"] | parts["speck"], parts["left"] | parts["right"] | parts["far"]]).astype(np.float32)
    before = shown.copy()
    assert remove_islands(shown, card, SPACING) == parts["speck"].sum()
    assert np.array_equal(shown[0] > 0.5, parts["body"])
    assert np.array_equal(shown[1] > 0.5, parts["left"] | parts["right"])
    assert np.array_equal(shown[1][parts["left"]], before[1][parts["left"]])


@pytest.mark.parametrize("mask", ["nothing", "everything", "thin"])
def test_what_has_no_islands_is_left_alone(make: Callable[..., SegmentationCard], mask: str) -> None:
    shape = straight().shape
    there = np.zeros(shape, bool)
    there[{"nothing": slice(0), "everything": slice(None), "thin": slice(7, 8)}[mask]] = True
    probabilities = exclusive(there)
    before = probabilities.copy()
    assert remove_islands(probabilities, make(postprocessing=RULE), SPACING) == 0
    np.testing.assert_allclose(probabilities, before, atol=1e-6)
    assert remove_islands(probabilities, make(), SPACING) == 0


def test_it_can_be_cancelled(make: Callable[..., SegmentationCard]) -> None:
    def stop(_share: float) -> None:
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        remove_islands(exclusive(scene()["body"]), make(postprocessing=RULE), SPACING, stop)


def test_label_map_uncertainty_volumes_and_probabilities_agree_on_an_oblique_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
    card = make_model(tmp_path, postprocessing=RULE)
    grid = oblique_grid((64, 70, 24), (1.5, 1.2, 3.0))
    body, core = ball(grid, (0, -6, 0), 16), ball(grid, (3, -8, 0), 7)
    island = ball(grid, (-4, 27, 3), 9)
    values = np.where(core, 1000, np.where(body | island, 500, 0)).astype(np.float32)
    values += np.random.default_rng(0).normal(0, 5, grid.shape).astype(np.float32) * (values > 0)
    image = {"image": Volume(values, grid.ijk_to_ras, "image")}
    written: dict[str, Volume] = {}
    segmenter = Segmenter(card, "cpu")
    found = segmenter.segment(image, sink=lambda structure, volume: written.update({structure.name: volume}))
    raw = segmenter.segment(image, islands=True)
    assert (raw.labels.array[island] == 2).mean() > 0.9
    assert raw.removed_ml == 0
    assert raw.warnings == []
    assert "3 ml of islands were removed (16 % of all" in found.warnings[0]
    labels = found.labels.array
    assert not labels[island].any()
    assert (labels > 0)[body].mean() > 0.95
    assert np.array_equal(labels[body], raw.labels.array[body])
    assert found.removed_ml == pytest.approx(4 / 3 * np.pi * 9**3 / 1000, rel=0.2)  # ml
    millilitres = {v.structure.name: (v.volume_ml, v.doubtful_ml) for v in found.volumes}
    before = {v.structure.name: (v.volume_ml, v.doubtful_ml) for v in raw.volumes}
    for n in (0, 1):
        assert before["Outer shell"][n] - millilitres["Outer shell"][n] == pytest.approx(found.removed_ml, rel=0.4)
    assert millilitres["Core"] == pytest.approx(before["Core"])
    centre = ball(grid, (-4, 27, 3), 12)
    assert written["Outer shell"].array[centre].max() == 0
    assert found.uncertainty.array[centre].max() < 1e-3
    assert raw.uncertainty.array[centre].max() > 0.3
