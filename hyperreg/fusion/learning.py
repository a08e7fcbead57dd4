"""The run that learns data parameters: a network, one number per sample, and their optimisers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.fusion.progress_file import fingerprint, load_progress, save_progress
from hyperreg.fusion.qualities import DataParameters, DataParameterSettings
from hyperreg.fusion.samples import LabelledTarget, Samples, augmented
from hyperreg.nets.lraspp import LRASPP
from hyperreg.nets.segresnet import SegResNet
from hyperreg.reporting import Cancel, Progress

# Class weights n_c^-EXPONENT, divided by their mean.
EXPONENT = 0.35
BETAS = (0.9, 0.999)
# Progress is kept with every answer, and after so many seconds: a process that is ended in mid-step loses no more.
KEEP_S = 5.0


@dataclass
class _Log:
    """What a run has noted so far."""

    history: list[list[float]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Run:
    """A network, the data parameters, and their optimisers."""

    def __init__(
        self,
        targets: Sequence[LabelledTarget],
        samples: Samples,
        settings: DataParameterSettings,
        device: str,
        folder: Path | None,
    ) -> None:
        self.targets, self.settings, self.device, self.folder = targets, settings, device, folder
        self.samples = samples.to(device)
        self.offsets = samples.offsets
        self.per_step = min(settings.targets_per_step or (2 if samples.dims == 3 else 32), len(targets))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = make_network(settings.network, samples.dims, len(samples.classes)).to(device)
        self.parameters = nn.Embedding(self.offsets[-1], 1, sparse=True).to(device)
        nn.init.zeros_(self.parameters.weight)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, BETAS)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimiser, settings.restart, 2)
        self.sparse = torch.optim.SparseAdam(self.parameters.parameters(), settings.data_parameter_rate, BETAS)
        self.class_weights = class_weights(self.samples).to(device)
        self.step, self.seconds, self.log = 0, 0.0, _Log()
        self.problem = ""
        self.key = fingerprint(settings, samples) if folder is not None else ""

    def until_done(
        self,
        progress: Progress | None,
        cancelled: Cancel | None,
        answer: Callable[[DataParameters], None] | None,
        enough: Cancel | None = None,
    ) -> DataParameters:
        if self.folder is not None:
            self._continue(load_progress(self.folder, self.key))
        losses: list[float] = []
        last = time.perf_counter()
        while self.step < self.settings.steps:
            if cancelled is not None and cancelled():
                self._keep()
                keeps = self.folder is not None and not self.problem
                kept = " What was learned is kept: started again, it goes on from here." if keeps else ""
                raise Cancelled(f"Cancelled after {self.step} of {self.settings.steps} steps.{kept}")
            if self.step and enough is not None and enough():
                break
            started = time.perf_counter()
            losses.append(self._one_step())
            self.step += 1
            self.seconds += time.perf_counter() - started
            if self.step % self.settings.answer_every == 0 or self.step == self.settings.steps:
                self._note(float(np.mean(losses)))
                losses.clear()
                self._keep()
                last = time.perf_counter()
                if answer is not None:
                    answer(self.result())
            elif time.perf_counter() - last > KEEP_S:
                self._keep()
                last = time.perf_counter()
            if progress is not None:
                progress(
                    self.step / self.settings.steps,
                    f"Learning data parameters, step {self.step} of {self.settings.steps}",
                )
        if losses:  # ended between two answers
            self._note(float(np.mean(losses)))
            self._keep()
        return self.result()

    def _one_step(self) -> float:
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        chosen = torch.randperm(len(self.targets), generator=generator)[: self.per_step].tolist()
        drawn = [augmented(self.samples.images[n], self.samples.labels[n], generator) for n in chosen]
        images = torch.stack([image for image, _labels in drawn])
        labels = [labels for _image, labels in drawn]
        numbers = torch.cat([torch.arange(self.offsets[n], self.offsets[n + 1]) for n in chosen]).to(self.device)
        self.network.train()
        logits = self._forward(images)
        each = sample_losses(logits, labels, self.class_weights)
        self.optimiser.zero_grad(set_to_none=True)
        if self.settings.mode == "in_line":
            loss = self._weighted(each, logits.detach(), labels, numbers) / len(each)
            self.sparse.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            if self.step >= self.settings.warm_up:
                self.sparse.step()
        else:
            loss = each.mean()
            loss.backward()
            self.optimiser.step()
            if self.step >= self.settings.warm_up:
                self._move_parameters(images, labels, numbers)
        self.schedule.step()
        return float(each.detach().mean())

    def _move_parameters(self, images: Tensor, labels: list[Tensor], numbers: Tensor) -> None:
        """The second forward: the network frozen and in evaluation, so that its statistics do not drift."""
        self.network.eval()
        with torch.no_grad():
            logits = self._forward(images)
            each = sample_losses(logits, labels)
        self.sparse.zero_grad(set_to_none=True)
        self._weighted(each, logits, labels, numbers).backward()
        self.sparse.step()

    def _forward(self, images: Tensor) -> Tensor:
        """The network's logits; a single volume twice, because a CPU takes less than half the time for two: torch
        convolves a batch of one without oneDNN.
        """
        if len(images) == 1 and self.samples.dims == 3 and self.device == "cpu":
            return self.network(images.expand(2, *images.shape[1:]))[:1]
        return self.network(images)

    def _weighted(self, each: Tensor, logits: Tensor, labels: list[Tensor], numbers: Tensor) -> Tensor:
        """The loss of the data parameters: sum_s l_s w_s - sum_s w_s P_s / |Omega|."""
        sizes = torch.cat([(maps > 0).flatten(1).sum(1) for maps in labels])
        weights = sample_weights(self.parameters(numbers)[:, 0], sizes if self.settings.fixed_weighting else None)
        loss = (each * weights).sum()
        if self.settings.risk:
            found = (logits.argmax(1) > 0).flatten(1).float().mean(1)
            shares = torch.cat([f.expand(len(maps)) for f, maps in zip(found, labels, strict=True)])
            loss = loss - (weights * shares).sum()
        return loss

    def _note(self, loss: float) -> None:
        self.log.history.append(self.parameters.weight.detach()[:, 0].cpu().tolist())
        self.log.steps.append(self.step)
        self.log.losses.append(loss)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler]:
        return {
            "network": self.network,
            "parameters": self.parameters,
            "optimiser": self.optimiser,
            "sparse": self.sparse,
            "schedule": self.schedule,
        }

    def _keep(self) -> None:
        """A disk that is full costs the progress that is kept, not the result."""
        if self.folder is not None and not self.problem:
            state = {name: part.state_dict() for name, part in self._parts().items()}
            noted = {"step": self.step, "seconds": self.seconds, "log": vars(self.log)}
            try:
                save_progress(self.folder, {"key": self.key, **state, **noted})
            except FileError as error:
                self.problem = str(error)

    def _continue(self, kept: dict[str, Any] | None) -> None:
        if kept is not None:
            for name, part in self._parts().items():
                part.load_state_dict(kept[name])
            self.step, self.seconds, self.log = kept["step"], kept["seconds"], _Log(**kept["log"])

    def result(self) -> DataParameters:
        values = self.parameters.weight.detach()[:, 0].double().cpu().numpy()
        grid = self.samples.grids[0]
        spacing = [size for axis, size in enumerate(grid.spacing) if axis != self.samples.flat]
        return DataParameters(
            tuple(target.name for target in self.targets),
            tuple(target.stack.names for target in self.targets),
            tuple(np.split(values, self.offsets[1:-1])),
            self.step,
            self.settings.steps,
            np.array(self.log.history, dtype=np.float64).reshape(-1, len(values)),
            tuple(self.log.steps),
            tuple(self.log.losses),
            float(spacing[0]),
            tuple(self.samples.images[0].shape[1:]),
            self.seconds,
            self.problem,
        )


def make_network(name: str, dims: int, classes: int) -> nn.Module:
    """(B, 1, *sizes) to logits (B, classes, *sizes). See `DataParameterSettings.network`."""
    if name == "lraspp" or (name == "auto" and dims == 2):
        return LRASPP(2 if dims == 2 else 3, 1, classes, width=0.5)
    if dims == 2:
        raise InputError("Slices are learned by the network 'lraspp'; SegResNet takes volumes.")
    return SegResNet(1, classes, filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1))


def class_weights(samples: Samples) -> Tensor:
    """n_c^-EXPONENT divided by their mean, n_c the voxels of a class in all samples: (L,) float32."""
    counts = sum(torch.bincount(maps.flatten().long(), minlength=len(samples.classes)) for maps in samples.labels)
    weights = torch.as_tensor(counts).clamp(min=1).float() ** -EXPONENT
    return weights / weights.mean()


def sample_losses(logits: Tensor, labels: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of every sample, mean over voxels: (N,), N the label maps of all targets.

    logits: (B, L, *sizes). labels: for each target (A, *sizes) int64. weights: (L,) of the classes; the mean is theirs.
    """
    found = []
    for each, maps in zip(torch.log_softmax(logits, dim=1), labels, strict=True):
        flat = maps.flatten(1)
        loss = -each.flatten(1).gather(0, flat)
        if weights is None:
            found.append(loss.mean(1))
        else:
            share = weights[flat]
            found.append((loss * share).sum(1) / share.sum(1))
    return torch.cat(found)


def sample_weights(values: Tensor, sizes: Tensor | None) -> Tensor:
    """sigmoid(DP) divided by its mean over the step, and by ln(g + e) + e where sizes g are given: (N,).

    sizes: (N,) voxels of the foreground of each label map (the fixed weighting); None without it.
    """
    weights = torch.sigmoid(values)
    weights = weights / weights.mean()
    if sizes is None:
        return weights
    return weights / (torch.log(sizes + torch.e) + torch.e)
