"""Trials: what was not contoured counts for nothing, patches, resuming, measuring; and the task of a data list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from search_toy import TRIAL, write_cases
from segmentation_bench import OBLIQUE, truth

from hyperreg.automl.data import Patches, PreparedCase, augmentation
from hyperreg.automl.losses import Loss, merge_unknown
from hyperreg.automl.space import AUGMENTATIONS, LOSSES, draw_random
from hyperreg.automl.task import Task, read_task
from hyperreg.automl.trial import Trial
from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Grid, Volume

WINDOW = TRIAL.window


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_task(write_cases(tmp_path_factory.mktemp("cases")), "toy", WINDOW)


@pytest.fixture(scope="module")
def cases(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[PreparedCase], list[PreparedCase]]:
    return task.prepared(tmp_path_factory.mktemp("cache")).load()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: a resumed trial is compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_grid_is_the_cases_own_in_mm(task: Task, cases: tuple[list[PreparedCase], list[PreparedCase]]) -> None:
    """Oblique, anisotropic, flipped: volumes of the structures in mm3 survive the way to the model's grid."""
    assert sorted(task.card.spacing_mm) == pytest.approx(sorted(OBLIQUE.spacing.tolist()), abs=1e-3)
    voxel = float(np.prod(np.array(task.card.spacing_mm, float)))
    for label, index in task.table.items():
        wanted = float((truth(OBLIQUE) == label).sum() * np.prod(OBLIQUE.spacing))
        found = float((cases[0][0].classes == index).sum() * voxel)
        assert found == pytest.approx(wanted, rel=0.02)
    assert [len(part) for part in cases] == [2, 1]
    assert [s.name for s in task.card.structures] == ["bright egg", "dark egg"]


@pytest.mark.parametrize("name", LOSSES)
def test_an_organ_that_nobody_contoured_changes_no_loss(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
    classes = torch.randint(0, 2, (2, 8, 8, 8), dtype=torch.uint8)
    known = torch.tensor([[True, True, False]] * 2)
    loss = Loss(name)
    before = loss(logits, classes, known)
    before.backward()
    assert torch.isfinite(before) and logits.grad is not None and torch.isfinite(logits.grad).all()
    # Probability that moves from background to the unknown organ moves nothing.
    probabilities = logits.detach().softmax(1)
    moved = torch.stack(
        (0.3 * probabilities[:, 0], probabilities[:, 1], probabilities[:, 2] + 0.7 * probabilities[:, 0]), 1
    )
    assert loss(moved.log(), classes, known).item() == pytest.approx(before.item(), abs=1e-5)
    # Once it was contoured, it does.
    everything = torch.ones(2, 3, dtype=torch.bool)
    three = torch.randint(0, 3, (2, 8, 8, 8), dtype=torch.uint8)
    assert abs(loss(moved.log(), three, everything).item() - loss(logits, three, everything).item()) > 1e-3


def test_a_known_organ_is_not_merged() -> None:
    logits = torch.randn(1, 3, 2, 2, 2)
    assert torch.equal(merge_unknown(logits, torch.ones(1, 3, dtype=torch.bool)), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_segmentation_has_a_smaller_loss(name: str) -> None:
    classes = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    classes[:, 2:5] = 1
    classes[:, 5:] = 2
    right = torch.nn.functional.one_hot(classes.long(), 3).movedim(-1, 1).float()
    known = torch.ones(1, 3, dtype=torch.bool)
    values = [Loss(name)(strength * right, classes, known).item() for strength in (-2.0, 0.0, 2.0, 8.0)]
    assert values == sorted(values, reverse=True)


def test_patches_are_the_same_for_a_seed_and_stay_aligned(cases: tuple[list[PreparedCase], list[PreparedCase]]) -> None:
    """With every augmentation, an image that is its own label map stays its own label map."""
    case = cases[0][0]
    twin = PreparedCase("twin", case.classes[None].astype(np.float16), case.classes, case.known, case.places)
    moving = [name for name in AUGMENTATIONS if name not in ("noise", "shift", "scale", "zoom")]
    patches = Patches([twin], (16, 16, 16), 2, moving, 1.0, seed=3)
    turned = 0
    plain = Patches([twin], (16, 16, 16), 2, [], 1.0, seed=3)
    for number in range(12):
        images, classes, known = patches[number]
        assert images.shape == (2, 1, 16, 16, 16) and classes.dtype == torch.uint8 and known.all()
        assert torch.equal(images[:, 0], classes.float())
        again = patches[number]
        assert torch.equal(again[0], images) and torch.equal(again[1], classes)
        turned += int(not torch.equal(plain[number][1], classes))
    assert turned > 3
    assert len(augmentation(AUGMENTATIONS).transforms) == len(AUGMENTATIONS)


def test_a_trial_that_went_on_is_the_one_that_was_never_stopped(
    cases: tuple[list[PreparedCase], list[PreparedCase]], tmp_path: Path
) -> None:
    configuration = draw_random(4)
    straight = Trial(configuration, *cases, TRIAL, seed=1)
    straight.train(6)
    stopped = Trial(configuration, *cases, TRIAL, seed=1)
    # The decay at the end of the rung is measured, and not kept.
    first = stopped.run_to(3)
    stopped.save(tmp_path / "trial.pt")
    other = Trial(configuration, *cases, TRIAL, seed=1)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.zero_()
    other.load(tmp_path / "trial.pt")
    other.train(6)
    for one, two in zip(straight.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(one, two)
    assert first.steps == 3 and other.step == 6 and first.cpu_s > 0
    assert 0 <= first.score <= 1 and 0 <= first.dice <= 1 and len(first.by_class) == 2


def test_a_perfect_network_scores_one_and_an_unknown_organ_is_not_measured(
    cases: tuple[list[PreparedCase], list[PreparedCase]],
) -> None:
    class Oracle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([100.0 - 200 * (images - n).abs() for n in range(3)], dim=1) + 0 * self.weight

    case = cases[1][0]
    seen = PreparedCase("case", case.classes[None].astype(np.float16), case.classes, case.known, case.places)
    trial = Trial(draw_random(0), [seen], [seen], TRIAL, 0, network=Oracle())
    score, by_class = trial.measure()
    assert score == pytest.approx(1, abs=1e-3) and by_class == (1.0, 1.0)
    unknown = PreparedCase("case", seen.images, seen.classes, np.array([True, True, False]), seen.places)
    _, by_class = Trial(draw_random(0), [seen], [unknown], TRIAL, 0, network=Oracle()).measure()
    assert by_class[0] == 1.0 and np.isnan(by_class[1])


def test_a_trial_stops_between_steps(cases: tuple[list[PreparedCase], list[PreparedCase]]) -> None:
    trial = Trial(draw_random(0), *cases, TRIAL, 0)
    with pytest.raises(Cancelled):
        trial.run_to(5, cancelled=lambda: trial.step >= 2)
    assert trial.step == 2


def test_a_damaged_checkpoint_is_told(cases: tuple[list[PreparedCase], list[PreparedCase]], tmp_path: Path) -> None:
    path = tmp_path / "trial.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(FileError, match="cannot go on"):
        Trial(draw_random(0), *cases, TRIAL, 0).load(path)
    Trial(draw_random(0), *cases, TRIAL, 0).save(path)
    with pytest.raises(FileError, match="cannot go on"):
        Trial(draw_random(1), *cases, TRIAL, 0).load(path)
    with pytest.raises(FileError, match="does not exist"):
        Trial(draw_random(0), *cases, TRIAL, 0).save(tmp_path / "missing" / "trial.pt")


def test_missing_files_are_named(tmp_path: Path) -> None:
    data = write_cases(tmp_path)
    (tmp_path / "case1.nii.gz").unlink()
    with pytest.raises(FileError, match=r"case1\.nii\.gz"):
        read_task(data, "toy", WINDOW)
    with pytest.raises(FileError, match="cannot be read"):
        read_task(tmp_path / "none.json", "toy", WINDOW)


def test_labels_that_no_case_has_are_named(tmp_path: Path) -> None:
    labels = {"0": "background", "2": "bright egg", "5": "dark egg", "7": "spleen"}
    task = read_task(write_cases(tmp_path, labels=labels), "toy", WINDOW)
    with pytest.raises(InputError, match="spleen"):
        task.prepared(tmp_path / "cache")


def test_a_structure_that_was_contoured_nowhere_is_named(tmp_path: Path) -> None:
    data = write_cases(tmp_path)
    content = json.loads(data.read_text(encoding="utf-8"))
    for entry in content["training"]:
        entry["contoured"] = [2]
    data.write_text(json.dumps(content), encoding="utf-8")
    task = read_task(data, "toy", WINDOW)
    with pytest.raises(InputError, match="dark egg"):
        task.prepared(tmp_path / "cache")


def test_labels_on_another_grid_are_brought_over_and_labels_elsewhere_refused(tmp_path: Path) -> None:
    data = write_cases(tmp_path)
    # Half the voxel size, turned axes: the same place in the body.
    affine = OBLIQUE.ijk_to_ras.copy()
    affine[:3, :3] = affine[:3, :3] / 2
    fine = Grid(tuple(2 * n for n in OBLIQUE.shape), affine)
    write_volume(Volume(truth(fine).astype(np.uint8), fine.ijk_to_ras), tmp_path / "case0_labels.nii.gz")
    training, _ = read_task(data, "toy", WINDOW).prepared(tmp_path / "cache").load()
    volumes = [float(np.count_nonzero(case.classes)) for case in training]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    far = OBLIQUE.ijk_to_ras.copy()
    far[:3, 3] += 1000
    write_volume(Volume(truth(OBLIQUE).astype(np.uint8), far), tmp_path / "case0_labels.nii.gz")
    with pytest.raises(InputError, match="does not lie on it"):
        read_task(data, "toy", WINDOW).prepared(tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"labels": {}}, "labels"),
        ({"labels": {"egg": "yes"}}, "labels"),
        ({"labels": [1, 2]}, "labels"),
        ({"training": [{"image": "case0.nii.gz"}]}, "no label"),
        ({"training": [{"image": "case0.nii.gz", "label": "case0_labels.nii.gz", "contoured": ["x"]}]}, "contoured"),
        ({"training": ["case0.nii.gz"]}, "no image"),
        ({"modality": {"0": "CT", "1": "PET"}}, "wants 2"),
        ({"training": []}, "no case"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_in_words(tmp_path: Path, changes: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        read_task(write_cases(tmp_path, **changes), "toy", WINDOW)
