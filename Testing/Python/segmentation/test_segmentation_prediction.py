"""The sliding window, flips, the ladder of memory, cancelling."""

from __future__ import annotations

import pytest
import torch
from segmentation_bench import Bands
from torch import Tensor, nn

from hyperreg.errors import Cancelled, OutOfMemory
from hyperreg.nets.anisotropic import AHNet
from hyperreg.nets.cascade import Cascade
from hyperreg.nets.segresnet import SegResNet
from hyperreg.segmentation.model import make_network
from hyperreg.segmentation.prediction import Prediction, Step, ladder, window_count


class Ramp(nn.Module):
    """Answers with the place in the window along the first axis: flips and blending are visible."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1, 1).expand_as(x[:, :1])
        return torch.cat((torch.zeros_like(ramp), ramp * x[:, :1]), 1)


class Hungry(Bands):
    """Runs out of memory in windows larger than it bears."""

    def __init__(self, bears: int, error: BaseException) -> None:
        super().__init__()
        self.bears, self.error = bears, error

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > self.bears:
            raise self.error
        return super().forward(x)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def test_a_voxelwise_network_gives_the_same_in_windows_as_at_once() -> None:
    x = images(50, 40, 37)
    run = Prediction(Bands(), (16, 16, 16), exclusive=True)
    expected = Bands()(x).softmax(1)[0]
    torch.testing.assert_close(run(x), expected.detach(), rtol=1e-2, atol=1e-2)
    assert run(x).sum(0).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_temperature_makes_a_network_less_sure(exclusive: bool) -> None:
    x = images(20, 20, 20)
    found = Prediction(Bands(), (16, 16, 16), exclusive, temperature=2.0)(x)
    logits = Bands()(x)[0].detach() / 2
    torch.testing.assert_close(found, logits.softmax(0) if exclusive else logits.sigmoid(), rtol=1e-2, atol=1e-2)


def test_regions_are_probabilities_of_their_own() -> None:
    x = images(20, 20, 20)
    found = Prediction(Bands(), (16, 16, 16), exclusive=False)(x)
    torch.testing.assert_close(found, Bands()(x).sigmoid()[0].detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 2), (17, 16, 15)])
def test_images_smaller_than_the_window_keep_their_size(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    for network in (SegResNet(1, 2, 4, (1, 1), (1,)), AHNet(1, 2, 2, (1, 1, 1, 1), growth=2)):
        assert Prediction(network.eval(), (16, 16, 16), exclusive=True)(images(*shape)).shape == (2, *shape)


@pytest.mark.parametrize("shape", [(4, 4, 4), (3, 9, 2), (1, 1, 1)])
def test_images_of_a_few_voxels_leave_the_norms_something_to_norm(shape: tuple[int, int, int]) -> None:
    options = {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 1}
    network = make_network({"name": "monai_unet", "options": options}, 1, 3, True).eval()
    found = Prediction(network, (16, 16, 16), True)(torch.rand(1, 1, *shape))
    assert found.shape == (3, *shape)
    assert torch.isfinite(found).all()


def test_windows_are_counted_as_monai_counts_them() -> None:
    calls = 0

    class Counting(Bands):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x)

    for shape in ((16, 16, 16), (17, 30, 45), (64, 16, 20)):
        calls = 0
        Prediction(Counting(), (16, 16, 16), exclusive=True)(images(*shape))
        assert calls == window_count(shape, (16, 16, 16), 0.5)


def test_every_combination_of_flips_is_averaged_once() -> None:
    x = images(16, 16, 16)
    run = Prediction(Ramp(), (16, 16, 16), exclusive=True, flips=(0, 2))
    assert run.flips == [(), (0,), (2,), (0, 2)]
    found = run(x)[1]
    plain = torch.sigmoid(torch.linspace(0, 1, 16).view(-1, 1, 1) * x[0, 0])
    flipped = torch.sigmoid(torch.linspace(1, 0, 16).view(-1, 1, 1) * x[0, 0])
    torch.testing.assert_close(found, (plain + flipped) / 2, rtol=1e-2, atol=1e-2)
    assert (plain - flipped).abs().max() > 0.2


def test_the_ladder_wants_less_memory_at_each_step() -> None:
    assert [str(step) for step in ladder("cuda", (96, 96, 64), 8)] == [
        "on the GPU in windows of 96 x 96 x 64",
        "on the GPU in windows of 96 x 96 x 64, put together in main memory",
        "on the GPU in windows of 48 x 48 x 32, put together in main memory",
        "on the CPU in windows of 96 x 96 x 64",
        "on the CPU in windows of 48 x 48 x 32",
        "on the CPU in windows of 32 x 32 x 32",
    ]
    assert ladder("cpu", (20, 20, 20)) == [Step("cpu", "cpu", (20, 20, 20))]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_smaller_windows_are_tried_and_told_when_memory_is_short(error: BaseException) -> None:
    x = images(70, 70, 70)
    run = Prediction(Hungry(40, error), (64, 64, 64), exclusive=True)
    torch.testing.assert_close(run(x), Bands()(x).softmax(1)[0].detach(), rtol=1e-2, atol=1e-2)
    assert [step.window for step in run.steps] == [(64, 64, 64), (32, 32, 32)]
    (told,) = run.warnings()
    assert "did not suffice on the CPU in windows of 64 x 64 x 64" in told
    assert told.endswith("on the CPU in windows of 32 x 32 x 32.")
    run(images(8, 8, 8))
    assert run.warnings() == []


def test_too_little_memory_for_anything_is_an_error_for_the_user() -> None:
    run = Prediction(Hungry(0, MemoryError()), (64, 64, 64), exclusive=True)
    with pytest.raises(OutOfMemory, match=r"70 x 70 x 70.*[Cc]lose other programs, or crop"):
        run(images(70, 70, 70))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    run = Prediction(Hungry(0, RuntimeError("a fault")), (64, 64, 64), exclusive=True)
    with pytest.raises(RuntimeError, match="a fault"):
        run(images(70, 70, 70))
    assert len(run.steps) == 1


def test_cancelling_ends_between_windows_and_progress_grows() -> None:
    told: list[float] = []
    run = Prediction(
        Bands(), (16, 16, 16), True, flips=(0,), progress=lambda f, _: told.append(f), cancelled=lambda: len(told) > 9
    )
    with pytest.raises(Cancelled):
        run(images(40, 40, 40))
    assert len(told) <= 11
    done: list[float] = []
    Prediction(Bands(), (16, 16, 16), True, flips=(0,), progress=lambda f, _: done.append(f))(images(40, 24, 24))
    assert done == sorted(done)
    assert done[0] == 0
    assert 0.9 < done[-1] < 1


def test_the_cascade_s_second_stage_sees_one_window() -> None:
    seen: list[tuple[int, ...]] = []

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[2:]))
            return 100 * (x[:, :1] - 0.9)

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x.shape[1], *x.shape[2:]))
            return torch.full_like(x[:, :1], 50.0)

    x = 0.5 * images(40, 24, 24)
    x[..., 30:32, 10:12, 10:12] = 1
    found = Prediction(Cascade(First(), Second(), (16, 16, 16), exclusive=False), (24, 24, 24), exclusive=False)(x)
    assert seen[-1] == (2, 16, 16, 16)
    assert set(seen[:-1]) == {(24, 24, 24)}
    assert (found > 0.5).sum() == 16**3
    assert found[0, 31, 11, 11] > 0.99
