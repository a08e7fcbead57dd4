"""One trial: a configuration trained for a number of steps and measured on held-out cases; it can be taken further."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hyperreg.automl.data import Patches, PreparedCase
from hyperreg.automl.losses import Loss
from hyperreg.automl.space import Configuration
from hyperreg.errors import Cancelled, FileError
from hyperreg.imaging.output import replacing
from hyperreg.nets.searched import SearchedNet
from hyperreg.reporting import Cancel
from hyperreg.segmentation.prediction import Prediction

# At the end of a rung the learning rate falls to 0 over so many steps more, as a share of the rung's; what they change
# is measured, not kept: a trial that goes on goes on from before.
DECAY = 0.1


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a search have in common.

    patch: that is trained on, voxels. window: that is looked at when measuring. width: channels of a searched network's
    level 0. foreground: share of patches around a structure. overlap: of windows.
    """

    patch: tuple[int, int, int] = (32, 32, 32)
    window: tuple[int, int, int] = (64, 64, 96)
    batch: int = 1
    width: int = 8
    foreground: float = 0.8
    overlap: float = 0.25


@dataclass(frozen=True)
class Measured:
    """What a trial reached after `steps`. CPU-s: of training and measuring so far.

    score: by which trials are compared, the mean over structures of the Dice of probabilities: it tells networks apart
    that find nothing yet, where the Dice of labels is 0 for all. dice: of labels, the mean; by_class: each structure's.
    diverged: the loss was no number at some step.
    """

    steps: int
    score: float
    dice: float
    by_class: tuple[float, ...]
    cpu_s: float
    diverged: bool


class Trial:
    """A network in training. seed: of its weights and patches. network: instead of the configuration's."""

    def __init__(
        self,
        configuration: Configuration,
        training: Sequence[PreparedCase],
        held_out: Sequence[PreparedCase],
        settings: TrialSettings,
        seed: int,
        device: str = "cpu",
        network: nn.Module | None = None,
    ) -> None:
        self.configuration = configuration
        self.held_out = held_out
        self.settings = settings
        self.device = device
        torch.manual_seed(seed)
        channels = len(training[0].known)
        inputs = len(training[0].images)
        if network is None:
            network = SearchedNet(inputs, channels, **configuration.network_options(settings.width))
        # Channels last: a third faster on a CPU.
        self.network = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.patches = Patches(
            training, settings.patch, settings.batch, configuration.augmentations, settings.foreground, seed
        )
        self.loss = Loss(configuration.loss)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=configuration.learning_rate)
        self.step = 0
        self.cpu_s = 0.0
        self.diverged = False

    def run_to(
        self, steps: int, cancelled: Cancel | None = None, finished: Callable[[nn.Module], None] | None = None
    ) -> Measured:
        """Train up to `steps` steps in all and measure. Raises Cancelled, after which the trial can be saved.

        finished: gets the network that was measured, after the decay.
        """
        self.train(steps, cancelled)
        kept = self._state()
        last = steps + max(1, round(DECAY * steps))
        try:
            self._train(steps, last, lambda step: 1 - (step - steps + 1) / (last - steps), cancelled)
            started = time.process_time()
            score, by_class = self.measure()
            self.cpu_s += time.process_time() - started
            if finished is not None:
                finished(self.network.eval())
        finally:
            spent, diverged = self.cpu_s, self.diverged
            self._restore(kept)
            self.cpu_s = spent
        return Measured(steps, score, float(np.nanmean(by_class)), by_class, round(self.cpu_s, 3), diverged)

    def train(self, steps: int, cancelled: Cancel | None = None) -> None:
        """Train up to `steps` steps in all, at the constant rate. Raises Cancelled, after which it can be saved."""
        self._train(self.step, steps, lambda _step: 1.0, cancelled)

    def _train(self, first: int, last: int, rate: Any, cancelled: Cancel | None) -> None:
        self.network.train()
        for step in range(first, last):
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled; trials that were finished are kept.")
            started = time.process_time()
            images, classes, known = (part.to(self.device) for part in self.patches[step])
            for group in self.optimiser.param_groups:
                group["lr"] = self.configuration.learning_rate * rate(step)
            logits = self.network(images.contiguous(memory_format=torch.channels_last_3d))
            loss = self.loss(logits, classes, known)
            self.optimiser.zero_grad(set_to_none=True)
            if torch.isfinite(loss):
                loss.backward()
                norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                if torch.isfinite(norm):
                    self.optimiser.step()
                else:
                    self.diverged = True
            else:
                self.diverged = True
            self.step = step + 1
            self.cpu_s += time.process_time() - started

    @torch.inference_mode()
    def measure(self) -> tuple[float, tuple[float, ...]]:
        """Score and Dice by structure (see `Measured`) in the boxes of the held-out cases.

        Each structure's is the mean over the cases in which it was contoured; NaN if there is none.
        """
        self.network.eval()
        run = Prediction(self.network, self.settings.window, True, self.device, overlap=self.settings.overlap)
        channels = len(self.held_out[0].known)
        soft: list[list[float]] = [[] for _ in range(channels)]
        hard: list[list[float]] = [[] for _ in range(channels)]
        for case in self.held_out:
            box = case.box()
            whole = (slice(None), *box)
            probabilities = run(torch.from_numpy(case.images[whole].astype(np.float32))[None]).numpy()
            labels = probabilities.argmax(0)
            for index in range(1, channels):
                if case.known[index]:
                    there = case.classes[box] == index
                    soft[index].append(_dice(probabilities[index], there))
                    hard[index].append(_dice((labels == index).astype(np.float32), there))
        self.network.train()
        by_class = tuple(float(np.mean(values)) if values else math.nan for values in hard[1:])
        return float(np.mean([np.mean(values) for values in soft[1:] if values])), by_class

    def _state(self) -> dict[str, Any]:
        def copy(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach().clone()
            if isinstance(value, dict):
                return {key: copy(part) for key, part in value.items()}
            return [copy(part) for part in value] if isinstance(value, list) else value

        state: dict[str, Any] = copy(
            {
                "network": dict(self.network.state_dict()),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "cpu_s": self.cpu_s,
                "diverged": self.diverged,
            }
        )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.cpu_s, self.diverged = state["step"], state["cpu_s"], state["diverged"]

    def save(self, path: Path) -> None:
        """Write all that is needed to go on, whole or not at all. Raises FileError."""
        with replacing(path) as target:
            torch.save(self._state(), target)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises FileError if it is missing, damaged, or of another configuration."""
        try:
            self._restore(_read(path, self.device))
        except (RuntimeError, KeyError, ValueError) as error:
            raise FileError(f"The trial cannot go on from '{path}': {error}") from error


def steps_in(path: Path) -> int:
    """How far the trial was trained whose checkpoint it is. Raises FileError."""
    return int(_read(path, "cpu")["step"])


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise FileError(f"The trial cannot go on from '{path}': {error}") from error
    return found


def _dice(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.bool_]) -> float:
    """Of probabilities (or labels) and a mask; 1 if both are empty, 0 for what is no number."""
    total = float(found.sum(dtype=np.float64)) + float(wanted.sum())
    value = 2 * float(found[wanted].sum(dtype=np.float64)) / total if total else 1.0
    return value if math.isfinite(value) else 0.0
