"""The two-stage cascade: where the second stage looks, what it sees, and what becomes of its result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyperreg.errors import WeightsError
from hyperreg.nets.cascade import Cascade, crop, fullest_window, one_hot, paste
from hyperreg.nets.segresnet import SegResNet


class Threshold(nn.Module):
    """Stands in for stage 1: one region where the first channel is above a half."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * (images[:, :1] - 0.5)


class Recorder(nn.Module):
    """Stands in for stage 2: remembers what it saw and answers with one number."""

    multiple = 4
    seen: Tensor

    def forward(self, both: Tensor) -> Tensor:
        self.seen = both
        return torch.full_like(both[:, :1], 7.0)


def lesion(*places: tuple[slice, slice, slice], shape: tuple[int, int, int] = (20, 24, 16)) -> Tensor:
    image = torch.zeros(1, 2, *shape)
    image[:, 1] = torch.arange(image[0, 1].numel()).view(shape) / 1000
    for place in places:
        image[(0, 0, *place)] = 1
    return image


def test_the_window_holds_the_whole_lesion_in_its_middle() -> None:
    mask = torch.zeros(20, 24, 16, dtype=torch.bool)
    mask[11:15, 3:7, 6:8] = True
    assert fullest_window(mask, (8, 8, 8)) == (9, 1, 3)


def test_the_window_holds_the_larger_of_two_lesions() -> None:
    mask = torch.zeros(40, 16, 16)
    mask[2:4, 4:6, 4:6] = 1
    mask[30:36, 4:8, 4:8] = 1
    i, j, k = fullest_window(mask, (8, 8, 8))
    assert mask[i : i + 8, j : j + 8, k : k + 8].sum() == mask[30:36].sum()


def test_two_equal_lesions_give_one_of_them_and_not_the_gap() -> None:
    mask = torch.zeros(40, 8, 8)
    mask[2:4, 2:4, 2:4] = 1
    mask[36:38, 2:4, 2:4] = 1
    i, j, k = fullest_window(mask, (8, 8, 8))
    assert mask[i : i + 8, j : j + 8, k : k + 8].sum() == 8


def test_nothing_found_means_the_middle_of_the_image() -> None:
    assert fullest_window(torch.zeros(20, 24, 16), (8, 8, 8)) == (6, 8, 4)


def test_a_window_larger_than_the_image_is_filled_up_and_cut_off_again() -> None:
    image = torch.rand(1, 2, 5, 12, 3)
    corner = fullest_window(image[0, 0] > 0.5, (8, 8, 8))
    patch = crop(image, corner, (8, 8, 8))
    assert patch.shape == (1, 2, 8, 8, 8)
    assert patch[:, :, 5:].abs().sum() == 0
    torch.testing.assert_close(paste(patch, image, corner), image)
    changed = paste(torch.full_like(patch, 9.0), image, corner)
    assert (changed == 9).sum() == 2 * 5 * 8 * 3


def test_stage_two_sees_the_found_region_and_the_images_at_the_same_place() -> None:
    image = lesion((slice(11, 15), slice(3, 7), slice(6, 8)))
    second = Recorder()
    logits = Cascade(Threshold(), second, (8, 8, 8), exclusive=False)(image)
    assert second.seen.shape == (1, 3, 8, 8, 8)
    torch.testing.assert_close(second.seen[0, 1:], image[0, :, 9:17, 1:9, 3:11])
    torch.testing.assert_close(second.seen[0, 0], image[0, 0, 9:17, 1:9, 3:11])
    inside = torch.zeros_like(image[:, :1], dtype=torch.bool)
    inside[:, :, 9:17, 1:9, 3:11] = True
    assert (logits[inside] == 7).all()
    # A lesion elsewhere is not lost: outside of the patch stage 1 speaks.
    torch.testing.assert_close(logits[~inside], Threshold()(image)[~inside])


def test_every_image_of_a_batch_has_its_own_window() -> None:
    images = torch.cat(
        [lesion((slice(2, 4), slice(2, 4), slice(2, 4))), lesion((slice(16, 18), slice(20, 22), slice(12, 14)))]
    )
    logits = Cascade(Threshold(), Recorder(), (8, 8, 8), exclusive=False)(images)
    assert [(logits[n] == 7).nonzero().float().mean(0)[1].item() for n in range(2)] == [4.5, 14.5]


def test_exclusive_channels_are_one_hot_without_the_background() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, 5.0], [2.0, 1.0, 2.0]]).view(1, 3, 3, 1, 1)
    assert one_hot(logits, exclusive=True).flatten().tolist() == [0, 1, 1, 0, 0, 0]
    assert one_hot(logits - 2.5, exclusive=False).flatten().tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0]


def test_real_networks_fit_together_and_learn() -> None:
    torch.manual_seed(0)
    small = {"filters": 4, "blocks_down": (1, 1), "blocks_up": (1,)}
    network = Cascade(SegResNet(2, 3, **small), SegResNet(4, 3, gated=True, **small), (8, 8, 8), exclusive=True)
    logits = network(torch.rand(2, 2, 12, 16, 10))
    assert logits.shape == (2, 3, 12, 16, 10)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.second.parameters())


def test_a_window_that_the_second_network_cannot_take_is_refused() -> None:
    with pytest.raises(WeightsError, match="divides"):
        Cascade(Threshold(), Recorder(), (8, 8, 6), exclusive=False)
