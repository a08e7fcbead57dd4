"""Training of segmentation models on synthetic cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperreg.segmentation.model import new_card, save_model
from hyperreg.segmentation.prediction import Prediction
from hyperreg.training import engine
from hyperreg.training.cases import CaseSynthesiser, SyntheticCase, class_table
from hyperreg.training.label_maps import brain_from_file
from hyperreg.training.segmentation_config import SegmentationConfig, read_segmentation_config
from hyperreg.training.segmentation_models import SegmentationObjective, enter_phase, kept_network, trained_network

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class SegmentationTrainer(engine.Trainer[SyntheticCase]):
    """A run of a segmentation model: see `engine.Trainer`."""

    config: SegmentationConfig

    def __init__(self, config: SegmentationConfig, fabric: Fabric | None = None) -> None:
        # Settings that cannot be are found before the label maps are read.
        table = class_table([structure.numbers for structure in config.structures])
        super().__init__(config, fabric)
        synthesis = config.synthesis
        self.samples: CaseSynthesiser = CaseSynthesiser(
            [brain_from_file(path) for path in synthesis.label_maps],
            table,
            config.classes,
            synthesis.shape,
            synthesis.spacing_mm,
            synthesis.slices,
            len(config.inputs),
            config.seed,
            synthesis.stripped,
            synthesis.strength,
            synthesis.look,
            str(self.device) if synthesis.on_device else "cpu",
        )

    def first_model(self) -> nn.Module:
        return trained_network(self.config)

    def make_objective(self) -> nn.Module:
        return SegmentationObjective(self.model, self.config)

    def learning_rate(self) -> float:
        """The engine's, but for AH-Net's 2D phase, which has its own and ends at nothing."""
        phases = self.config.phases
        if phases is None or self.step >= phases.flat:
            return super().learning_rate()
        return phases.flat_learning_rate * (1 - self.step / phases.flat) ** 0.9

    def losses(
        self, sample: SyntheticCase, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        self.model.train()
        # Dropout and the code's noise are drawn for the step, so that a resumed run is the uninterrupted one.
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        enter_phase(self.model, self.config, self.step)
        if self.config.phases is not None and self.step == self.config.phases.flat:
            # The average of the 3D network is of random weights so far.
            self.average.module.load_state_dict(self.model.state_dict())
        loss, parts = self.objective(sample, self.step, generator)
        return loss, parts, {}

    def held_out(self) -> list[SyntheticCase]:
        cases = replace(self.samples, _flat={})
        return [cases[engine.SEED_OFFSET + index] for index in range(self.config.validation.cases)]

    def validate(self, held_out: Sequence[SyntheticCase]) -> list[dict[str, float]]:
        """Dice of every structure and their mean, as at inference: means over the cases that have the structure."""
        network = kept_network(self.average.module)
        window = self.config.grid["window"]
        run = Prediction(network, (window[0], window[1], window[2]), True, self.device.type)
        sums = torch.zeros(self.config.classes, 3)
        for case in held_out:
            found = run(case.images.to(self.device)).argmax(0)
            wanted = case.target[0].argmax(0).cpu()
            for index in range(1, self.config.classes):
                one, two = found == index, wanted == index
                sums[index] += torch.tensor([float((one & two).sum()), float(one.sum()), float(two.sum())])
        dice = 2 * sums[1:, 0] / (sums[1:, 1] + sums[1:, 2])
        names = [f"dice {structure.name}" for structure in self.config.structures]
        return [{"dice": float(dice.nanmean()), **dict(zip(names, dice.tolist(), strict=True))}]

    def export(self) -> None:
        """Write the averaged network with its card into the output folder."""
        config = self.config
        structures: list[dict[str, Any]] = [
            {**structure.model_dump(mode="json", exclude={"numbers"}, exclude_none=True), "channel": index}
            for index, structure in enumerate(config.structures, start=1)
        ]
        card = new_card(
            config.name,
            structures,
            title=config.title,
            description=config.description,
            licence=config.licence,
            modality=config.modality,
            inputs=config.inputs,
            network=config.network,
            grid=config.grid,
            data=config.data,
            seed=config.seed,
            recipe=self.recipe(),
        )
        save_model(kept_network(self.average.module), card, config.output)


def _run(fabric: Fabric | None, config: SegmentationConfig, resume: bool) -> None:
    engine.run(SegmentationTrainer(config, fabric), resume)


def train(config_path: Path, resume: bool = False) -> Path:
    """Train as the configuration says; returns the folder with weights and card. See `engine`.

    Raises FileError, InputError, WeightsError.
    """
    config = read_segmentation_config(config_path)
    engine.prepare_output(config, resume)
    if config.devices == 1:
        _run(None, config, resume)
    else:
        run: Any = _run  # Fabric's types allow functions of itself alone; it passes the rest on all the same.
        engine.several_devices(config).launch(run, config, resume)
    return config.output
