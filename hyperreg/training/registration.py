"""Training of registration models on synthetic pairs: lambda is drawn anew for every pair (HyperMorph)."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from hyperreg.errors import FileError, InputError
from hyperreg.nets.warm_start import start_from
from hyperreg.registration.catalogue import find_model, read_card
from hyperreg.registration.model import (
    RegistrationModel,
    hyperparameter_entries,
    load_model,
    new_card,
    save_model,
)
from hyperreg.training.config import SynthesisConfig, TrainingConfig, read_config
from hyperreg.training.curves import Curves
from hyperreg.training.label_maps import LabelMap, brain_from_file, random_shapes
from hyperreg.training.objective import Objective, draw_value
from hyperreg.training.synthesis import PairSynthesiser, Stage, SyntheticPair
from hyperreg.training.validation import SEED_OFFSET, validate, validation_pairs

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)


def make_maps(synthesis: SynthesisConfig, shape_maps: int, seed: int) -> list[LabelMap]:
    """The label maps from files, then maps of random shapes."""
    generator = torch.Generator().manual_seed(seed)
    scales = [synthesis.shape_scales[n % len(synthesis.shape_scales)] for n in range(shape_maps)]
    return [
        *(brain_from_file(path) for path in synthesis.label_maps),
        *(random_shapes(generator, synthesis.shape_size, scales=s) for s in scales),
    ]


class Trainer:
    """Training loop with checkpoints: model, its running average (what is exported), optimiser, random state.

    fabric: the engine of a run on several devices, of which this process is one; None on a single one.
    """

    def __init__(self, config: TrainingConfig, fabric: Fabric | None = None) -> None:
        self.config = config
        self.fabric = fabric
        self.device = torch.device(config.device) if fabric is None else fabric.device
        self.rank, self.world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        torch.manual_seed(config.seed)
        self.model = self._first_model().to(self.device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
        self.model.precision = getattr(torch, config.precision)
        if config.compile:
            self.model.compile()
        # Half precision alone needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.objective: torch.nn.Module = Objective(self.model, config)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(self.trained, lr=config.learning_rate)
        if fabric is not None:
            self.objective, self.optimiser = fabric.setup(self.objective, self.optimiser)
        self.step = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.validation: list[dict[str, float]] = []
        synthesis = config.synthesis
        maps = make_maps(synthesis, synthesis.shape_maps, config.seed)
        if not maps:
            raise InputError(
                "The configuration names no label maps and no random shapes: there is nothing to train on."
            )
        self.pairs = PairSynthesiser(
            maps,
            [Stage(stage.until, stage.shape, stage.spacing_mm) for stage in synthesis.stages],
            config.seed,
            two_maps=synthesis.two_maps,
            same_contrast=synthesis.same_contrast,
            stripped=synthesis.stripped,
            shapes=synthesis.shapes,
            strength=synthesis.strength,
            look=synthesis.look,
            device=str(self.device) if synthesis.on_device else "cpu",
        )

    def _first_model(self) -> RegistrationModel:
        config = self.config
        model = RegistrationModel(config.network, len(config.defaults))
        if config.start_from is not None:
            folder = Path(config.start_from)
            card = read_card(folder) if folder.is_dir() else find_model(config.start_from)
            start_from(model.hyper, load_model(card).hyper)
        if config.fixed_lambda is not None:
            model.hyper.freeze()
        return model

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
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint. Raises FileError if there is none or it belongs to another network."""
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds, self.waited = state["step"], state["seconds"], state["waited"]
        except (OSError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
            raise FileError(f"Cannot continue from '{self.checkpoint}': {error}") from error

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to a hundredth at the last step."""
        config = self.config
        if self.step < config.warm_up:
            return config.learning_rate * (self.step + 1) / config.warm_up
        done = (self.step - config.warm_up) / max(1, config.steps - config.warm_up)
        cosine = 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
        return config.learning_rate * (0.01 + 0.99 * cosine)

    def remaining_pairs(self) -> DataLoader[SyntheticPair]:
        """The pairs of the steps still to do, one at a time; every pair belongs to one step of one device."""
        return DataLoader(
            self.pairs,
            batch_size=None,
            sampler=range(self.step * self.world + self.rank, self.config.steps * self.world, self.world),
            num_workers=self.config.workers,
            multiprocessing_context="spawn" if self.config.workers else None,
        )

    def draw_values(self, generator: torch.Generator) -> list[float]:
        """The hyperparameters of one step: lambda, and gamma if the model declares it."""
        if self.config.fixed_lambda is not None:
            return [self.config.fixed_lambda]
        return [draw_value(self.config.ends, generator) for _ in self.config.defaults]

    def train_step(self, pair: SyntheticPair, waited: float = 0.0) -> dict[str, float]:
        """One pair, one update; the figures that go to the log. waited: seconds until the pair was there."""
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        number = self.step * self.world + self.rank
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        values = self.draw_values(generator)
        later_pass = float(torch.rand(1, generator=generator)) < self.config.later_pass
        loss, parts = self.objective(pair.to(self.device), values, later_pass)
        self.optimiser.zero_grad(set_to_none=True)
        scaled = self.scaler.scale(loss)
        if self.fabric is None:
            scaled.backward()
        else:
            self.fabric.backward(scaled)
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.model)
        self.step += 1
        # One transfer from a GPU, which also waits for it: the time is that of the whole step.
        figures = dict(zip(("loss", *parts), torch.stack((loss.detach(), *parts.values())).tolist(), strict=True))
        took = time.perf_counter() - started
        self.seconds += took + waited
        self.waited += waited
        named = dict(zip(self.config.defaults, values, strict=True))
        return {"step": self.step, **named, **figures, "seconds": took, "waited": waited}

    def export(self) -> None:
        """Write the averaged model with its card into the output folder."""
        config = self.config
        card = new_card(
            config.name,
            config.network,
            title=config.title,
            description=config.description,
            grid=config.grid,
            hyperparameters=hyperparameter_entries(config.defaults),
            data=config.data,
            seed=config.seed,
            recipe={
                **config.recipe(),
                "steps_done": self.step,
                "hours": round(self.seconds / 3600, 2),
                "waited_for_pairs_percent": round(100 * self.waited / max(self.seconds, 1e-9), 1),
                "validation_last": self.validation,
                "torch": torch.__version__.split("+")[0],
            },
        )
        save_model(cast(RegistrationModel, self.average.module), card, config.output)


def _run(fabric: Fabric | None, config: TrainingConfig, resume: bool) -> None:
    """The whole run, in this process; of several, the first one writes."""
    trainer = Trainer(config, fabric)
    writes = trainer.rank == 0
    if resume:
        trainer.load()
    held_out: list[SyntheticPair] = []
    if writes and config.validation.pairs:
        maps = make_maps(config.synthesis, config.validation.shape_maps, config.seed + SEED_OFFSET)
        held_out = validation_pairs(trainer.pairs, maps, config.validation.pairs)
    curves = Curves(config.output) if writes else None
    asked = time.perf_counter()
    for pair in trainer.remaining_pairs():
        if trainer.pairs.device != "cpu":
            torch.cuda.synchronize()
        figures = trainer.train_step(pair, time.perf_counter() - asked)
        last = trainer.step == config.steps
        if curves is not None:
            curves.step(figures)
            if held_out and (last or trainer.step % config.validation.every == 0):
                others = list(config.defaults.values())[1:]
                average = cast(RegistrationModel, trainer.average.module)
                trainer.validation = validate(average, held_out, config.validation.lambdas, others)
                curves.validation(trainer.step, trainer.validation)
            if last or trainer.step % config.checkpoint_every == 0:
                trainer.save()
                trainer.export()
                share = 100 * trainer.waited / trainer.seconds
                log.info("step %d of %d, %.0f %% of the time waiting for pairs", trainer.step, config.steps, share)
        asked = time.perf_counter()
    if curves is not None:
        curves.close()


def several_devices(config: TrainingConfig) -> Fabric:
    """The engine for `devices` processes on this machine. Raises InputError if Lightning Fabric is not installed."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise InputError(
            "Training on several devices needs Lightning Fabric: `pip install 'hyperreg[train]'`, or set devices to 1."
        ) from error
    return Fabric(accelerator=config.device, devices=config.devices, strategy="ddp_spawn")


def train(config_path: Path, resume: bool = False) -> Path:
    """Train as the configuration says; returns the folder with weights and card.

    Writes a line per step, a line per validation, curves (see Curves) and a checkpoint every `checkpoint_every` steps.
    An interrupted run goes on with resume=True. Raises FileError, InputError, WeightsError.
    """
    config = read_config(config_path)
    config.output.mkdir(parents=True, exist_ok=True)
    if not resume and (config.output / "checkpoint.pt").exists():
        raise FileError(
            f"'{config.output}' holds a training already; continue it with --resume or name another output."
        )
    if config.devices == 1:
        _run(None, config, resume)
    else:
        run: Any = _run  # Fabric's types allow functions of itself alone; it passes the rest on all the same.
        several_devices(config).launch(run, config, resume)
    return config.output
