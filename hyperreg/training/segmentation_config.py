"""What one training run of a segmentation model is: read from YAML, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hyperreg.segmentation.catalogue import postprocessing_of
from hyperreg.training.appearance import Appearance
from hyperreg.training.cases import ClassTable, Side, class_table
from hyperreg.training.config import SYNTHETIC, RunConfig, ValidationRhythm, load_config

Triple = tuple[int, int, int]
# Networks that can be trained, by their names in cards.
TRAINED = ("segresnet", "cascade", "ahnet", "monai_unet", "sided")


class StructureConfig(BaseModel):
    """One structure of the model: its card's entry, and the labels (FreeSurfer's for synthesis) that it is made of."""

    model_config = ConfigDict(extra="forbid")
    label: int = Field(gt=0)
    name: str
    colour: Triple
    numbers: list[int] = Field(min_length=1)
    side: Side | None = Field(default=None, description="Only this half of the body; both if not given")
    terminology: dict[str, tuple[str, str, str]] | None = None
    expected: bool = Field(
        default=True, description="Results are compared with its size and place in the training; False for fluid, say"
    )


class CaseSynthesisConfig(BaseModel):
    """What the cases look like; see CaseSynthesiser and Appearance."""

    model_config = ConfigDict(extra="forbid")
    label_maps: list[Path] = Field(min_length=1, description="FreeSurfer-style, relative to the configuration")
    shape: Triple
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    slices: tuple[int, int] = Field(default=(1, 1), description="Thickness of the slices, voxels")
    stripped: float = Field(default=0.5, ge=0, le=1)
    strength: tuple[float, float] = (1.0, 2.0)
    look: Appearance = Appearance()
    looks: int = Field(
        default=1, gt=0, description="Cases in a row of one deformed map, each with a contrast of its own"
    )
    supersampling: int = Field(default=2, ge=1, le=3, description="How much finer the grid of the labels is")
    tumours: float = Field(default=0.0, ge=0, le=1, description="Share of cases with a tumour")
    sequences: list[Literal["t1c", "t1", "t2", "flair"]] = Field(
        default=[], description="Of the inputs, in their order; none: any contrast, each input another"
    )
    on_device: bool = Field(default=False, description="Make the cases where the network trains (a GPU, say)")


class CasesConfig(BaseModel):
    """Images with label maps of one's own, and how they are varied; see ListedCases."""

    model_config = ConfigDict(extra="forbid")
    source: Path = Field(description="A data list (JSON, as MSD or nnU-Net) or a folder with imagesTr and labelsTr")
    shape: Triple
    foreground: float = Field(default=0.67, ge=0, le=1, description="Share of patches around a structure")
    zoom: tuple[float, float] = (0.9, 1.1)
    turn: float = Field(default=0.0, ge=0, le=180, description="Degrees about each axis, at most")
    warp_mm: float = Field(default=0.0, ge=0, description="SD of a smooth random warp, at most")
    scale: float = Field(default=0.1, ge=0, description="Of the intensities, at most")
    shift: float = Field(default=0.1, ge=0, description="Of the intensities, at most")
    noise: float = Field(default=0.04, ge=0, description="SD, at most")
    bias: float = Field(default=0.25, ge=0, description="SD of the logarithm of the bias field, at most")
    thick: float = Field(default=0.0, ge=0, le=1, description="Share with thick slices")
    thickest: int = Field(default=4, ge=2, description="Voxels")
    mirror: list[tuple[int, int]] | None = Field(
        default=None,
        description="Mirror every other case, left to right: pairs of labels that change places then (right, left), "
        "none for structures in the middle alone",
    )


class LossConfig(BaseModel):
    """Weights of the terms, each a mean over voxels or structures; see `segmentation_loss`."""

    model_config = ConfigDict(extra="forbid")
    dice: float = Field(default=1.0, ge=0)
    cross_entropy: float = Field(default=1.0, ge=0)
    balance: float = Field(
        default=0.0, ge=0, le=1, description="Of the cross-entropy: 0 counts voxels alike, 1 classes"
    )
    recall: float = Field(
        default=0.5, ge=0, le=1, description="Of the Dice term: above a half, what is missed counts more (Tversky)"
    )
    balanced_steps: int | None = Field(
        default=None, ge=0, description="Balance 0 from this step on; never if not given"
    )
    focal: float = Field(default=0.0, ge=0)
    gamma: float = Field(default=2.0, ge=0, description="Of the focal term")

    def at(self, step: int) -> LossConfig:
        """The weights at `step` (steps done): with balance small structures are found soon, and come out too large."""
        over = self.balanced_steps is not None and step >= self.balanced_steps
        return self.model_copy(update={"balance": 0.0}) if over else self


# What a driven setting needs besides: some other term, or the term that it is a part of.
NEEDS = {"recall": ("dice",), "balance": ("cross_entropy",), "gamma": ("focal",)}
TERMS = ("dice", "cross_entropy", "focal")
# What the slider of a driven setting is called.
TITLES = {
    "recall": "λ: only what is sure ... all that may be",
    "balance": "λ: voxels ... structures count alike",
}


class HyperConfig(BaseModel):
    """Makes the model λ-conditioned: at every step λ is drawn from [0, 1], and moves one setting of the loss."""

    model_config = ConfigDict(extra="forbid")
    drives: Literal["recall", "balance", "dice", "cross_entropy", "focal", "gamma"] = Field(
        description="Setting of the loss that λ moves"
    )
    range: tuple[float, float] = Field(default=(0.1, 0.9), description="Its value at λ 0 and at λ 1")
    default: float = Field(default=0.5, ge=0, le=1, description="λ that the model starts with")
    title: str = ""
    description: str = ""
    ends: float = Field(default=0.2, ge=0, le=1, description="Share of the steps at λ 0 or 1")
    hidden: list[int] = Field(default=[16, 16], description="Widths of the hypernetwork's layers")
    rank: int | None = Field(default=3, ge=1, description="Directions in weight space: 1 + rank times the size")

    @model_validator(mode="after")
    def _named(self) -> HyperConfig:
        self.title = self.title or TITLES.get(self.drives, f"λ: {self.drives.replace('_', ' ')} in the loss")
        return self


class VaeConfig(BaseModel):
    """The variational branch of SegResNet, in training only; its weights as in the paper."""

    model_config = ConfigDict(extra="forbid")
    codes: int = Field(default=128, gt=0)
    reconstruction: float = Field(default=0.1, ge=0)
    kl: float = Field(default=0.1, ge=0)
    every: int = Field(default=1, gt=0, description="Only every so many steps: the branch doubles the decoder's work")
    until: int | None = Field(
        default=None,
        ge=0,
        description="Step by which its weights have gone to 0, in a straight line; never if not given",
    )

    def share_at(self, step: int) -> float:
        """How much of the weights is left at `step` (steps done)."""
        return 1.0 if self.until is None else max(0.0, 1 - step / self.until) if self.until else 0.0


class PhasesConfig(BaseModel):
    """AH-Net's phases: steps in 2D, then steps with the encoder locked; the rest trains everything."""

    model_config = ConfigDict(extra="forbid")
    flat: int = Field(ge=0)
    locked: int = Field(ge=0)
    flat_learning_rate: float = Field(default=5e-4, gt=0)
    slices_per_step: int = Field(default=8, gt=0)


class SegmentationValidationConfig(ValidationRhythm):
    """Cases that are never trained on."""

    cases: int = Field(default=4, ge=0, description="0: none")


class SegmentationConfig(RunConfig):
    """One training run of a segmentation model. network: {name, options} as in the card."""

    start_from: Path | None = Field(default=None, description="Folder of a model of the same network to go on from")
    structures: list[StructureConfig] = Field(min_length=1)
    inputs: list[dict[str, Any]] = Field(default=[{"name": "image", "title": "Image"}], min_length=1)
    modality: Literal["MR", "CT", "any"] = "MR"
    licence: str = "Apache-2.0"
    synthesis: CaseSynthesisConfig | None = None
    cases: CasesConfig | None = None
    intensities: dict[str, Any] = Field(default={"method": "robust"}, description="As in the card")
    postprocessing: dict[str, Any] | None = Field(default=None, description="Islands to be removed, as in the card")
    validation: SegmentationValidationConfig = SegmentationValidationConfig()
    loss: LossConfig = LossConfig()
    hyper: HyperConfig | None = None
    vae: VaeConfig | None = None
    deep_supervision: bool = Field(default=False, description="Losses at the decoder's coarser levels, too; with vae")
    phases: PhasesConfig | None = None
    schedule: Literal["cosine", "poly"] = "poly"
    weight_decay: float = Field(default=1e-5, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> SegmentationConfig:
        name = self.network.get("name")
        if name not in TRAINED:
            raise ValueError(f"network.name is {', '.join(TRAINED)}, not '{name}'")
        if self.vae is not None and name not in ("segresnet", "cascade"):
            raise ValueError("only SegResNet and the cascade have a variational branch: leave vae out")
        if self.deep_supervision and (self.vae is None or name != "segresnet"):
            raise ValueError("deep_supervision goes with segresnet and vae (until: 0 leaves the branch itself out)")
        if self.vae is not None and (self.vae.every > 1 or self.vae.until is not None) and self.devices > 1:
            raise ValueError(
                "on several devices the variational branch takes part in every step: set vae.every to 1 and leave "
                "vae.until out"
            )
        if self.phases is not None and name != "ahnet":
            raise ValueError("phases are AH-Net's: leave them out")
        if self.phases is not None and self.devices > 1:
            raise ValueError("AH-Net's phases are trained on one device")
        if self.phases is not None and self.phases.flat + self.phases.locked > self.steps:
            raise ValueError("the phases have more steps than the run")
        if self.hyper is not None:
            self._check_hyper(self.hyper)
        postprocessing_of(self.postprocessing)
        if (self.synthesis is None) == (self.cases is None):
            raise ValueError("give synthesis (images made from label maps) or cases (images of your own)")
        if self.synthesis is not None and len(self.synthesis.sequences) not in (0, len(self.inputs)):
            raise ValueError("synthesis.sequences names one sequence for each of the inputs, or none")
        if self.cases is not None and self.data == SYNTHETIC:
            raise ValueError("say in data which images the model is trained on: its card tells it to whoever uses it")
        if self.synthesis is not None and self.synthesis.on_device and self.workers:
            raise ValueError("synthesis.on_device makes the cases in the training process: set workers to 0")
        return self

    def _check_hyper(self, hyper: HyperConfig) -> None:
        if self.phases is not None:
            raise ValueError("AH-Net's phases are trained without hyper: leave one of them out")
        if hyper.drives == "balance" and self.loss.balanced_steps is not None:
            raise ValueError("hyper.drives: balance is what λ moves: leave loss.balanced_steps out")
        for value in hyper.range:
            LossConfig.model_validate({**self.loss.model_dump(), hyper.drives: value})
        others = NEEDS.get(hyper.drives, tuple(term for term in TERMS if term != hyper.drives))
        if not any(getattr(self.loss, term) for term in others):
            raise ValueError(f"hyper.drives: {hyper.drives} changes nothing while {' and '.join(others)} in loss is 0")

    @property
    def classes(self) -> int:
        """Channels of the network: background and the structures."""
        return 1 + len(self.structures)

    @property
    def class_table(self) -> ClassTable:
        """Of the label maps' labels, for synthesis. Raises InputError, see `cases.class_table`."""
        return class_table([one.numbers for one in self.structures], [one.side for one in self.structures])

    @property
    def shape(self) -> Triple:
        """Of the patches that are trained on."""
        part = self.cases if self.synthesis is None else self.synthesis
        assert part is not None  # noqa: S101 (checked above)
        return part.shape

    @property
    def label_maps(self) -> list[Path]:
        return [] if self.synthesis is None else self.synthesis.label_maps

    def identity(self) -> dict[str, Any]:
        structures = [[one.label, *one.numbers, *([one.side] if one.side else [])] for one in self.structures]
        return {**super().identity(), "structures": structures, "inputs": len(self.inputs), "vae": self.vae is not None}

    def recipe(self) -> dict[str, Any]:
        found = super().recipe()
        found["start_from"] = None if self.start_from is None else self.start_from.name
        if self.cases is not None:
            found["cases"]["source"] = self.cases.source.name
        return found


def read_segmentation_config(path: Path) -> SegmentationConfig:
    """Read the YAML of a segmentation run; relative paths count from its folder. Raises FileError, InputError."""
    config = load_config(path, SegmentationConfig)
    folder = path.resolve().parent
    if config.synthesis is not None:
        config.synthesis.label_maps = [folder / p for p in config.synthesis.label_maps]
    if config.start_from is not None:
        config.start_from = folder / config.start_from
    if config.cases is not None:
        config.cases.source = folder / config.cases.source
    return config
