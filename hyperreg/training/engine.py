"""The training loop that every kind of model shares: averaging, precision, devices, checkpoints, logs, resuming."""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import Self

from hyperreg.errors import FileError, InputError
from hyperreg.machine import choose_device
from hyperreg.reporting import Progress
from hyperreg.training.config import RunConfig
from hyperreg.training.curves import Curves

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

# Training's samples are numbered from 0; its seeds are further apart than any run is long.
SEED_OFFSET = 500_009
# So many gradients in a row that are no numbers: it is the training, not the arithmetic.
DIVERGED = 50

S = TypeVar("S", bound="Sample")


class Sample(Protocol):
    """What one step learns from."""

    def to(self, device: torch.device | str) -> Self: ...


class Trainer(ABC, Generic[S]):
    """A run: model, its running average (what is exported), optimiser, random state.

    fabric: the engine of a run on several devices, of which this process is one; None on a single one.
    Subclasses say what the model is, what it learns from, the loss, how it is validated and how it is exported.
    """

    samples: Dataset[S]
    model: nn.Module

    def __init__(self, config: RunConfig, fabric: Fabric | None = None) -> None:
        self.config = config
        self.fabric = fabric
        self.device = torch.device(choose_device(config.device)) if fabric is None else fabric.device
        self.rank, self.world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        # Samples of a run have one shape: worth looking for the fastest convolutions.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.manual_seed(config.seed)
        self.model = self.first_model().to(self.device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
        # Half precision alone needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.objective: nn.Module = self.make_objective()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
        self.optimiser: torch.optim.Optimizer = kind(
            self.trained, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay
        )
        if fabric is not None:
            self.objective, self.optimiser = fabric.setup(self.objective, self.optimiser)
        self.step = 0
        self._unusable = 0  # steps in a row, up to now
        self.seconds = 0.0
        self.waited = 0.0
        self.validation: list[dict[str, float]] = []

    @abstractmethod
    def first_model(self) -> nn.Module:
        """The model before the first step."""

    @abstractmethod
    def make_objective(self) -> nn.Module:
        """The loss around `self.model`; a module, so that engines can wrap it."""

    @abstractmethod
    def losses(self, sample: S, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Loss of a sample on the device, its parts without gradients, and what was drawn for the step, by name."""

    @abstractmethod
    def held_out(self) -> Sequence[S]:
        """Samples that are never trained on; empty without validation."""

    @abstractmethod
    def validate(self, held_out: Sequence[S]) -> list[dict[str, float]]:
        """Figures of the averaged model on samples."""

    @abstractmethod
    def export(self) -> None:
        """Write the averaged model with its card into the output folder."""

    @property
    def checkpoint(self) -> Path:
        return self.config.output / "checkpoint.pt"

    def save(self) -> None:
        """Checkpoint, written whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "waited": self.waited,
            "identity": json.dumps(self.config.identity(), sort_keys=True),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises FileError if there is none, InputError, naming what differs, for one of another configuration.
        """
        if not self.checkpoint.is_file():
            raise FileError(f"There is no checkpoint '{self.checkpoint}' to continue from: start without --resume.")
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self._check_identity(state)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds, self.waited = state["step"], state["seconds"], state["waited"]
        except (OSError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
            raise FileError(f"Cannot continue from '{self.checkpoint}': {error}") from error

    def _check_identity(self, state: Mapping[str, Any]) -> None:
        mine = self.config.identity()
        theirs = json.loads(state.get("identity", "{}"))
        other = [name for name, value in theirs.items() if json.loads(json.dumps(mine.get(name))) != value]
        if other:
            raise InputError(
                f"'{self.checkpoint}' is of another configuration: {', '.join(other)} differ. Go on with the "
                "configuration that it was made with, or name another output."
            )

    @property
    def spent(self) -> float:
        """The share of the minutes that have passed; 0 for a run without a limit."""
        return 0.0 if self.config.minutes is None else self.seconds / (60 * self.config.minutes)

    @property
    def done(self) -> float:
        """The share of the run that is behind it, by steps or minutes, whichever ends it first."""
        return min(1.0, max(self.step / self.config.steps, self.spent))

    def outlook(self) -> str:
        """In words for a progress bar: where the run is and what is left of it, rounded so that it changes rarely."""
        if self.over:
            return "Trained; measuring what has come of it"
        left = self.seconds * (1 - self.done) / max(self.done, 1e-9)
        about = f"{left / 3600:.1f} h" if left > 5400 else f"{max(1, round(left / 60))} min" if left > 45 else "1 min"
        by_time = self.spent > self.step / self.config.steps
        whole = f"{self.config.minutes:g} minutes" if by_time else f"{self.config.steps} steps"
        return f"Training, {min(100, 5 * int(20 * self.done))} % of {whole}; about {about} left"

    @property
    def over(self) -> bool:
        """Whether the steps or the minutes are used up."""
        return self.step >= self.config.steps or self.spent >= 1

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to a hundredth at the end, or (1 - done)^0.9.

        The end is the last step or the last minute, whichever the run is nearer to.
        """
        config = self.config
        if self.step < config.warm_up:
            return config.learning_rate * (self.step + 1) / config.warm_up
        done = (self.step - config.warm_up) / max(1, config.steps - config.warm_up)
        done = max(done, min(self.spent, 1.0))
        if config.schedule == "poly":
            return config.learning_rate * max(0.0, 1 - done) ** 0.9
        cosine = 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
        return config.learning_rate * (0.01 + 0.99 * cosine)

    def remaining_samples(self) -> DataLoader[S]:
        """The samples of the steps still to do, one at a time; every one belongs to one step of one device."""
        end = self.step if self.over else self.config.steps
        return DataLoader(
            self.samples,
            batch_size=None,
            sampler=range(self.step * self.world + self.rank, end * self.world, self.world),
            num_workers=self.config.workers,
            multiprocessing_context="spawn" if self.config.workers else None,
        )

    def train_step(self, sample: S, waited: float = 0.0) -> dict[str, float]:
        """One sample, one update; the figures that go to the log. waited: seconds until the sample was there.

        Raises InputError after many steps in a row whose gradient is no number.
        """
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        number = self.step * self.world + self.rank
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        loss, parts, drawn = self.losses(sample.to(self.device), generator)
        self.optimiser.zero_grad(set_to_none=True)
        scaled = self.scaler.scale(loss)
        if self.fabric is None:
            scaled.backward()
        else:
            self.fabric.backward(scaled)
        self.scaler.unscale_(self.optimiser)
        # Of some convolutions torch's bfloat16 gradients are, now and then, no numbers on a CPU: one would be the end.
        if torch.nn.utils.clip_grad_norm_(self.trained, 1.0).isfinite():
            self.scaler.step(self.optimiser)
            self.average.update_parameters(self.model)
            self._unusable = 0
        else:
            self._unusable += 1
            log.warning("step %d: the gradient is no number; the model stays as it is", self.step)
        self.scaler.update()
        self.step += 1
        if self._unusable == DIVERGED:
            raise InputError(f"Training has diverged: {DIVERGED} steps without a gradient. Lower the learning rate.")
        # One transfer from a GPU, which also waits for it: the time is that of the whole step.
        figures = dict(zip(("loss", *parts), torch.stack((loss.detach(), *parts.values())).tolist(), strict=True))
        took = time.perf_counter() - started
        self.seconds += took + waited
        self.waited += waited
        return {"step": self.step, **drawn, **figures, "seconds": took, "waited": waited}

    def recipe(self) -> dict[str, Any]:
        """What the card says of how the model was made."""
        return {
            **self.config.recipe(),
            "steps_done": self.step,
            "hours": round(self.seconds / 3600, 2),
            "waited_for_pairs_percent": round(100 * self.waited / max(self.seconds, 1e-9), 1),
            "validation_last": self.validation,
            "torch": torch.__version__.split("+")[0],
        }


def run(trainer: Trainer[S], resume: bool, progress: Progress | None = None) -> None:
    """The whole run, in this process; of several, the first one writes. progress: told after every step."""
    config = trainer.config
    tell = progress or (lambda _fraction, _text: None)
    writes = trainer.rank == 0
    if resume:
        trainer.load()
    held_out = trainer.held_out() if writes else []
    curves = Curves(config.output) if writes else None
    asked = time.perf_counter()
    for sample in trainer.remaining_samples():
        if getattr(trainer.samples, "device", "cpu") != "cpu":
            torch.cuda.synchronize()
        figures = trainer.train_step(sample, time.perf_counter() - asked)
        last = trainer.over
        if curves is not None:
            curves.step(figures)
            tell(trainer.done, trainer.outlook())
            if held_out and (last or trainer.step % config.validation.every == 0):
                trainer.validation = trainer.validate(held_out)
                curves.validation(trainer.step, trainer.validation)
            if last or trainer.step % config.checkpoint_every == 0:
                trainer.save()
                trainer.export()
                share = 100 * trainer.waited / trainer.seconds
                log.info("step %d of %d, %.0f %% of the time waiting for pairs", trainer.step, config.steps, share)
        if last:
            break
        asked = time.perf_counter()
    if curves is not None:
        curves.close()


def train(
    make: Callable[[Any, Fabric | None], Trainer[Any]],
    config: RunConfig,
    resume: bool,
    progress: Progress | None = None,
) -> Path:
    """Train in this process or, with several devices, in one each; returns the folder with weights and card.

    make: config and Fabric to a trainer. progress: told after every step, on one device. Raises FileError, InputError,
    WeightsError.
    """
    prepare_output(config, resume)
    if config.devices == 1:
        run(make(config, None), resume, progress)
    else:
        each: Any = _run_one  # Fabric's types allow functions of itself alone; it passes the rest on all the same.
        several_devices(config).launch(each, make, config, resume)
    return config.output


def _run_one(
    fabric: Fabric, make: Callable[[Any, Fabric | None], Trainer[Any]], config: RunConfig, resume: bool
) -> None:
    run(make(config, fabric), resume)


def is_begun(config: RunConfig) -> bool:
    """Whether there is something to resume."""
    return (config.output / "checkpoint.pt").exists()


def prepare_output(config: RunConfig, resume: bool) -> None:
    """The folder of a run. Raises FileError if a run that is not to be resumed is in it already."""
    config.output.mkdir(parents=True, exist_ok=True)
    if not resume and is_begun(config):
        raise FileError(
            f"'{config.output}' holds a training already; continue it with --resume or name another output."
        )


def several_devices(config: RunConfig) -> Fabric:
    """The engine for `devices` processes on this machine. Raises InputError if Lightning Fabric is not installed."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise InputError(
            "Training on several devices needs Lightning Fabric: `pip install 'hyperreg[train]'`, or set devices to 1."
        ) from error
    return Fabric(accelerator=config.device, devices=config.devices, strategy="ddp_spawn")
