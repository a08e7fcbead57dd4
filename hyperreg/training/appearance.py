"""Images of label maps: random contrasts, and what scanners do to them (SynthMorph, arXiv 2004.10282)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.training.deformation import smooth_noise
from hyperreg.training.draws import Draws

# Images are made on a grid this much finer and averaged down: that is what gives partial volumes at tissue borders.
SUPERSAMPLING = 2
# White and grey matter, fluid, and deep nuclei between the first two, in the order of BRAIN_STRUCTURES.
T1_TISSUES = "wgfwgdggdffwggfgd"
LABELS = 256


@dataclass(frozen=True)
class Appearance:
    """How images look. "share": of the images that have it; the rest are the largest values, drawn from zero up.

    t1: share of brains whose tissues are ordered as in a T1 image. thick: share of images with thick slices, of at most
    `thickest` fine voxels (half a voxel each). cropped: share whose field of view ends inside, at most `crop` of the
    extent from each of one to three sides. blur: share blurred by up to a voxel. bias: SD of the logarithm of the bias
    field. noise: SD, of images in 0..1. gamma: SD of the logarithm of the exponent, not from zero up.
    """

    t1: float = 0.4
    thick: float = 0.3
    thickest: int = 4
    cropped: float = 0.0
    crop: float = 0.2
    blur: float = 0.5
    bias: float = 0.25
    noise: float = 0.04
    gamma: float = 0.2


@dataclass(frozen=True)
class Contrast:
    """Mean and SD of the intensity per label: (LABELS,) each."""

    means: Tensor
    spreads: Tensor


def draw_contrast(brain: bool, look: Appearance, draws: Draws) -> Contrast:
    """Random, or for brains at times ordered as in a T1 image."""
    means = draws.uniforms(0.1, 1.0, LABELS)
    if brain and draws.chance(look.t1):
        white, grey, fluid = (draws.uniform(*bounds) for bounds in ((0.8, 1.0), (0.45, 0.75), (0.1, 0.3)))
        tissue = {"w": white, "g": grey, "f": fluid, "d": (white + grey) / 2}
        t1 = torch.tensor([tissue[letter] for letter in T1_TISSUES], device=draws.device)
        means[1 : 1 + len(t1)] = t1 + draws.normals(len(t1)) * 0.03
    means[0] = 0.0 if draws.chance(0.8) else draws.uniform(0, 0.3)
    return Contrast(means, draws.uniforms(0.01, 0.08, LABELS))


def mean_of_cubes(image: Tensor, width: int) -> Tensor:
    """Mean over cubes of `width` voxels: (I w, J w, K w) to (1, 1, I, J, K)."""
    i, j, k = (n // width for n in image.shape)
    return image.view(i, width, j, width, k, width).mean((1, 3, 5))[None, None]


def render(
    labels: Tensor, contrast: Contrast, look: Appearance, draws: Draws, supersampling: int = SUPERSAMPLING
) -> Tensor:
    """An image (1, 1, I, J, K) in 0..1 of labels on a finer grid: texture, partial volumes, what scanners do."""
    means = contrast.means + draws.normals(LABELS) * 0.02
    fine = means[labels] + contrast.spreads[labels] * draws.normals(*labels.shape)
    if draws.chance(look.thick):
        fine = thick_slices(fine, draws.integer(0, 2), draws.integer(2, look.thickest))
    image = mean_of_cubes(fine, supersampling)
    head = mean_of_cubes((labels > 0).float(), supersampling)
    if draws.chance(look.blur):
        blurred = F.avg_pool3d(F.pad(image, (1,) * 6, mode="replicate"), 3, stride=1)
        image = blurred.lerp(image, draws.uniform(0, 1))
    shape = image.shape[2:]
    bias = smooth_noise(shape, max(shape) / 3, draws.fields, channels=1)
    image = image * (bias * draws.uniform(0, look.bias)).exp()
    image = image + draws.normals(*image.shape) * draws.uniform(0, look.noise) * (head > 0)
    image = scaled(image.clamp_min(0), head > 0.5)
    image = image ** float(torch.exp(torch.randn(1, generator=draws.numbers) * look.gamma))
    return cropped(image, look.crop, draws) if draws.chance(look.cropped) else image


def scaled(image: Tensor, head: Tensor) -> Tensor:
    """Divided by its 99th percentile in the head and cut to 0..1; by nearly its maximum where there is no head."""
    inside = image[head] if bool(head.any()) else image.flatten()
    top = torch.quantile(inside[:: max(1, inside.numel() // 10_000)], 0.99)
    return (image / top.clamp_min(1e-3)).clamp(0, 1)


def thick_slices(image: Tensor, axis: int, factor: int) -> Tensor:
    """(I, J, K) averaged over `factor` voxels along an axis, and spread out again by linear interpolation."""
    size = [factor if a == axis else 1 for a in range(3)]
    thick = F.avg_pool3d(image[None, None], size)
    return F.interpolate(thick, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def cropped(image: Tensor, largest: float, draws: Draws) -> Tensor:
    """(1, 1, I, J, K) with nothing beyond one to three planes: a field of view that ends inside the body."""
    image = image.clone()
    for _ in range(draws.integer(1, 3)):
        axis = 2 + draws.integer(0, 2)
        size = image.shape[axis]
        cut = round(draws.uniform(0, largest) * size)
        image.narrow(axis, 0 if draws.chance(0.5) else size - cut, cut).zero_()
    return image
