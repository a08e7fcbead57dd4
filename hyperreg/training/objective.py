"""What is learned from one pair: HyperMorph's loss under hyperparameters that are drawn anew for every pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperreg.registration import losses
from hyperreg.registration.field import compose, integrate, jacobian_determinant, sample
from hyperreg.registration.model import RegistrationModel
from hyperreg.training.config import RegistrationConfig
from hyperreg.training.synthesis import SyntheticPair

# The overlap is also measured on structures averaged over cubes of this many voxels.
COARSE = 4


def draw_value(ends: float, generator: torch.Generator) -> float:
    """Uniform in [0, 1], but with probability `ends` one of the two ends, which a uniform draw hardly visits."""
    first, second = torch.rand(2, generator=generator).tolist()
    return float(second < 0.5) if first < ends else second


class Objective(nn.Module):
    """A network and the loss that trains it, HyperMorph's with the terms of a configuration; a module, so that engines
    can wrap it.
    """

    def __init__(self, model: RegistrationModel, config: RegistrationConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, pair: SyntheticPair, values: list[float], later_pass: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a pair on the model's device, and its parts without gradients (scalars, there as well).

        values: lambda, and gamma if the model declares it.
        later_pass: the network is trained on what a first pass of its own, which is not trained, has left to do.
        """
        fixed, moving = pair.images.split(1, dim=1)
        weights = self.model.weights(torch.tensor(values, device=fixed.device))
        if later_pass:
            with torch.no_grad():
                before = self.model.velocity(weights, fixed, moving)
                warp = integrate(before)
            step = self.model.velocity(weights, fixed, sample(moving, warp))
            velocity = before + step
            displacement = compose(warp, integrate(step))
        else:
            velocity = self.model.velocity(weights, fixed, moving)
            displacement = integrate(velocity)
        return self.loss(pair, displacement, velocity, values)

    def loss(
        self, pair: SyntheticPair, displacement: Tensor, rough: Tensor, values: list[float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a field on the pair's voxels, and its parts without gradients (scalars).

        rough: the field whose smoothness counts: a velocity, or the displacement itself. values: lambda, and gamma.
        """
        images = self.image_term(pair, sample(pair.images[:, 1:], displacement))
        structures = sample(pair.moving_structures, displacement) if pair.has_structures else pair.moving_structures
        overlap = losses.dice_loss(pair.fixed_structures, structures)
        # Structures that do not touch yet pull on each other only after a blur.
        coarse = overlap
        if pair.has_structures:
            coarse = losses.dice_loss(F.avg_pool3d(pair.fixed_structures, COARSE), F.avg_pool3d(structures, COARSE))
        labels = self.config.overlap_weight * (overlap + coarse) / 2
        error, truth = self.truth_term(pair, displacement)
        smoothness = losses.diffusion(rough)
        weighted = self.config.smoothness_weight * smoothness
        if len(values) == 1 or not pair.has_structures:
            # Where no structures are known the images count fully, whatever gamma is.
            loss = losses.hyper_loss(images + labels + truth, weighted, values[0])
        else:
            # The true field is neither an image nor a label map: it counts whatever gamma is.
            loss = losses.semi_supervised_hyper_loss(images + truth, weighted, labels + truth, *values)
        with torch.no_grad():
            parts = {
                "images": images,
                "overlap": overlap,
                "overlap_before": losses.dice_loss(pair.fixed_structures, pair.moving_structures),
                "smoothness": smoothness,
                "error_voxels": error,
                "folding_percent": (jacobian_determinant(displacement) <= 0).float().mean() * 100,
            }
        return loss, {name: part.detach() for name, part in parts.items()}

    def image_term(self, pair: SyntheticPair, warped: Tensor) -> Tensor:
        """LNCC where the contrasts agree, else the difference of descriptors that do not depend on them."""
        fixed = pair.images[:, :1]
        if pair.same_contrast:
            return self.config.image_weight * losses.lncc_loss(fixed, warped, self.config.lncc_width)
        if self.config.cross_contrast_weight == 0:
            return fixed.new_zeros(())
        return self.config.cross_contrast_weight * losses.mind_loss(fixed, warped)

    def truth_term(self, pair: SyntheticPair, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Mean error inside the structures, voxels, and its weighted Huber loss; NaN and zero if no truth is known."""
        if pair.displacement is None:
            return displacement.new_tensor(float("nan")), displacement.new_zeros(())
        inside = (pair.fixed_structures.sum(1) > 0.5).float()
        missed = displacement - pair.displacement
        total = inside.sum().clamp_min(1)
        error = (missed.norm(dim=1) * inside).sum() / total
        huber = F.huber_loss(missed, torch.zeros_like(missed), reduction="none").mean(1)
        return error, self.config.truth_weight * (huber * inside).sum() / total
