"""Two networks in a row: the first finds the place, the second looks closely there.

Source: Lyu and Shu, arXiv 2011.02881. Stage 1 sees the images; stage 2 sees the images and the one-hot result of stage
1 in a patch around most of what was found, and its result is pasted back. Outside of the patch stage 1's result stays:
our reading, so that a second lesion far away is not lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperreg.errors import WeightsError

Corner = tuple[int, int, int]
Place = tuple[Any, ...]


def one_hot(logits: Tensor, exclusive: bool) -> Tensor:
    """Logits (B, C, I, J, K) to what is there, 0 or 1 in the type of the logits.

    exclusive: channels exclude each other, the first is background: (B, C - 1, I, J, K). Otherwise each channel is a
    region of its own (sigmoid): (B, C, I, J, K).
    """
    if not exclusive:
        return (logits > 0).to(logits)
    winner = logits.argmax(1)
    return torch.stack([(winner == channel) for channel in range(1, logits.shape[1])], dim=1).to(logits)


def fullest_window(mask: Tensor, window: Sequence[int]) -> Corner:
    """The first voxel of the window of that size which contains most of a mask (I, J, K); its content lies centred.

    All windows with the most voxels are equally good: the middle one is taken along each axis. An empty mask gives the
    middle of the image. A window larger than the image starts at 0.
    """
    counts = mask.to(torch.float64)
    for axis, size in enumerate(window):
        sums = torch.cumsum(counts, axis)
        sums = torch.cat((torch.zeros_like(sums.narrow(axis, 0, 1)), sums), axis)
        places = max(1, mask.shape[axis] - size + 1)
        end = sums.narrow(axis, min(size, mask.shape[axis]), places)
        counts = end - sums.narrow(axis, 0, places)
    best = torch.nonzero(counts == counts.max())
    middle = (best.min(0).values + best.max(0).values) // 2
    # The middle of separate maxima may be none of them: then the nearest one is.
    nearest = best[(best - middle).abs().sum(1).argmin()]
    i, j, k = (int(n) for n in nearest)
    return i, j, k


def crop(images: Tensor, corner: Corner, window: Sequence[int]) -> Tensor:
    """(B, C, *window) of (B, C, I, J, K), from `corner` on; zeros where the image ends before the window does."""
    place: Place = (..., *(slice(start, start + size) for start, size in zip(corner, window, strict=True)))
    patch = images[place]
    missing = [size - have for size, have in zip(window, patch.shape[-3:], strict=True)]
    return F.pad(patch, [n for size in reversed(missing) for n in (0, size)])


def paste(patch: Tensor, image: Tensor, corner: Corner) -> Tensor:
    """A copy of `image` (B, C, I, J, K) with `patch` (B, C, *window) from `corner` on; what lies beyond is cut off."""
    result = image.clone()
    sizes = [
        min(size, end - start) for start, size, end in zip(corner, patch.shape[-3:], image.shape[-3:], strict=True)
    ]
    place: Place = (..., *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
    inside: Place = (..., *(slice(0, size) for size in sizes))
    result[place] = patch[inside]
    return result


class Cascade(nn.Module):
    """Images (B, C, I, J, K) to logits of the same size by two networks.

    first: images to logits. second: one-hot of the first and the images to logits, on patches of `window` voxels.
    exclusive: see `one_hot`. Both may be networks with or without variational branch only in training; here they give
    tensors.
    Raises WeightsError if the window does not suit the second network.
    """

    def __init__(self, first: nn.Module, second: nn.Module, window: Sequence[int], exclusive: bool) -> None:
        super().__init__()
        multiple = int(getattr(second, "multiple", 1))
        if len(window) != 3 or any(n < multiple or n % multiple for n in window):
            raise WeightsError(f"The cascade's window {tuple(window)} must have three sides that {multiple} divides.")
        self.first = first
        self.second = second
        self.window = tuple(int(n) for n in window)
        self.exclusive = exclusive

    @property
    def multiple(self) -> int:
        return int(getattr(self.first, "multiple", 1))

    def second_input(self, images: Tensor, coarse: Tensor) -> tuple[Tensor, list[Corner]]:
        """What stage 2 sees: (B, found + C, *window), and where in the image each patch lies."""
        found = one_hot(coarse, self.exclusive)
        corners = [fullest_window(part.amax(0), self.window) for part in found]
        both = torch.cat((found, images), dim=1)
        patches = [crop(both[n : n + 1], corner, self.window) for n, corner in enumerate(corners)]
        return torch.cat(patches), corners

    def pasted(self, fine: Tensor, coarse: Tensor, corners: Sequence[Corner]) -> Tensor:
        """The logits of stage 2 (B, channels, *window) on top of those of stage 1 (B, channels, I, J, K)."""
        return torch.cat([paste(fine[n : n + 1], coarse[n : n + 1], corner) for n, corner in enumerate(corners)])

    def forward(self, images: Tensor) -> Tensor:
        coarse = self.first(images)
        patches, corners = self.second_input(images, coarse)
        return self.pasted(self.second(patches), coarse, corners)
