"""The networks as they are trained, the loss around each, and the network that is kept of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hyperreg.errors import WeightsError
from hyperreg.nets.anisotropic import AHNet, MultiChannelGCN, adjacent_slices
from hyperreg.nets.cascade import Cascade, crop
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.segresnet import BRANCH, HEADS, DeepOutput, SegResNet, SegResNetVAE, VaeOutput, without_vae
from hyperreg.nets.sided import SidedNet
from hyperreg.segmentation.model import make_network
from hyperreg.training import hyper
from hyperreg.training.cases import SyntheticCase
from hyperreg.training.segmentation_config import SegmentationConfig
from hyperreg.training.segmentation_losses import segmentation_loss, vae_loss

Parts = dict[str, Tensor]


def trained_network(config: SegmentationConfig) -> nn.Module:
    """The network with what only training needs: variational branches, AH-Net's 2D network."""
    options: dict[str, Any] = dict(config.network.get("options", {}))
    inputs, classes = len(config.inputs), config.classes
    if config.network["name"] == "segresnet":
        return _segresnet(config, inputs, config.shape, options)
    if config.network["name"] == "cascade":
        first = _segresnet(config, inputs, config.shape, options["first"])
        second = _segresnet(
            config, inputs + classes - 1, options["window"], {**options["second"], "gated": True}, inputs
        )
        return Cascade(first, second, options["window"], exclusive=True)
    if config.network["name"] in ("monai_unet", "sided"):
        return make_network(config.network, inputs, classes, exclusive=True)
    networks: dict[str, nn.Module] = {"deep": AHNet(inputs, classes, **options)}
    if config.phases is not None:
        same = {name: options[name] for name in ("width", "layers") if name in options}
        networks["flat"] = MultiChannelGCN(inputs, classes, **same)
    return nn.ModuleDict(networks)


def kept_network(network: nn.Module) -> nn.Module:
    """What is used after training, in evaluation: without variational branches, of AH-Net the 3D network."""
    if isinstance(network, HyperNetwork):
        return hyper.over(network, kept_network(network.backbone))
    if isinstance(network, SegResNetVAE):
        return without_vae(network).eval()
    if isinstance(network, Cascade):
        first, second = kept_network(network.first), kept_network(network.second)
        return Cascade(first, second, network.window, network.exclusive).eval()
    if isinstance(network, nn.ModuleDict):
        return network["deep"].eval()
    return network.eval()


def start_network(network: nn.Module, trained: nn.Module) -> None:
    """Take over a trained network's weights; variational branches, which it no longer has, stay as they are.

    A network that tells left from right goes on from one that does not, which then is not trained any more: only the
    side is. Raises WeightsError if the networks differ in anything else.
    """
    deep = network["deep"] if isinstance(network, nn.ModuleDict) else network
    if isinstance(deep, SidedNet) and not isinstance(trained, SidedNet):
        deep = deep.network.requires_grad_(False)
    try:
        missing, unexpected = deep.load_state_dict(trained.state_dict(), strict=False)
    except RuntimeError as error:
        raise WeightsError(f"The model to start from has another network: {error}") from error
    lost = [*unexpected, *(name for name in missing if BRANCH not in name and HEADS not in name)]
    if lost:
        raise WeightsError(f"The model to start from has another network; these do not fit: {lost[:5]}.")


def enter_phase(network: nn.Module, config: SegmentationConfig, step: int) -> None:
    """Lock and transfer what AH-Net's phase at `step` (steps done) asks for; nothing for other networks.

    The transfer happens at the first step in 3D; a resumed run finds it in its weights.
    """
    phases = config.phases
    if phases is None or not isinstance(network, nn.ModuleDict):
        return
    deep, flat = network["deep"], network["flat"]
    assert isinstance(deep, AHNet)  # noqa: S101 (made above)
    assert isinstance(flat, MultiChannelGCN)  # noqa: S101
    if step == phases.flat:
        deep.copy_encoder(flat)
    deep.lock_encoder(phases.flat <= step < phases.flat + phases.locked)


def switch_branches(network: nn.Module, config: SegmentationConfig, step: int) -> None:
    """Whether the variational branches take part in `step` (steps done): every `vae.every` steps, `vae.until` then."""
    for module in network.modules():
        if isinstance(module, SegResNetVAE) and config.vae is not None:
            module.branch = step % config.vae.every == 0 and config.vae.share_at(step) > 0


class SegmentationObjective(nn.Module):
    """A network and the loss that trains it; a module, so that engines can wrap it."""

    def __init__(self, network: nn.Module, config: SegmentationConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.weights = config.loss
        self.precision = getattr(torch, config.precision)

    def forward(
        self, case: SyntheticCase, step: int, generator: torch.Generator, lam: float | None = None
    ) -> tuple[Tensor, Parts]:
        """Loss of a case on the network's device, and its parts without gradients (scalars, there as well).

        step: steps done, for AH-Net's phases and the loss's. generator: on the CPU, for what is drawn. lam: of a
        hypernetwork.
        """
        if isinstance(self.network, HyperNetwork):
            return self._conditioned(self.network, case, step, generator, lam)
        self.weights = self.config.loss.at(step)
        with torch.autocast(case.images.device.type, self.precision, enabled=self.precision != torch.float32):
            return self._loss(case, step, generator)

    def _conditioned(
        self, network: HyperNetwork, case: SyntheticCase, step: int, generator: torch.Generator, lam: float | None
    ) -> tuple[Tensor, Parts]:
        """The loss at a λ, of the network that is made for it."""
        config = self.config
        assert config.hyper is not None  # noqa: S101 (else there is no hypernetwork)
        assert lam is not None  # noqa: S101
        changed = config.model_copy(update={"loss": hyper.loss_for(config.loss, config.hyper, lam)})
        weights = network.generate(torch.tensor([lam], device=case.images.device))
        named = {f"network.{name}": weight for name, weight in weights.items()}
        found: tuple[Tensor, Parts] = functional_call(
            SegmentationObjective(network.backbone, changed), named, (case, step, generator)
        )
        return found

    def _loss(self, case: SyntheticCase, step: int, generator: torch.Generator) -> tuple[Tensor, Parts]:
        network = self.network
        if isinstance(network, Cascade):
            return self._cascade(network, case, step)
        if isinstance(network, nn.ModuleDict):
            phases = self.config.phases
            if phases is not None and step < phases.flat:
                return self._flat(network["flat"], case, phases.slices_per_step, generator)
            return self._compared(network["deep"](case.images), case.images, case.target, case.unknown)
        return self._compared(network(case.images), case.images, case.target, case.unknown, step)

    def _compared(
        self,
        output: Tensor | VaeOutput | DeepOutput,
        images: Tensor,
        target: Tensor,
        unknown: tuple[int, ...],
        step: int = 0,
    ) -> tuple[Tensor, Parts]:
        output, deeper = output if isinstance(output, DeepOutput) else (output, ())
        logits = output.logits if isinstance(output, VaeOutput) else output
        with torch.autocast(images.device.type, enabled=False):
            loss, parts = segmentation_loss(logits.float(), target, self.weights, unknown)
            for level, coarse in enumerate(deeper, start=1):
                smaller = F.avg_pool3d(target, 2**level)
                loss = loss + 0.5**level * segmentation_loss(coarse.float(), smaller, self.weights, unknown)[0]
            if isinstance(output, VaeOutput) and self.config.vae is not None:
                more, told = vae_loss(output, images, self.config.vae)
                loss, parts = loss + self.config.vae.share_at(step) * more, {**parts, **told}
        return loss, parts

    def _cascade(self, network: Cascade, case: SyntheticCase, step: int) -> tuple[Tensor, Parts]:
        """Both stages side by side: stage 2 learns from what stage 1 finds at this step (its snapshots are the
        expanded data set), without changing it: a one-hot map has no gradient.
        """
        output = network.first(case.images)
        coarse = output.logits if isinstance(output, VaeOutput) else output
        first, parts = self._compared(output, case.images, case.target, case.unknown, step)
        patches, corners = network.second_input(case.images, coarse.detach())
        # Beyond the image there is background.
        wanted = torch.cat([crop(case.target[n : n + 1], c, network.window) for n, c in enumerate(corners)])
        wanted[:, :1] += 1 - wanted.sum(1, keepdim=True)
        second, more = self._compared(network.second(patches), patches, wanted, case.unknown, step)
        named = {**{f"first_{name}": part for name, part in parts.items()}, **more}
        return first + second, named

    def _flat(
        self, network: nn.Module, case: SyntheticCase, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Parts]:
        slices = adjacent_slices(case.images)
        target = case.target.permute(0, 4, 1, 2, 3).flatten(0, 1)
        chosen = torch.randperm(len(slices), generator=generator)[:count].to(slices.device)
        return self._compared(network(slices[chosen]), slices[chosen], target[chosen], case.unknown)


def _segresnet(
    config: SegmentationConfig, inputs: int, shape: Any, options: dict[str, Any], reconstructed: int | None = None
) -> nn.Module:
    if config.vae is None:
        return SegResNet(inputs, config.classes, **options)
    return SegResNetVAE(
        inputs,
        config.classes,
        shape,
        codes=config.vae.codes,
        reconstructed=reconstructed,
        deep=config.deep_supervision,
        **options,
    )
