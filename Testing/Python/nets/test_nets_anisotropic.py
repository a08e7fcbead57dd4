"""AH-Net: what is transferred from 2D to 3D, sizes, and what is locked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyperreg.errors import WeightsError
from hyperreg.nets.anisotropic import AHNet, Encoder, MultiChannelGCN, adjacent_slices, enlarged

SMALL = {"width": 4, "layers": (2, 1, 1, 1)}


def trained_looking(network: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and running statistics as after training: none of them what it starts with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.2)):
                    tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
    return network.eval()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_3d_encoder_sees_in_each_slice_what_the_2d_one_sees(channels: int) -> None:
    torch.manual_seed(0)
    flat = trained_looking(MultiChannelGCN(channels, 3, **SMALL))
    deep = AHNet(channels, 3, growth=4, halvings=0, **SMALL).eval()
    deep.copy_encoder(flat)
    volume = torch.randn(1, channels, 40, 36, 5)
    with torch.no_grad():
        flat_features = flat.encoder(adjacent_slices(volume))
        deep_features = deep.encoder(volume)
    assert len(flat_features) == len(deep_features) == 6
    for two, three in zip(flat_features, deep_features, strict=True):
        slices = three[0].permute(3, 0, 1, 2)
        torch.testing.assert_close(slices, two, rtol=1e-4, atol=1e-4)
        assert two.std() > 0.01  # something to compare


def test_the_transfer_needs_the_running_statistics() -> None:
    """Without them, which is what MONAI's copy does, the features are others: the test above can fail."""
    flat = trained_looking(MultiChannelGCN(1, 3, **SMALL))
    deep = AHNet(1, 3, growth=4, halvings=0, **SMALL).eval()
    deep.copy_encoder(flat)
    volume = torch.randn(1, 1, 40, 36, 5)
    with torch.no_grad():
        right = deep.encoder(volume)[-1]
        for module in deep.encoder.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.reset_running_stats()
        assert (deep.encoder(volume)[-1] - right).abs().mean() > 0.1 * right.abs().mean()


def test_instance_norms_take_over_the_weights_without_statistics() -> None:
    flat = trained_looking(MultiChannelGCN(1, 2, **SMALL))
    deep = AHNet(1, 2, growth=4, norm="instance", **SMALL)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in deep.modules())
    deep.copy_encoder(flat)
    assert torch.equal(deep.encoder.bn0.weight, flat.encoder.bn0.weight)
    assert torch.equal(deep.encoder.conv1.weight[0, 0, :, :, 2], flat.encoder.conv1.weight[0, 2])
    volume = 100 * torch.rand(1, 1, 40, 40, 6)
    with torch.no_grad():
        # A brighter image of more contrast is the same image, in training and in use.
        used = deep.eval()(volume)
        torch.testing.assert_close(deep(3 * volume), used, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(deep.train()(volume), used)


def test_halving_the_slices_takes_over_the_same_weights() -> None:
    flat = trained_looking(MultiChannelGCN(1, 2, **SMALL))
    deep = AHNet(1, 2, growth=4, **SMALL)
    deep.copy_encoder(flat)
    assert torch.equal(deep.encoder.bn0.running_mean, flat.encoder.bn0.running_mean)
    two = flat.encoder.conv1.weight
    assert torch.equal(deep.encoder.conv1.weight[0, 0, :, :, 2], two[0, 2])


def test_other_encoders_are_refused() -> None:
    with pytest.raises(WeightsError, match="layers"):
        AHNet(1, 2, width=4, layers=(1, 1, 1, 1)).copy_encoder(MultiChannelGCN(1, 2, **SMALL))
    with pytest.raises(WeightsError, match="size"):
        AHNet(1, 2, width=8, layers=(2, 1, 1, 1)).copy_encoder(MultiChannelGCN(1, 2, **SMALL))


@pytest.mark.parametrize("shape", [(33, 47, 5), (64, 32, 32), (16, 70, 1), (1, 1, 1), (100, 20, 7)])
@pytest.mark.parametrize("halvings", [0, 3, 5])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_any_size_goes_in_and_comes_out(shape: tuple[int, int, int], halvings: int, norm: str) -> None:
    network = AHNet(2, 3, growth=4, halvings=halvings, norm=norm, **SMALL).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 2, *shape)).shape == (1, 3, *shape)


def test_the_slices_are_halved_in_the_deepest_levels() -> None:
    volume = torch.rand(1, 1, 64, 64, 20)
    slices = {n: [f.shape[4] for f in Encoder(3, 1, 4, (1, 1, 1, 1), n)(volume)] for n in (0, 2, 5)}
    assert slices == {0: [20] * 6, 2: [20, 20, 20, 20, 10, 5], 5: [10, 5, 5, 3, 2, 1]}
    assert [f.shape[2] for f in Encoder(3, 1, 4, (1, 1, 1, 1), 0)(volume)] == [32, 16, 16, 8, 4, 2]


def test_what_is_found_does_not_depend_on_empty_space_behind_it() -> None:
    """Sizes that are no multiple of anything: nothing may move when the image has more voxels."""
    torch.manual_seed(0)
    small = torch.zeros(1, 1, 12, 12, 3)
    large = torch.zeros(1, 1, 12, 12, 8)
    small[..., 2] = large[..., 2] = torch.rand(12, 12)
    first, second = (enlarged(nn.functional.max_pool3d(v, 2, ceil_mode=True), v.shape[2:]) for v in (small, large))
    torch.testing.assert_close(first[..., :2], second[..., :2])


def test_a_locked_encoder_keeps_its_weights_and_statistics() -> None:
    torch.manual_seed(0)
    network = AHNet(1, 2, growth=4, **SMALL).train()
    network.lock_encoder()
    network.train()
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(2, 1, 40, 40, 6)).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    assert network.dense[0].training
    network.lock_encoder(False)
    assert network.encoder.training
    network(torch.rand(2, 1, 40, 40, 6)).square().mean().backward()
    assert network.encoder.conv1.weight.grad.abs().sum() > 0
    assert not torch.equal(network.encoder.bn0.running_mean, before["bn0.running_mean"])


@pytest.mark.parametrize(
    "network",
    [
        MultiChannelGCN(1, 2, **SMALL),
        AHNet(1, 2, growth=4, **SMALL),
        AHNet(1, 2, growth=4, norm="instance", **SMALL),
    ],
)
def test_every_parameter_learns(network: nn.Module) -> None:
    torch.manual_seed(0)
    shape = (2, 3, 64, 64) if isinstance(network, MultiChannelGCN) else (2, 1, 64, 64, 8)
    network.train()(torch.rand(*shape)).square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_2d_network_gives_the_middle_slice_s_size() -> None:
    assert MultiChannelGCN(2, 3, **SMALL).eval()(torch.rand(1, 6, 33, 47)).shape == (1, 3, 33, 47)


def test_width_makes_it_small() -> None:
    sizes = [sum(p.numel() for p in AHNet(1, 2, width=w, layers=(1, 1, 1, 1)).parameters()) for w in (8, 32)]
    assert sizes[0] * 4 < sizes[1]


@pytest.mark.parametrize("wrong", [{"halvings": 6}, {"pools": 5}, {"layers": (1, 1, 1)}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(WeightsError, match="AH-Net"):
        AHNet(1, 2, **{**SMALL, **wrong})
