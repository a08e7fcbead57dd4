"""Training of registration models on synthetic pairs: lambda is drawn anew for every pair (HyperMorph)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from hyperreg.errors import InputError
from hyperreg.nets.warm_start import start_from
from hyperreg.registration.catalogue import find_model, read_card
from hyperreg.registration.model import (
    RegistrationModel,
    hyperparameter_entries,
    load_model,
    new_card,
    save_model,
)
from hyperreg.training import engine
from hyperreg.training.config import RegistrationConfig, SynthesisConfig, TrainingConfig, read_config
from hyperreg.training.label_maps import LabelMap, brain_from_file, random_shapes
from hyperreg.training.objective import Objective, draw_value
from hyperreg.training.synthesis import PairSynthesiser, Stage, SyntheticPair
from hyperreg.training.validation import validate, validation_pairs

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_maps(synthesis: SynthesisConfig, shape_maps: int, seed: int) -> list[LabelMap]:
    """The label maps from files, then maps of random shapes."""
    generator = torch.Generator().manual_seed(seed)
    scales = [synthesis.shape_scales[n % len(synthesis.shape_scales)] for n in range(shape_maps)]
    return [
        *(brain_from_file(path) for path in synthesis.label_maps),
        *(random_shapes(generator, synthesis.shape_size, scales=s) for s in scales),
    ]


class PairTrainer(engine.Trainer[SyntheticPair]):
    """A run of a registration model, whatever its pairs are: see `engine.Trainer`."""

    config: RegistrationConfig
    lambdas: Sequence[float]
    model: RegistrationModel

    @property
    def averaged(self) -> RegistrationModel:
        return cast(RegistrationModel, self.average.module)

    def first_model(self) -> RegistrationModel:
        config = self.config
        model = RegistrationModel(config.network, len(config.defaults))
        if config.start_from is not None:
            folder = Path(config.start_from)
            card = read_card(folder) if folder.is_dir() else find_model(config.start_from)
            start_from(model.hyper, load_model(card).hyper)
        if config.fixed_lambda is not None:
            model.hyper.freeze()
        return model

    def make_objective(self) -> torch.nn.Module:
        # After the average was made, which is validated in float32.
        self.model.precision = getattr(torch, self.config.precision)
        if self.config.compile:
            self.model.compile()
        return Objective(self.model, self.config)

    def draw_values(self, generator: torch.Generator) -> list[float]:
        """The hyperparameters of one step: lambda, and gamma if the model declares it."""
        if self.config.fixed_lambda is not None:
            return [self.config.fixed_lambda]
        return [draw_value(self.config.ends, generator) for _ in self.config.defaults]

    def losses(
        self, sample: SyntheticPair, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, float]]:
        values = self.draw_values(generator)
        later = float(torch.rand(1, generator=generator)) < self.config.later_pass
        loss, parts = self.objective(sample, values, later)
        return loss, parts, dict(zip(self.config.defaults, values, strict=True))

    def validate(self, held_out: Sequence[SyntheticPair]) -> list[dict[str, float]]:
        """A row of metrics per value of `lambdas`."""
        others = list(self.config.defaults.values())[1:]
        return validate(self.averaged, held_out, self.lambdas, others)

    def export(self) -> None:
        """Write the averaged model with its card into the output folder."""
        save_model(self.averaged, self.card(), self.config.output)

    def card(self) -> dict[str, Any]:
        """The model's card, as it is now."""
        config = self.config
        return new_card(
            config.name,
            config.network,
            title=config.title,
            description=config.description,
            grid=config.grid,
            hyperparameters=hyperparameter_entries(config.defaults),
            data=config.data,
            seed=config.seed,
            recipe=self.recipe(),
        )


class Trainer(PairTrainer):
    """A run on synthetic pairs."""

    config: TrainingConfig

    def __init__(self, config: TrainingConfig, fabric: Fabric | None = None) -> None:
        super().__init__(config, fabric)
        self.lambdas = config.validation.lambdas
        synthesis = config.synthesis
        maps = make_maps(synthesis, synthesis.shape_maps, config.seed)
        if not maps:
            raise InputError(
                "The configuration names no label maps and no random shapes: there is nothing to train on."
            )
        self.samples = self.pairs = PairSynthesiser(
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

    def held_out(self) -> list[SyntheticPair]:
        config = self.config
        if not config.validation.pairs:
            return []
        maps = make_maps(config.synthesis, config.validation.shape_maps, config.seed + engine.SEED_OFFSET)
        return validation_pairs(self.pairs, maps, config.validation.pairs)


def train(config_path: Path, resume: bool = False) -> Path:
    """Train as the configuration says; returns the folder with weights and card.

    Writes a line per step, a line per validation, curves (see Curves) and a checkpoint every `checkpoint_every` steps.
    An interrupted run goes on with resume=True. Raises FileError, InputError, WeightsError.
    """
    return engine.train(Trainer, read_config(config_path), resume)
