"""Random draws on any device: the same series of pairs for a seed, and no waiting for a GPU to decide something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Draws:
    """numbers: decisions, drawn on the CPU. fields: noise, drawn on `device`; its bits, not its law, depend on it."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.numbers = torch.Generator().manual_seed(seed)
        self.fields = torch.Generator(device).manual_seed(seed + 1)

    @property
    def device(self) -> torch.device:
        return self.fields.device

    def uniform(self, low: float, high: float) -> float:
        return float(torch.rand(1, generator=self.numbers)) * (high - low) + low

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def integer(self, low: int, high: int) -> int:
        """In low..high, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self.numbers))

    def choose(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def uniforms(self, low: float, high: float, *size: int) -> Tensor:
        return torch.rand(*size, generator=self.fields, device=self.device) * (high - low) + low

    def normals(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.fields, device=self.device)
