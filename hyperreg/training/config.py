"""What one training run is: read from YAML, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from hyperreg.errors import FileError, InputError
from hyperreg.training.appearance import Appearance


class StageConfig(BaseModel):
    """See Stage."""

    model_config = ConfigDict(extra="forbid")
    until: int = Field(gt=0)
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]


class SynthesisConfig(BaseModel):
    """What the pairs look like; see PairSynthesiser and Appearance."""

    model_config = ConfigDict(extra="forbid")
    label_maps: list[Path] = Field(default=[], description="FreeSurfer-style label maps, relative to the configuration")
    shape_maps: int = Field(default=40, ge=0, description="How many maps of random shapes to draw from")
    shape_size: int = Field(default=112, ge=8, description="Voxels along each side of those maps")
    shape_scales: list[list[int]] = Field(
        default=[[8, 16, 32]], min_length=1, description="Of their noise, voxels; the maps take turns"
    )
    stages: list[StageConfig] = Field(min_length=1)
    shapes: float = Field(default=0.3, ge=0, le=1)
    two_maps: float = Field(default=0.5, ge=0, le=1)
    same_contrast: float = Field(default=0.6, ge=0, le=1)
    stripped: float = Field(default=0.6, ge=0, le=1)
    strength: tuple[float, float] = (1.0, 1.0)
    look: Appearance = Appearance()
    on_device: bool = Field(default=False, description="Make the pairs where the network trains (a GPU, say)")


class ValidationRhythm(BaseModel):
    """How often a run is measured on what it is never trained on."""

    model_config = ConfigDict(extra="forbid")
    every: int = Field(default=200, gt=0, description="Steps")


class ValidationConfig(ValidationRhythm):
    """Pairs that are never trained on; their random shapes are others, too."""

    pairs: int = Field(default=4, ge=0, description="0: none")
    lambdas: list[float] = [0.0, 0.25, 0.5, 0.75, 1.0]
    shape_maps: int = Field(default=2, ge=0)


SYNTHETIC = "Synthetic images only"


class RunConfig(BaseModel):
    """What every training run has. `steps`, `minutes`: over all resumes; a later stage is the same file with more."""

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    description: str
    output: Path
    network: dict[str, Any]
    grid: dict[str, Any]
    validation: ValidationRhythm = ValidationRhythm()
    steps: int = Field(gt=0)
    minutes: float | None = Field(
        default=None, gt=0, description="At most, validation not counted: for a GPU that is lent for so long"
    )
    learning_rate: float = Field(default=5e-4, gt=0)
    warm_up: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "poly"] = Field(default="cosine", description="After the warm-up")
    weight_decay: float = Field(default=0.0, ge=0)
    optimiser: Literal["adam", "adamw"] = Field(
        default="adam", description="How the weights decay: through the gradient, or by themselves (AdamW)"
    )
    beta2: float = Field(
        default=0.999, gt=0, lt=1, description="Adam's memory of squared gradients; less for short runs"
    )
    averaging: float = Field(default=0.998, ge=0, lt=1)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    devices: int = Field(default=1, gt=0, description="More than one: one process each, gradients averaged (Fabric)")
    precision: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Of the network alone")
    workers: int = Field(default=1, ge=0, description="Processes that make samples while the network learns; 0: none")
    checkpoint_every: int = Field(default=100, gt=0)
    data: str = SYNTHETIC

    @model_validator(mode="after")
    def _stops_everywhere(self) -> RunConfig:
        if self.minutes is not None and self.devices > 1:
            raise ValueError("on several devices the processes would stop at different steps: leave minutes out")
        return self

    @property
    def label_maps(self) -> list[Path]:
        """The files that images are made from; none unless a kind of training says so."""
        return []

    def identity(self) -> dict[str, Any]:
        """What may not change when a run goes on: it would be another model."""
        return {"name": self.name, "network": self.network, "grid": self.grid, "seed": self.seed}

    def recipe(self) -> dict[str, Any]:
        """Every setting that made the model, for its card: names of files, but no folders."""
        left_out = {"output", "title", "description", "data", "network", "grid", "synthesis"}
        synthesis = self.model_dump(mode="json", include={"synthesis"}).get("synthesis")
        if synthesis is not None:
            synthesis = {**synthesis, "label_maps": [path.name for path in self.label_maps]}
        return {**self.model_dump(mode="json", exclude=left_out), "synthesis": synthesis}


class RegistrationConfig(RunConfig):
    """What every training of a registration model has: where it starts, and the terms of the loss."""

    start_from: str | None = Field(default=None, description="A model's name, or its folder: its weights come first")
    smoothness_weight: float = Field(default=8.0, gt=0, description="Calibrates the middle of the slider")
    later_pass: float = Field(default=0.3, ge=0, le=1, description="Share of pairs that one pass has warped already")
    ends: float = Field(default=0.2, ge=0, le=1, description="Share of each hyperparameter drawn from {0, 1}")
    fixed_lambda: float | None = Field(
        default=None, ge=0, le=1, description="An ordinary network for this λ alone, without hypernetwork: to compare"
    )
    image_weight: float = Field(default=1.0, ge=0, description="Of 1 - LNCC, where the contrasts agree")
    cross_contrast_weight: float = Field(default=0.0, ge=0, description="Of the MIND difference, where they do not")
    overlap_weight: float = Field(default=1.0, ge=0)
    truth_weight: float = Field(default=0.2, ge=0, description="Of the true field's error (Huber, voxels), where known")
    lncc_width: int = 7
    default_lambda: float = Field(default=0.3, ge=0, le=1)
    default_gamma: float | None = Field(default=None, ge=0, le=1, description="Given: the model declares γ")
    compile: bool = Field(default=False, description="Compile the network: pays on a GPU and over many steps")

    @model_validator(mode="after")
    def _has_one_or_many(self) -> Self:
        if self.fixed_lambda is not None and self.default_gamma is not None:
            raise ValueError("fixed_lambda is a network without hyperparameters: leave default_gamma out")
        return self

    @property
    def defaults(self) -> dict[str, float]:
        """The hyperparameters that the model declares, with their defaults; lambda first."""
        gamma = {} if self.default_gamma is None else {"gamma": self.default_gamma}
        return {"lambda": self.default_lambda, **gamma}

    def recipe(self) -> dict[str, Any]:
        start = None if self.start_from is None else Path(self.start_from).name
        return {**super().recipe(), "start_from": start}


class TrainingConfig(RegistrationConfig):
    """One training run of a registration model on synthetic images."""

    synthesis: SynthesisConfig
    validation: ValidationConfig = ValidationConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        if self.synthesis.on_device and self.workers:
            raise ValueError("synthesis.on_device makes the pairs in the training process: set workers to 0")
        return self

    @property
    def label_maps(self) -> list[Path]:
        return self.synthesis.label_maps


C = TypeVar("C", bound=RunConfig)
# So many mistakes are told at once.
MOST_MISTAKES = 8


def in_words(error: ValidationError, kind: type[BaseModel]) -> str:
    """What is wrong with a configuration, a line for each mistake: where it stands, and what to do."""
    found = error.errors(include_url=False)
    lines = [f"- {_mistake(one, kind)}" for one in found if one["type"] != "missing"]
    missing = ", ".join(_place(one) for one in found if one["type"] == "missing")
    if missing:
        lines.append(f"- Missing: {missing}. (hyperreg/training/configs holds whole configurations to start from.)")
    rest = len(lines) - MOST_MISTAKES
    return "\n".join(lines[:MOST_MISTAKES] + ([f"- and {rest} more"] if rest > 0 else []))


def _place(one: Any) -> str:
    return ".".join(str(part) for part in one["loc"])


def _mistake(one: Any, kind: type[BaseModel]) -> str:
    place = _place(one)
    if one["type"] == "extra_forbidden":
        # Only names of the top level are known here; those of its parts are explained in the configurations there are.
        near = get_close_matches(place, kind.model_fields, 1)
        return f"'{place}' is no setting{f'; is {near[0]} meant?' if near else '.'}"
    if not one["loc"]:
        return str(one["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(one["input"], (dict, list)) else f" (it is {one['input']!r})"
    return f"'{place}': {str(one['msg']).removeprefix('Value error, ')}{given}."


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, as the language has it; PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name}' is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_config(path: Path, kind: type[C]) -> C:
    """Read a YAML configuration; its output counts from its own folder. Raises FileError, InputError."""
    try:
        config = kind.model_validate(_Loader(path.read_bytes()).get_single_data())
    except OSError as error:
        raise FileError(f"The configuration '{path}' cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"The configuration '{path}' is no YAML: {error}") from error
    except ValidationError as error:
        raise InputError(f"The configuration '{path}' cannot be used:\n{in_words(error, kind)}") from error
    folder = path.resolve().parent
    config.output = folder / config.output
    return config


def read_config(path: Path) -> TrainingConfig:
    """Read the YAML of a registration run; relative paths count from its folder. Raises FileError, InputError."""
    config = load_config(path, TrainingConfig)
    folder = path.resolve().parent
    config.synthesis.label_maps = [folder / p for p in config.synthesis.label_maps]
    if config.start_from is not None and "/" in config.start_from:
        config.start_from = str((folder / config.start_from).resolve())
    return config
