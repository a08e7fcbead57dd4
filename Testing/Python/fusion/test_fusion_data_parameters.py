"""Data parameters: the formulas, what is learned, and what is kept when a run ends early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_toy import CENTRE, ball_target, oblique_grid

from hyperreg.errors import Cancelled, InputError
from hyperreg.fusion import progress_file
from hyperreg.fusion.data_parameters import train
from hyperreg.fusion.learning import Run, class_weights, sample_losses, sample_weights
from hyperreg.fusion.qualities import DataParameters, DataParameterSettings, dp_consensus, dp_weights
from hyperreg.fusion.samples import LabelledTarget, augmented, make_samples
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.volume import Volume

# Two good maps, and three that are wrong in different directions.
SHIFTS = {"good": (0.0, 0.0, 0.0), "fair": (1.0, 0.0, 0.0), "left": (-9.0, 0.0, 0.0), "front": (0.0, 9.0, 0.0),
          "up": (0.0, 0.0, 9.0)}  # fmt: skip
QUICK = DataParameterSettings(steps=60, warm_up=25, answer_every=20, most_voxels=16**3, learning_rate=5e-3)


def test_samples_lie_where_the_labels_do() -> None:
    samples = make_samples([ball_target("one", {"a": (0.0, 0.0, 0.0), "b": (0.0, 0.0, 6.0)})], most_voxels=24**3)
    grid, maps = samples.grids[0], samples.labels[0]
    assert samples.flat is None
    assert all(n % 8 == 0 for n in grid.shape)
    middles = [grid.to_ras(np.argwhere(one.numpy() == 1)).mean(0) for one in maps]
    assert middles[0] == pytest.approx(CENTRE, abs=0.3)
    assert middles[1] == pytest.approx(CENTRE + np.array([0, 0, 6]), abs=0.3)
    bright = grid.to_ras(np.argwhere(samples.images[0][0].numpy() > 1.5)).mean(0)
    assert bright == pytest.approx(CENTRE, abs=0.4)
    assert float(samples.images[0].mean()) == pytest.approx(0, abs=1e-5)


def test_chosen_labels_become_classes_and_the_rest_background() -> None:
    grid = oblique_grid()
    array = np.zeros(grid.shape, np.int16)
    array[4:10, 5:9, 5:12], array[12:18, 5:9, 5:12], array[20:24, 5:9, 5:12] = -3, 300, 7
    image = Volume(np.random.default_rng(0).random(grid.shape, np.float32), grid.ijk_to_ras)
    target = LabelledTarget("one", image, stack_labels([Volume(array, grid.ijk_to_ras)]))
    samples = make_samples([target], labels=(300, -3, 12345))
    assert samples.classes.tolist() == [0, -3, 300]
    assert np.unique(samples.labels[0]).tolist() == [0, 1, 2]
    assert make_samples([target]).classes.tolist() == [0, -3, 7, 300]


def test_what_cannot_be_learned_from_is_refused() -> None:
    volume = ball_target("volume", {"a": (0, 0, 0)})
    slice_ = ball_target("slice", {"a": (0, 0, 0)}, oblique_grid((28, 20, 1)))
    with pytest.raises(InputError, match="No target"):
        make_samples([])
    with pytest.raises(InputError, match="one of the labels 8, 9"):
        make_samples([volume], labels=(8, 9))
    with pytest.raises(InputError, match="slices"):
        make_samples([volume, slice_])
    with pytest.raises(InputError, match="same name"):
        train([volume, volume], QUICK)
    for wrong in ({"steps": 0}, {"mode": "both"}, {"network": "unet"}, {"warm_up": -1}):
        with pytest.raises(InputError):
            DataParameterSettings(**wrong)


def test_augmentation_moves_image_and_labels_alike() -> None:
    target = ball_target("one", {"a": (0.0, 0.0, 0.0), "b": (5.0, 0.0, 0.0)})
    samples = make_samples([target], most_voxels=24**3)
    image, maps = augmented(samples.images[0], samples.labels[0], torch.Generator().manual_seed(3))
    inside = samples.labels[0][0] == 1
    middle = float(samples.images[0][0][inside].mean() + samples.images[0][0][~inside].mean()) / 2
    bright, moved = (image[0] > middle).numpy(), (maps[0] == 1).numpy()
    assert 2 * (bright & moved).sum() / (bright.sum() + moved.sum()) > 0.9
    assert not torch.equal(maps[0], samples.labels[0][0].long())
    distance = np.argwhere(maps[1].numpy() == 1).mean(0) - np.argwhere(moved).mean(0)
    assert np.linalg.norm(distance * samples.grids[0].spacing) == pytest.approx(5, rel=0.2)


def test_weights_are_those_of_the_paper() -> None:
    values, sizes = torch.tensor([0.0, 2.0, -2.0]), torch.tensor([0, 100, 1000])
    sigmoid = 1 / (1 + np.exp(-values.double().numpy()))
    plain = sigmoid / sigmoid.mean()
    assert sample_weights(values, None).numpy() == pytest.approx(plain, rel=1e-5)
    fixed = plain / (np.log(sizes.numpy() + np.e) + np.e)
    assert sample_weights(values, sizes).numpy() == pytest.approx(fixed, rel=1e-5)


def test_class_weights_are_a_power_of_the_counts() -> None:
    samples = make_samples([ball_target("one", {"a": (0, 0, 0), "b": (3, 0, 0)})])
    counts = np.bincount(samples.labels[0].numpy().ravel()).astype(float)
    wanted = counts**-0.35 / (counts**-0.35).mean()
    assert class_weights(samples).numpy() == pytest.approx(wanted, rel=1e-5)


def test_losses_are_cross_entropies_of_each_label_map() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    labels = [torch.randint(0, 3, (n, 4, 5, 6), generator=generator) for n in (2, 1)]
    weights = torch.tensor([0.5, 1.0, 2.0])
    one = [torch.nn.functional.cross_entropy(logits[:1], labels[0][n : n + 1]) for n in range(2)]
    one.append(torch.nn.functional.cross_entropy(logits[1:], labels[1]))
    assert sample_losses(logits, labels).tolist() == pytest.approx([float(x) for x in one], rel=1e-5)
    weighted = torch.nn.functional.cross_entropy(logits[1:], labels[1], weights)
    assert float(sample_losses(logits, labels, weights)[2]) == pytest.approx(float(weighted), rel=1e-5)


def run_of(target: LabelledTarget, **changes: object) -> Run:
    settings = replace(QUICK, warm_up=0, **changes)
    return Run([target], make_samples([target], most_voxels=settings.most_voxels), settings, "cpu", None)


def test_the_second_forward_moves_nothing_but_the_data_parameters() -> None:
    run = run_of(ball_target("one", SHIFTS, oblique_grid((28, 28, 1))))
    assert type(run.network).__name__ == "LRASPP"
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    images, maps = run.samples.images[0][None], [run.samples.labels[0].long()]
    run._move_parameters(images, maps, torch.arange(5))
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert run.parameters.weight.abs().min() > 0


def test_out_of_line_the_network_learns_from_all_alike_in_line_it_does_not() -> None:
    target = ball_target("one", SHIFTS)
    found = {}
    for mode in ("out_of_line", "in_line"):
        for first in (0.0, 4.0):
            run = run_of(target, mode=mode)
            with torch.no_grad():
                run.parameters.weight[0] = first
            run._one_step()
            found[mode, first] = torch.cat([p.detach().flatten() for p in run.network.parameters()])
    assert torch.equal(found["out_of_line", 0.0], found["out_of_line", 4.0])
    assert not torch.equal(found["in_line", 0.0], found["in_line", 4.0])


def test_risk_regularisation_rewards_weight_by_the_predicted_foreground() -> None:
    run, plain = (run_of(ball_target("one", SHIFTS), risk=risk) for risk in (True, False))
    maps = [run.samples.labels[0].long()]
    logits = torch.zeros(1, 2, *maps[0].shape[1:])
    logits[:, 1, :4] = 1.0
    share = float((logits.argmax(1) > 0).float().mean())
    each, numbers = sample_losses(logits, maps), torch.arange(5)
    weights = sample_weights(torch.zeros(5), (maps[0] > 0).flatten(1).sum(1))
    difference = plain._weighted(each, logits, maps, numbers) - run._weighted(each, logits, maps, numbers)
    assert difference.item() == pytest.approx(float(weights.sum()) * share, rel=1e-4)


@pytest.mark.parametrize("flat", [False, True])
def test_good_label_maps_get_the_larger_weights(flat: bool) -> None:
    shape = (28, 28, 1) if flat else (28, 20, 26)
    shifts = {name: shift for name, shift in SHIFTS.items() if not (flat and name == "up")}
    targets = [ball_target(name, shifts, oblique_grid(shape), seed) for seed, name in enumerate("abc")]
    answers: list[DataParameters] = []
    found = train(targets, replace(QUICK, warm_up=30), answer=answers.append)
    assert [answer.steps for answer in answers] == [20, 40, 60]
    assert found.finished
    assert found.history.shape == (3, 3 * len(shifts))
    assert found.losses[-1] < found.losses[0]
    for name in "abc":
        weights = dict(zip(shifts, found.weights(name), strict=True))
        assert min(weights["good"], weights["fair"]) > max(weights["left"], weights["front"])
    consensus = dp_consensus(targets[0].stack, found.of("a"))
    truth = targets[0].stack.codes[0]
    assert 2 * ((consensus.codes > 0) & (truth > 0)).sum() / ((consensus.codes > 0).sum() + (truth > 0).sum()) > 0.9
    assert [row.atlas for row in found.table()] == list(shifts) * 3


def test_temperature_sharpens_and_flattens() -> None:
    values = [3.0, 1.0, -2.0]
    assert dp_weights(values, 1.0) == pytest.approx(np.exp(values) / np.exp(values).sum())
    assert dp_weights(values) == pytest.approx(dp_weights(np.array(values) * 10))
    assert dp_weights(values, 1e6) == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert dp_weights([0.0, 0.0]) == pytest.approx([0.5, 0.5])
    assert dp_weights([4.0]) == pytest.approx([1.0])
    with pytest.raises(InputError, match="temperature"):
        dp_weights(values, -1.0)


def test_a_cancelled_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    target = ball_target("one", SHIFTS)
    settings = replace(QUICK, steps=12, warm_up=4, answer_every=4)
    straight = train([target], settings)
    seen: list[str] = []
    with pytest.raises(Cancelled, match="goes on from here"):
        train([target], settings, folder=tmp_path, progress=lambda _f, text: seen.append(text),
              cancelled=lambda: len(seen) > 6)  # fmt: skip
    steps: list[str] = []
    found = train([target], settings, folder=tmp_path, progress=lambda _f, text: steps.append(text))
    assert len(steps) == 1 + 12 - 6
    assert found.of("one") == pytest.approx(straight.of("one"), abs=1e-6)
    assert found.history_steps == (4, 8, 12)
    longer = train([target], replace(settings, steps=14), folder=tmp_path)
    assert longer.history_steps == (4, 8, 12, 14)


def test_progress_of_another_run_or_damaged_is_not_gone_on_from(tmp_path: Path) -> None:
    settings = replace(QUICK, steps=4, warm_up=0, answer_every=4)
    one, other = (ball_target("one", SHIFTS, seed=seed) for seed in (0, 1))
    train([one], settings, folder=tmp_path)
    found = train([other], settings, folder=tmp_path)
    assert found.of("one") == pytest.approx(train([other], settings).of("one"))
    (tmp_path / progress_file.FILE).write_bytes(b"PK\x03\x04 cut")
    assert train([other], settings, folder=tmp_path).of("one") == pytest.approx(found.of("one"))


def test_a_folder_that_cannot_be_written_costs_the_progress_not_the_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = replace(QUICK, steps=4, answer_every=1)
    found = train([ball_target("one", SHIFTS)], settings, folder=tmp_path / "file")
    assert found.finished
    assert "file" in found.problem
    asked: list[int] = []
    with pytest.raises(Cancelled) as cancelled:
        train([ball_target("one", SHIFTS)], settings, folder=tmp_path / "file",
              cancelled=lambda: len(asked) > 2 or asked.append(1) is not None)  # fmt: skip
    assert "kept" not in str(cancelled.value)


def test_enough_ends_the_learning_with_what_is_known(tmp_path: Path) -> None:
    settings = replace(QUICK, steps=12, warm_up=0, answer_every=5)
    found = train([ball_target("one", SHIFTS)], settings, folder=tmp_path, enough=lambda: True)
    assert (found.steps, found.wanted, found.finished) == (1, 12, False)
    assert found.history_steps == (1,)
    assert np.ptp(found.of("one")) > 0
    longer = train([ball_target("one", SHIFTS)], settings, folder=tmp_path)
    straight = train([ball_target("one", SHIFTS)], settings)
    assert longer.of("one") == pytest.approx(straight.of("one"), abs=1e-6)
    assert longer.history_steps == (1, 5, 10, 12)
