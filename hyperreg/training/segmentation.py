"""Training of segmentation models, on synthetic cases or on images of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperreg.errors import InputError
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.reporting import Progress
from hyperreg.segmentation.catalogue import SLICES_LAST, card_of, read_card
from hyperreg.segmentation.measures import hausdorff95
from hyperreg.segmentation.model import load_model, new_card, save_model
from hyperreg.segmentation.prediction import Prediction
from hyperreg.training import engine, hyper
from hyperreg.training.calibration import fit_temperature
from hyperreg.training.cases import CaseSynthesiser, SyntheticCase, has_sides
from hyperreg.training.expectations import expectations, people_of
from hyperreg.training.label_maps import brain_from_file
from hyperreg.training.listed_cases import ListedCases, Numbering, read_list
from hyperreg.training.objective import draw_value
from hyperreg.training.segmentation_config import SegmentationConfig, read_segmentation_config
from hyperreg.training.segmentation_models import (
    SegmentationObjective,
    enter_phase,
    kept_network,
    start_network,
    switch_branches,
    trained_network,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class HeldOut(Sequence[SyntheticCase]):
    """Cases that are made when they are looked at: many whole ones would not fit into memory."""

    def __init__(self, make: Callable[[int], SyntheticCase], numbers: Sequence[int]) -> None:
        self._make = make
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._numbers[index])


class SegmentationTrainer(engine.Trainer[SyntheticCase]):
    """A run of a segmentation model: see `engine.Trainer`."""

    config: SegmentationConfig

    def __init__(self, config: SegmentationConfig, fabric: Fabric | None = None) -> None:
        synthesis = config.synthesis
        # Structures that cannot be are found before anything is built.
        table = np.zeros((2, 256), np.int64) if synthesis is None else config.class_table
        super().__init__(config, fabric)
        if synthesis is None:
            self.samples, self._held_out = self._listed()
            return
        maps = [brain_from_file(path) for path in synthesis.label_maps]
        for path, found in zip(synthesis.label_maps, maps, strict=True):
            if has_sides(table) and found.right is None:
                raise InputError(f"'{path.name}' does not tell left from right: leave it, or the sides, out.")
        self.samples = cases = CaseSynthesiser(
            maps,
            table,
            config.classes,
            synthesis.shape,
            synthesis.spacing_mm,
            synthesis.slices,
            config.grid["axes"] == SLICES_LAST,
            len(config.inputs),
            config.seed,
            synthesis.stripped,
            synthesis.strength,
            synthesis.look,
            synthesis.looks,
            synthesis.supersampling,
            synthesis.tumours,
            synthesis.sequences,
            str(self.device) if synthesis.on_device else "cpu",
        )
        numbers = range(engine.SEED_OFFSET, engine.SEED_OFFSET + config.validation.cases)
        self._held_out = HeldOut(replace(cases, looks=1, _flat={}).__getitem__, numbers)

    def _listed(self) -> tuple[ListedCases, HeldOut]:
        config = self.config
        assert config.cases is not None  # noqa: S101 (the configuration has been checked)
        training, validation = read_list(config.cases.source, len(config.inputs), config.validation.cases)
        table = {n: index for index, structure in enumerate(config.structures, start=1) for n in structure.numbers}
        card = card_of(config.output, {**self.card(), "sha256": ""})
        cache = config.output / "cache" / str(self.rank)
        numbering = Numbering()
        samples = ListedCases(training, card, table, config.cases, cache / "training", config.seed, numbering)
        # The first process alone validates.
        others = ListedCases(
            [] if self.rank else validation, card, table, config.cases, cache / "validation", numbering=numbering
        )
        return samples, HeldOut(others.whole, range(len(others.stems)))

    def first_model(self) -> nn.Module:
        network = trained_network(self.config)
        if self.config.start_from is not None:
            start_network(network, load_model(read_card(self.config.start_from)))
        return network if self.config.hyper is None else hyper.wrap(network, self.config.hyper)

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
        switch_branches(self.model, self.config, self.step)
        if self.config.phases is not None and self.step == self.config.phases.flat:
            # The average of the 3D network is of random weights so far.
            self.average.module.load_state_dict(self.model.state_dict())
        if self.config.hyper is None:
            loss, parts = self.objective(sample, self.step, generator)
            return loss, parts, {}
        lam = draw_value(self.config.hyper.ends, generator)
        loss, parts = self.objective(sample, self.step, generator, lam)
        return loss, parts, {"lambda": lam}

    def held_out(self) -> HeldOut:
        return self._held_out

    def validate(self, held_out: Sequence[SyntheticCase]) -> list[dict[str, float]]:
        """Dice and HD95 of every structure, and their means, over all voxels of all cases, as at inference.

        hd95_mm: where the model's voxel size is known; mean over the cases in which both have the structure.
        share: labelled voxels of those that should be, 1 if none is too many or too few. A λ-conditioned model gets a
        row for λ 0, its default and 1.
        """
        network = kept_network(self.average.module)
        if self.config.hyper is None:
            return [self._figures(network, held_out)]
        assert isinstance(network, HyperNetwork)  # noqa: S101 (made by `first_model`)
        return [
            {"lambda": lam, **self._figures(hyper.network_for(network, lam), held_out)}
            for lam in sorted({0.0, self.config.hyper.default, 1.0})
        ]

    def _figures(self, network: nn.Module, held_out: Sequence[SyntheticCase]) -> dict[str, float]:
        run, spacing = self._prediction(network), self.config.grid["spacing_mm"]
        sums = torch.zeros(self.config.classes, 3)
        distances: list[list[float]] = [[] for _ in range(self.config.classes)]
        for case in held_out:
            found = run(case.images.to(self.device)).argmax(0).numpy()
            wanted = case.target[0].argmax(0).cpu().numpy()
            for index in range(1, self.config.classes):
                if index in case.unknown:
                    continue
                one, two = found == index, wanted == index
                sums[index] += torch.tensor([float((one & two).sum()), float(one.sum()), float(two.sum())])
                if None not in spacing:
                    distances[index].append(hausdorff95(one, two, spacing))
        dice = 2 * sums[1:, 0] / (sums[1:, 1] + sums[1:, 2])
        hd95 = torch.tensor([float(torch.tensor(values).nanmean()) for values in distances[1:]])
        share = sums[1:, 1].sum() / sums[1:, 2].sum()
        row = {"dice": float(dice.nanmean()), "hd95_mm": float(hd95.nanmean()), "share": float(share)}
        for structure, overlap, distance in zip(self.config.structures, dice.tolist(), hd95.tolist(), strict=True):
            row |= {f"dice {structure.name}": overlap, f"hd95_mm {structure.name}": distance}
        # JSON has no NaN: a structure that no case has is left out.
        return {name: value for name, value in row.items() if math.isfinite(value)}

    def _prediction(self, network: nn.Module) -> Prediction:
        window = self.config.grid["window"]
        return Prediction(network, (window[0], window[1], window[2]), True, self.device.type)

    def temperature_of(self, network: nn.Module) -> float:
        """See `fit_temperature`: of a network as `kept_network` gives it."""
        run = self._prediction(network)
        return fit_temperature(lambda images: run(images.to(self.device)), self._held_out)

    @cached_property
    def expected(self) -> dict[int, dict[str, Any]]:
        """What the card says to expect of each class, from the people that are trained on."""
        samples = self.samples
        if isinstance(samples, CaseSynthesiser):
            return expectations(*people_of(samples.maps, samples.table), self.config.classes)
        assert isinstance(samples, ListedCases)  # noqa: S101 (there is no third kind)
        return expectations(samples.people, samples.unknown, self.config.classes)

    def card(self, expected: Mapping[int, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """The model's card, but for the weights' SHA256. expected: see `expectations`; left out if not given."""
        config = self.config
        structures: list[dict[str, Any]] = [
            {
                **structure.model_dump(mode="json", exclude={"numbers", "expected", "side"}, exclude_none=True),
                "channel": index,
                **({"expected": expected[index]} if expected and structure.expected and index in expected else {}),
            }
            for index, structure in enumerate(config.structures, start=1)
        ]
        return new_card(
            config.name,
            structures,
            title=config.title,
            description=config.description,
            licence=config.licence,
            modality=config.modality,
            inputs=config.inputs,
            network=hyper.network_entry(config.network, config.hyper),
            hyperparameters=hyper.hyperparameter_entries(config.hyper),
            grid=config.grid,
            intensities=config.intensities,
            **({} if config.postprocessing is None else {"postprocessing": config.postprocessing}),
            data=config.data,
            seed=config.seed,
            recipe=self.recipe(),
        )

    def export(self) -> None:
        """Write the averaged network with its card into the output folder; at the end of a run on images, calibrated.

        Synthetic cases calibrate nothing: with them `brain-anatomy` came to doubt far too much on real brains.
        """
        network, card = kept_network(self.average.module), self.card(self.expected)
        if self.over and len(self._held_out) and self.config.cases is not None and self.config.hyper is None:
            card["temperature"] = self.temperature_of(network)
        save_model(network, card, self.config.output)


def train(config_path: Path, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train as the configuration says; returns the folder with weights and card. See `engine`.

    Raises FileError, InputError, WeightsError.
    """
    return engine.train(SegmentationTrainer, read_segmentation_config(config_path), resume, progress)
