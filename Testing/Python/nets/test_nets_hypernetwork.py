"""The hypernetwork: any backbone, magnitude-invariant input, warm start, gradients."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from hyperreg.errors import WeightsError
from hyperreg.nets.backbones import make_backbone
from hyperreg.nets.hypernetwork import HyperNetwork, encode


def small_backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv3d(4, 3, 3, padding=1))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_the_encoding_has_the_same_norm_for_every_value(value: float) -> None:
    assert float(encode(torch.tensor([value])).norm()) == pytest.approx(1.0)


def test_without_a_residual_it_is_its_backbone() -> None:
    backbone = small_backbone()
    hyper = HyperNetwork(backbone)
    nn.init.zeros_(hyper.heads)
    image = torch.randn(1, 2, 6, 7, 8)
    assert torch.allclose(hyper(torch.tensor([0.4]), image), backbone(image), atol=1e-6)


def test_every_weight_but_the_fixed_ones_depends_on_the_hyperparameter() -> None:
    hyper = HyperNetwork(small_backbone(), fixed=["2.weight", "2.bias"])
    low, high = hyper.generate(torch.tensor([0.1])), hyper.generate(torch.tensor([0.9]))
    assert set(low) == {"0.weight", "0.bias"}
    assert all(not torch.equal(low[name], high[name]) for name in low)


def test_weights_do_not_shrink_with_the_hyperparameter() -> None:
    """The known fault of the plain form: at lambda = 0 only biases were left."""
    hyper = HyperNetwork(small_backbone())
    norms = [float(hyper.generate(torch.tensor([v]))["0.weight"].detach().norm()) for v in (0.0, 0.5, 1.0)]
    assert max(norms) / min(norms) < 1.2


def test_gradients_reach_base_and_residual() -> None:
    hyper = HyperNetwork(small_backbone(), hyperparameters=2)
    hyper(torch.tensor([0.2, 0.7]), torch.randn(1, 2, 6, 6, 6)).square().mean().backward()
    for name, parameter in hyper.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_it_wraps_a_network_of_another_library_unchanged() -> None:
    backbone = BasicUNet(spatial_dims=3, in_channels=2, out_channels=3, features=(4, 4, 8, 8, 8, 4)).eval()
    hyper = HyperNetwork(backbone)
    image = torch.randn(1, 2, 32, 32, 32)
    first, second = hyper(torch.tensor([0.0]), image), hyper(torch.tensor([1.0]), image)
    assert first.shape == (1, 3, 32, 32, 32)
    assert float((first - second).detach().abs().max()) > 1e-4


def test_a_wrong_fixed_name_and_an_unknown_backbone_are_refused() -> None:
    with pytest.raises(WeightsError, match="no parameters named"):
        HyperNetwork(small_backbone(), fixed=["nothing"])
    with pytest.raises(WeightsError, match="does not have"):
        make_backbone("not-there", 2, {})
    with pytest.raises(WeightsError, match="cannot be used"):
        make_backbone("voxelmorph_unet", 2, {"channels": [1], "unet_out_channels": 4, "final_channels": []})
