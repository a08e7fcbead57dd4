"""Synthetic tumours: their parts lie in each other and in the brain, and the sequences show them as scanners do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segmentation_toy import write_labels

from hyperreg.training.appearance import Appearance
from hyperreg.training.cases import CaseSynthesiser, class_table
from hyperreg.training.draws import Draws
from hyperreg.training.label_maps import brain_from_file
from hyperreg.training.tumours import ENHANCING, NECROSIS, OEDEMA, SEQUENCES, add_tumour, sequence_contrast

FLUID = 3  # lateral ventricle
PLAIN = Appearance(t1=0, thick=0, cropped=0, blur=0, bias=0, noise=0, gamma=0)


@pytest.fixture(scope="module")
def brain() -> torch.Tensor:
    """White matter with a ventricle and a rim of cortex, air around: (60, 60, 60), 2 mm."""
    labels = torch.zeros(60, 60, 60, dtype=torch.long)
    labels[4:56, 4:56, 4:56] = 2
    labels[8:52, 8:52, 8:52] = 1
    labels[26:34, 20:40, 26:34] = FLUID
    return labels


def shells(labels: torch.Tensor) -> list[torch.Tensor]:
    """Necrosis; what is at least enhancing; the whole tumour."""
    return [torch.isin(labels, torch.tensor(parts)) for parts in ([NECROSIS], [NECROSIS, ENHANCING])]


@pytest.mark.parametrize("seed", range(6))
def test_parts_are_nested_and_stay_in_the_brain(brain: torch.Tensor, seed: int) -> None:
    labels = add_tumour(brain, 2.0, Draws(seed))
    changed = labels != brain
    assert set(labels[changed].tolist()) <= {NECROSIS, OEDEMA, ENHANCING}
    assert bool((labels == ENHANCING).any())
    assert not bool(changed[(brain == 0) | (brain == FLUID)].any()), "air or fluid became tumour"
    # No face of a necrotic voxel touches anything but tumour core, fluid or air: the rim is around it everywhere.
    necrosis, core = shells(labels)
    closed = core | (brain == 0) | (brain == FLUID)
    for axis in range(3):
        for step in (-1, 1):
            assert bool(closed.roll(-step, axis)[necrosis].all())
    # Oedema surrounds: it is farther from the core's middle than the core is, on average.
    oedema = labels == OEDEMA
    if oedema.any():
        middle = torch.nonzero(core).float().mean(0)
        near, far = ((torch.nonzero(part).float() - middle).norm(dim=1).mean() for part in (core, oedema))
        assert float(far) > float(near)


def test_without_white_matter_there_is_no_tumour() -> None:
    empty = torch.zeros(8, 8, 8, dtype=torch.long)
    assert torch.equal(add_tumour(empty, 2.0, Draws(0)), empty)


def test_sequences_show_what_scanners_show() -> None:
    for seed in range(8):
        shown = {name: sequence_contrast(name, Draws(seed)).means for name in SEQUENCES}
        white, grey = 1, 2
        assert shown["t1"][white] > shown["t1"][FLUID] and shown["t2"][white] < shown["t2"][FLUID]
        assert shown["flair"][FLUID] < min(shown["flair"][grey], shown["flair"][OEDEMA])
        assert shown["t1c"][ENHANCING] > shown["t1c"][NECROSIS]
        assert shown["t2"][OEDEMA] > shown["t2"][white]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CaseSynthesiser]:
    path = tmp_path_factory.mktemp("maps") / "labels.nii.gz"
    write_labels(path)
    label_map = brain_from_file(path)

    def make(**changes: object) -> CaseSynthesiser:
        table = class_table([[9001], [9002], [9003]])
        return CaseSynthesiser(
            [label_map], table, 4, (24, 24, 24), (2.0, 2.0), images=4, sequences=tuple(SEQUENCES), look=PLAIN, **changes
        )

    return make


def test_cases_hold_their_shares_and_four_images(cases: Callable[..., CaseSynthesiser]) -> None:
    case = cases(tumours=1.0)[2]
    assert case.images.shape == (1, 4, 24, 24, 24)
    torch.testing.assert_close(case.target.sum(1), torch.ones(1, 24, 24, 24))
    assert float(case.target[:, 3].sum()) > 3
    none = cases(tumours=0.0)[2]
    assert float(none.target[:, 1:].sum()) == 0


def test_contrast_agent_lights_the_enhancing_part_up(cases: Callable[..., CaseSynthesiser]) -> None:
    """T1 and T1 with contrast agent differ most where the tumour enhances."""
    brighter = 0
    for number in range(6):
        case = cases(tumours=1.0, stripped=1.0)[number]
        enhancing, healthy = case.target[0, 3] > 0.9, (case.target[0, 0] > 0.99) & (case.images[0, 1] > 0.3)
        if int(enhancing.sum()) < 3:
            continue
        gain = case.images[0, 0] - case.images[0, 1]
        brighter += bool(gain[enhancing].mean() > gain[healthy].mean())
    assert brighter >= 3
