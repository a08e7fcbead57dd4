"""SegResNet with its variational branch: gradients, terms, and that nothing is lost when the branch is dropped."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import segresnet
from torch import nn

from hyperreg.errors import WeightsError
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.segresnet import AttentionGate, SegResNet, SegResNetVAE, without_vae

SHAPE = (16, 16, 32)


def make_network(**options: object) -> SegResNetVAE:
    torch.manual_seed(0)
    settings = {"filters": 8, "blocks_down": (1, 1, 1, 1), "codes": 4, **options}
    return SegResNetVAE(2, 3, SHAPE, **settings)


def make_images(seed: int = 1) -> torch.Tensor:
    return torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"gated": True}, {"normed": True}])
def test_the_network_without_its_branch_is_the_same_network(options: dict) -> None:
    network = make_network(**options).eval()
    with torch.no_grad():  # norms and biases that start at 0 or 1 would hide a mix-up
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        plain = without_vae(network)
        images = make_images()
        torch.testing.assert_close(plain(images), network(images).logits, rtol=0, atol=0)
    assert not any(name.startswith("vae_") for name in plain.state_dict())
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in network.parameters())


def test_dropping_the_branch_loses_nothing_else() -> None:
    network = make_network()
    network.extra = nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="extra"):
        without_vae(network)


def test_ungated_logits_are_those_of_monai_s_network() -> None:
    network = without_vae(make_network().eval())
    theirs = segresnet.SegResNet(
        init_filters=8, in_channels=2, out_channels=3, blocks_down=(1, 1, 1, 1), blocks_up=(1, 1, 1)
    )
    theirs.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(network(make_images()), theirs(make_images()))


@pytest.mark.parametrize("normed", [False, True])
def test_norms_keep_what_the_levels_hand_on_at_one_size(normed: bool) -> None:
    """Without them the size of what a level adds depends on its weights."""
    network = without_vae(make_network(normed=normed).eval())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("down_layers.2") and "conv2" in name:
                parameter.mul_(30)
        features = network.encode(make_images())[1]
    sizes = [feature.std().item() for feature in features]
    assert (max(sizes) < 1.05 * min(sizes)) is normed


def test_without_the_branch_other_sizes_work() -> None:
    network = without_vae(make_network().eval())
    assert network.multiple == 8
    assert network(torch.rand(2, 2, 24, 8, 40)).shape == (2, 3, 24, 8, 40)


def test_every_parameter_learns_from_logits_and_reconstruction() -> None:
    """MONAI's default leaves the layer of the standard deviation without gradient."""
    network = make_network(gated=True)
    images = make_images()
    output = network(images)
    loss = output.logits.square().mean() + (output.reconstruction - images).square().mean() + output.std.mean()
    loss.backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_sampling_is_reparameterised() -> None:
    """The reconstruction alone moves the mean and the standard deviation, by way of the sample."""
    network = make_network(dropout=None)
    output = network(make_images())
    mean, std = torch.autograd.grad(output.reconstruction.square().mean(), (output.mean, output.std))
    assert mean.abs().min() > 0
    assert std.abs().min() > 0
    assert output.std.min() > 0


def test_samples_differ_in_training_and_not_in_evaluation() -> None:
    network = make_network(dropout=None)
    images = make_images()
    with torch.no_grad():
        assert not torch.equal(network(images).reconstruction, network(images).reconstruction)
        network.eval()
        torch.testing.assert_close(network(images).reconstruction, network(images).reconstruction, rtol=0, atol=0)


def test_some_channels_only_are_reconstructed() -> None:
    assert make_network(reconstructed=1)(make_images()).reconstruction.shape == (1, 1, *SHAPE)


@pytest.mark.parametrize("shape", [(16, 16, 24), (16, 16), (0, 16, 16)])
def test_patches_that_cannot_be_halved_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="16"):
        SegResNetVAE(1, 2, shape)


def test_the_gate_lets_through_what_the_coarser_feature_points_to() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(4, 2, 2)
    with torch.no_grad():
        for part in (gate.coarse[0], gate.fine[0], gate.psi[0]):
            part.weight.zero_()
            part.bias.zero_()
        gate.coarse[0].weight[:, 0] = 1
        gate.psi[0].weight.fill_(1)
        gate.psi[1].weight.fill_(10)
        g = torch.zeros(1, 4, 4, 4, 4)
        g[:, 0, :2] = 1
        x = torch.ones(1, 2, 8, 8, 8)
        out = gate(g, x)
    assert out.shape == x.shape
    assert out[:, :, :3].min() > 0.95
    assert out[:, :, 5:].max() < 0.05


def test_each_level_has_its_gate_with_the_paper_s_channels() -> None:
    gates = SegResNet(1, 2, filters=32, blocks_down=(1, 1, 1, 1), gated=True).gates
    assert gates is not None
    found = [(g.coarse[0].in_channels, g.fine[0].in_channels, g.psi[0].in_channels) for g in gates]
    assert found == [(256, 128, 128), (128, 64, 64), (64, 32, 32)]


def test_a_hypernetwork_can_make_its_weights() -> None:
    backbone = SegResNet(1, 2, filters=4, blocks_down=(1, 1), blocks_up=(1,))
    hyper = HyperNetwork(backbone, hidden=(4, 4))
    images = torch.rand(1, 1, 8, 8, 8)
    low, high = (hyper(torch.tensor([value]), images) for value in (0.0, 1.0))
    assert low.shape == (1, 2, 8, 8, 8)
    assert not torch.allclose(low, high)
