"""Data parameters as a result: settings, values, the weights and the consensus that they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.stack import LabelStack
from hyperreg.fusion.voting import softmax_weights, vote

Array = npt.NDArray[np.float64]
Mode = Literal["out_of_line", "in_line"]

METHOD = "dp"


@dataclass(frozen=True)
class DataParameterSettings:
    """How data parameters are learned. The defaults take some minutes on two CPU cores.

    mode: "out_of_line" (two steps, see the module) or "in_line" (one step with a weighted loss: the paper's ablation).
    steps: in all; a run that is continued may have more. targets_per_step: None is 2 volumes or 32 slices.
    labels: only these are learned from; None: all. spacing_mm, most_voxels, margin_mm: see `make_samples`.
    network: "lraspp" (MobileNetV3) or "segresnet"; "auto" is lraspp for slices, segresnet for volumes, where a small
    one learns faster. learning_rate: of the network (AdamW, cosine with restarts after `restart` steps, then twice as
    many). warm_up: steps before the data parameters move. data_parameter_rate: of these (SparseAdam).
    risk: add the risk regularisation. fixed_weighting: divide weights by the logarithm of the label's size.
    answer_every: steps between answers, which are also when a run can be continued from.
    """

    mode: Mode = "out_of_line"
    steps: int = 250
    targets_per_step: int | None = None
    labels: tuple[int, ...] | None = None
    spacing_mm: float | None = None
    most_voxels: int = 40**3
    margin_mm: float = 10.0
    network: Literal["auto", "lraspp", "segresnet"] = "auto"
    learning_rate: float = 2e-3
    restart: int = 500
    warm_up: int = 100
    data_parameter_rate: float = 0.1
    risk: bool = True
    fixed_weighting: bool = True
    answer_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("out_of_line", "in_line"):
            raise InputError(f"Data parameters are learned 'out_of_line' or 'in_line', not '{self.mode}'.")
        if self.network not in ("auto", "lraspp", "segresnet"):
            raise InputError(f"Unknown network '{self.network}'. Choose auto, lraspp or segresnet.")
        positive = ("steps", "most_voxels", "learning_rate", "restart", "data_parameter_rate", "answer_every")
        wrong = [name for name in positive if not getattr(self, name) > 0]
        if (
            wrong
            or self.margin_mm < 0
            or self.warm_up < 0
            or (self.targets_per_step is not None and self.targets_per_step < 1)
        ):
            raise InputError(f"Settings of data parameters must be above 0: {', '.join(wrong) or 'margin, targets'}.")


@dataclass(frozen=True)
class SampleQuality:
    """One label map of one target: its data parameter (any scale, larger is better) and its share of the consensus."""

    target: str
    atlas: str
    value: float
    weight: float


@dataclass(frozen=True, eq=False)
class DataParameters:
    """What was learned, or has been so far.

    targets: names; atlases: those of each target. values: (A,) for each target. steps: done, of `wanted`.
    history: (R, N) the values of all samples, in the order of targets and atlases, after each of `history_steps`.
    losses: of the network, mean between two answers. spacing_mm, shape: of what the network saw. seconds: of all runs.
    problem: why the progress could not be kept, or "".
    """

    targets: tuple[str, ...]
    atlases: tuple[tuple[str, ...], ...]
    values: tuple[Array, ...]
    steps: int
    wanted: int
    history: Array
    history_steps: tuple[int, ...]
    losses: tuple[float, ...]
    spacing_mm: float
    shape: tuple[int, ...]
    seconds: float
    problem: str = ""

    @property
    def finished(self) -> bool:
        return self.steps >= self.wanted

    @property
    def alike(self) -> bool:
        """Whether the label maps of every target still have one and the same value: none is told from another."""
        return all(np.ptp(values) == 0 for values in self.values)

    def of(self, target: str) -> Array:
        """The values of one target's label maps, (A,). Raises InputError for an unknown name."""
        if target not in self.targets:
            raise InputError(f"No data parameters were learned for '{target}'; there are {', '.join(self.targets)}.")
        return self.values[self.targets.index(target)]

    def weights(self, target: str, temperature: float | None = None) -> Array:
        """Shares of one target's label maps in its consensus, (A,), sum 1; see `dp_weights`."""
        return dp_weights(self.of(target), temperature)

    def table(self, temperature: float | None = None) -> list[SampleQuality]:
        """Every sample, target by target."""
        return [
            SampleQuality(target, atlas, float(value), float(weight))
            for target, atlases, values in zip(self.targets, self.atlases, self.values, strict=True)
            for atlas, value, weight in zip(atlases, values, dp_weights(values, temperature), strict=True)
        ]


def dp_weights(values: npt.ArrayLike, temperature: float | None = None) -> Array:
    """Softmax of data parameters: shares that sum to 1, (A,).

    temperature: what they are divided by before; 1 is the public code's, and leaves nearly all to the best one, because
    the values grow with the length of the training. None: their standard deviation (1 if they are all alike), so that
    the weights do not depend on that length. Raises InputError unless it is above 0.
    """
    array = np.asarray(values, dtype=np.float64)
    if temperature is None:
        temperature = float(array.std()) or 1.0
    return softmax_weights(array, temperature)


def dp_consensus(stack: LabelStack, values: npt.ArrayLike, temperature: float | None = None) -> Consensus:
    """The consensus of one target's label maps, voted with the weights of their data parameters.

    One label: foreground where the weights' sum is above one half. Several (an extension of ours): the label with the
    largest sum. Raises InputError.
    """
    return vote(stack, dp_weights(values, temperature), METHOD)
