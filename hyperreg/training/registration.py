"""Training of registration models on synthetic pairs: lambda is drawn anew for every pair (HyperMorph)."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from hyperreg.errors import FileError, InputError
from hyperreg.registration import losses
from hyperreg.registration.field import compose, integrate, jacobian_determinant, sample
from hyperreg.registration.model import RegistrationModel, new_card, save_model
from hyperreg.training.label_maps import LabelMap, brain_from_file, random_shapes
from hyperreg.training.synthesis import PairSynthesiser, Stage, SyntheticPair

log = logging.getLogger(__name__)

# The overlap is also measured on structures averaged over cubes of this many voxels.
COARSE = 4
# Fewer than at inference: a thirty-second of a few voxels is a small enough step to learn from.
TRAINING_INTEGRATION_STEPS = 5


class StageConfig(BaseModel):
    """See Stage."""

    model_config = ConfigDict(extra="forbid")
    until: int = Field(gt=0)
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]


class SynthesisConfig(BaseModel):
    """What the pairs look like; see PairSynthesiser."""

    model_config = ConfigDict(extra="forbid")
    label_maps: list[Path] = Field(default=[], description="FreeSurfer-style label maps, relative to the configuration")
    shape_maps: int = Field(default=40, ge=0, description="How many maps of random shapes to draw from")
    shape_size: int = Field(default=112, ge=8, description="Voxels along each side of those maps")
    stages: list[StageConfig] = Field(min_length=1)
    shapes: float = Field(default=0.3, ge=0, le=1)
    two_maps: float = Field(default=0.5, ge=0, le=1)
    same_contrast: float = Field(default=0.6, ge=0, le=1)
    stripped: float = Field(default=0.6, ge=0, le=1)


class TrainingConfig(BaseModel):
    """One training run. `steps` counts over all resumes, so a later stage is the same file with more steps."""

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    description: str
    output: Path
    network: dict[str, Any]
    grid: dict[str, Any]
    synthesis: SynthesisConfig
    steps: int = Field(gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    warm_up: int = Field(default=100, ge=0)
    smoothness_weight: float = Field(default=8.0, gt=0, description="Calibrates the middle of the slider")
    later_pass: float = Field(default=0.3, ge=0, le=1, description="Share of pairs that one pass has warped already")
    ends: float = Field(default=0.2, ge=0, le=1, description="Share of lambda drawn from {0, 1}")
    image_weight: float = Field(default=1.0, ge=0)
    overlap_weight: float = Field(default=1.0, ge=0)
    truth_weight: float = Field(default=0.2, ge=0, description="Of the true field's error (Huber, voxels), where known")
    lncc_width: int = 7
    averaging: float = Field(default=0.998, ge=0, lt=1)
    default_lambda: float = Field(default=0.3, ge=0, le=1)
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    workers: int = Field(default=1, ge=0, description="Processes that make pairs while the network learns; 0: none")
    checkpoint_every: int = Field(default=100, gt=0)
    data: str = "Synthetic images only"


def read_config(path: Path) -> TrainingConfig:
    """Read a YAML configuration; its relative paths count from its own folder. Raises FileError, InputError."""
    try:
        config = TrainingConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise FileError(f"The configuration '{path}' cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(f"The configuration '{path}' is not valid:\n{error}") from error
    folder = path.resolve().parent
    config.output = folder / config.output
    config.synthesis.label_maps = [folder / p for p in config.synthesis.label_maps]
    return config


def draw_lambda(ends: float, generator: torch.Generator) -> float:
    """Uniform in [0, 1], but with probability `ends` one of the two ends, which a uniform draw hardly visits."""
    first, second = torch.rand(2, generator=generator).tolist()
    return float(second < 0.5) if first < ends else second


def pair_loss(
    model: RegistrationModel, pair: SyntheticPair, lam: float, config: TrainingConfig, later_pass: bool = False
) -> tuple[Tensor, dict[str, float]]:
    """HyperMorph's loss of one pair, and its parts as plain numbers.

    later_pass: the network is trained on what a first pass of its own, which is not trained, has left to do.
    """
    device = next(model.parameters()).device
    fixed, moving = pair.images.to(device).split(1, dim=1)
    weights = model.weights(torch.tensor([lam], device=device))
    if later_pass:
        with torch.no_grad():
            before = model.velocity(weights, fixed, moving)
            warp = integrate(before, TRAINING_INTEGRATION_STEPS)
        step = model.velocity(weights, fixed, sample(moving, warp))
        velocity = before + step
        displacement = compose(warp, integrate(step, TRAINING_INTEGRATION_STEPS))
    else:
        velocity = model.velocity(weights, fixed, moving)
        displacement = integrate(velocity, TRAINING_INTEGRATION_STEPS)
    structures = pair.fixed_structures.to(device), sample(pair.moving_structures.to(device), displacement)
    overlap = losses.dice_loss(*structures)
    # Structures that do not touch yet pull on each other only after a blur.
    coarse = losses.dice_loss(*(F.avg_pool3d(s, COARSE) for s in structures))
    similarity = config.overlap_weight * (overlap + coarse) / 2
    if pair.same_contrast:
        warped = sample(moving, displacement)
        similarity = similarity + config.image_weight * losses.lncc_loss(fixed, warped, config.lncc_width)
    error = velocity.new_tensor(float("nan"))
    if pair.displacement is not None:
        inside = pair.fixed_structures.to(device).sum(1)[0] > 0.5
        missed = (displacement - pair.displacement.to(device))[0, :, inside]
        error = missed.norm(dim=0).mean()
        similarity = similarity + config.truth_weight * F.huber_loss(missed, torch.zeros_like(missed))
    smoothness = losses.diffusion(velocity)
    with torch.no_grad():
        parts = {
            "overlap": float(overlap.detach()),
            "overlap_before": float(losses.dice_loss(pair.fixed_structures, pair.moving_structures)),
            "smoothness": float(smoothness.detach()),
            "error_voxels": float(error.detach()),
            "error_before_voxels": float("nan")
            if pair.displacement is None
            else float(pair.displacement[0, :, inside].norm(dim=0).mean()),
            "folding_percent": float((jacobian_determinant(displacement) <= 0).float().mean()) * 100,
        }
    return losses.hyper_loss(similarity, config.smoothness_weight * smoothness, lam), parts


class Trainer:
    """Training loop with checkpoints: model, its running average (what is exported), optimiser, random state."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.model = RegistrationModel(config.network).to(config.device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.step = 0
        self.seconds = 0.0
        synthesis = config.synthesis
        shapes = torch.Generator().manual_seed(config.seed)
        maps: list[LabelMap] = [brain_from_file(path) for path in synthesis.label_maps]
        maps += [random_shapes(shapes, synthesis.shape_size) for _ in range(synthesis.shape_maps)]
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
        )

    @property
    def checkpoint(self) -> Path:
        return self.config.output / "checkpoint.pt"

    def save(self) -> None:
        """Checkpoint, written whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint. Raises FileError if there is none or it belongs to another network."""
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.config.device)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]
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
        """The pairs of the steps still to do, one at a time; pair n belongs to step n whatever came before."""
        return DataLoader(
            self.pairs,
            batch_size=None,
            sampler=range(self.step, self.config.steps),
            num_workers=self.config.workers,
            multiprocessing_context="spawn" if self.config.workers else None,
        )

    def train_step(self, pair: SyntheticPair) -> dict[str, float]:
        """One pair, one update; the figures that go to the log."""
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        lam = draw_lambda(self.config.ends, generator)
        later_pass = float(torch.rand(1, generator=generator)) < self.config.later_pass
        loss, figures = pair_loss(self.model, pair, lam, self.config, later_pass)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        took = time.perf_counter() - started
        self.seconds += took
        return {"step": self.step, "lambda": lam, "loss": float(loss.detach()), **figures, "seconds": took}

    def export(self) -> None:
        """Write the averaged model with its card into the output folder."""
        config = self.config
        card = new_card(
            config.name,
            config.network,
            title=config.title,
            description=config.description,
            grid=config.grid,
            hyperparameters=[{"name": "lambda", "title": "Smoothness λ", "default": config.default_lambda}],
            data=config.data,
            seed=config.seed,
            recipe={
                **config.model_dump(
                    mode="json", exclude={"output", "title", "description", "data", "network", "grid", "synthesis"}
                ),
                "synthesis": {
                    **config.synthesis.model_dump(mode="json", exclude={"label_maps"}),
                    "label_maps": [path.name for path in config.synthesis.label_maps],
                },
                "steps_done": self.step,
                "hours": round(self.seconds / 3600, 2),
                "torch": torch.__version__.split("+")[0],
            },
        )
        save_model(cast(RegistrationModel, self.average.module), card, config.output)


def train(config_path: Path, resume: bool = False) -> Path:
    """Train as the configuration says; returns the folder with weights and card.

    Writes `log.jsonl` (a line per step) and a checkpoint every `checkpoint_every` steps. An interrupted run goes on
    with resume=True. Raises FileError, InputError.
    """
    config = read_config(config_path)
    trainer = Trainer(config)
    config.output.mkdir(parents=True, exist_ok=True)
    if resume:
        trainer.load()
    elif trainer.checkpoint.exists():
        raise FileError(
            f"'{config.output}' holds a training already; continue it with --resume or name another output."
        )
    with (config.output / "log.jsonl").open("a", encoding="utf-8", buffering=1) as stream:
        for pair in trainer.remaining_pairs():
            figures = trainer.train_step(pair)
            stream.write(json.dumps(figures) + "\n")
            if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
                trainer.save()
                trainer.export()
                log.info("step %d of %d, loss %.4f", trainer.step, config.steps, figures["loss"])
    return config.output
