"""The form of model cards, as a JSON schema that is published beside this file: card.schema.json.

Programs that write cards can check theirs with it, editors complete and explain entries. HyperReg itself reads cards
without it (`catalogue`, `segmentation.catalogue`): Slicer's own process does, where pydantic may be missing. Those
readers also refuse what no schema can say, such as two structures with one label.

After a change here: python -m hyperreg.schema > hyperreg/card.schema.json
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FILE = "card.schema.json"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Colour = Annotated[int, Field(ge=0, le=255)]
CodePart = Annotated[str, Field(pattern=r"^[^~^|]*$")]
Code = tuple[CodePart, CodePart, CodePart]


class Entry(BaseModel):
    """Part of a card: what is not known here is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Hyperparameter(Entry):
    name: str = Field(min_length=1)
    title: str
    default: Fraction
    description: str = ""


class Input(Entry):
    name: str = Field(min_length=1)
    title: str
    patterns: list[str] = Field(default=[], description="Words of file names, or wildcards, that tell this input")


class Terminology(Entry):
    """Codes as DICOM writes them: scheme, value, meaning; for example SCT, 64033007, Kidney."""

    category: Code
    type: Code
    modifier: Code | None = None


class Expected(Entry):
    """What the structure was like in the people that the model learned from; see hyperreg.segmentation.plausibility."""

    ml: tuple[NotNegative, NotNegative] = Field(description="Smallest (0: missing in some) and largest volume")
    centre_mm: tuple[float, float, float] = Field(description="R, A, S, in a frame that the card's structures share")
    spread_mm: NotNegative = Field(description="How far from it people's centres were, RMS")
    cut: bool = Field(default=False, description="Whether it reached the border of the image in any of them")


class Structure(Entry):
    label: int = Field(ge=1, le=65535, description="Its value in label maps")
    channel: int = Field(ge=0, description="The network's output channel")
    name: str = Field(min_length=1)
    colour: tuple[Colour, Colour, Colour]
    terminology: Terminology | None = None
    expected: Expected | None = None


class Output(Entry):
    channels: Count
    activation: Literal["softmax", "sigmoid"] = Field(description="Exclusive channels, or regions of their own")


class Grid(Entry):
    axes: str = Field(
        pattern="^(slices_last|[rlapsi]{3})$", description="Where the network's axes run to: ras, lps, slices_last ..."
    )
    spacing_mm: tuple[Positive | None, Positive | None, Positive | None] = Field(description="null: the image's own")
    window: tuple[Count, Count, Count] = Field(description="Sides of what the network sees at once, voxels")
    flips: list[Annotated[int, Field(ge=0, le=2)]] = Field(default=[], description="Axes trained with flips")


class Intensities(Entry):
    method: Literal["robust", "nonzero", "nonzero_tanh", "standard", "window", "soft_window", "none"]
    window: tuple[float, float] | None = None


class Seconds(Entry):
    cpu: Positive | None = None
    cuda: Positive | None = None


class Postprocessing(Entry):
    """Islands that are removed from the network's result."""

    keep: Literal["all", "largest"] = Field(default="all", description="Of all structures together")
    bridge_mm: NotNegative = Field(default=0, description="Bridges up to twice this thick are cut first")
    share: Fraction = Field(default=0, description="Parts of a structure below this share of its largest one go")
    reach_mm: NotNegative = Field(default=5, description="Unless they are this near to a larger one")


class Network(BaseModel):
    """Which network, and its options; for a network with hyperparameters also the layers of its hypernetwork."""

    name: str
    options: dict[str, Any] = {}
    hidden: list[Count] | None = None
    rank: Count | None = None


class Common(BaseModel):
    """What every card says. More entries, such as how a model was trained, are welcome."""

    name: str = Field(pattern=r"^[\w-][\w.-]*$", description="Also the name of its folder")
    title: str
    description: str
    version: str
    licence: str
    sha256: Sha256 = Field(description="Of weights.safetensors")
    citation: str = ""
    ensemble: dict[Annotated[str, Field(pattern=r"^[\w-]+\.safetensors$")], Sha256] = Field(
        default={}, description="Further weights of the same network, trained separately: file and SHA256"
    )


class SegmentationCard(Common):
    """A segmentation model. structures: in the order in which they are painted where regions overlap."""

    kind: Literal["hyperreg-segmentation"]
    modality: Literal["MR", "CT", "any"]
    inputs: list[Input] = Field(min_length=1)
    structures: list[Structure] = Field(min_length=1)
    output: Output
    network: Network
    grid: Grid
    intensities: Intensities
    hyperparameters: list[Hyperparameter] = []
    postprocessing: Postprocessing | None = None
    temperature: Positive = Field(default=1, description="What logits are divided by, so that probabilities hold")
    memory_gb: Positive | None = Field(default=None, description="Peak of main memory on a usual image, measured")
    measured: str = Field(default="", description="In a sentence: how accurate it was found to be, and on what")
    seconds: Seconds = Field(default=Seconds(), description="On a usual image, measured, by device")


class RegistrationNetwork(BaseModel):
    features: str
    backbone: str
    options: dict[str, Any]
    hidden: list[Count]
    rank: Count | None = None
    passes: Count


class RegistrationGrid(Entry):
    spacing_mm: Positive
    max_shape: tuple[Count, Count, Count]
    multiple: Count


class RegistrationCard(Common):
    """A registration model; its first hyperparameter is lambda."""

    kind: Literal["hyperreg-registration"]
    hyperparameters: list[Hyperparameter] = Field(min_length=1)
    network: RegistrationNetwork
    grid: RegistrationGrid


Card = Annotated[SegmentationCard | RegistrationCard, Field(discriminator="kind")]
CARD: TypeAdapter[Any] = TypeAdapter(Card)


def schema_text() -> str:
    """What the published file holds."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps({"$schema": dialect, "title": "HyperReg model card", **CARD.json_schema()}, indent=2) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
