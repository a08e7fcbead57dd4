"""The stages in which a field becomes better, coarse to fine, and what the user reads of them. No torch: for Slicer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage. name: for programs; title: for the user; spacing_mm: voxels of the images that it compares."""

    name: str
    title: str
    spacing_mm: float

    @property
    def text(self) -> str:
        """For the user, such as "Quick result (2 mm)"."""
        return f"{self.title} ({self.spacing_mm:.2g} mm)"

    def describe(self) -> dict[str, Any]:
        """As JSON has it; see `stage_of`."""
        return {"name": self.name, "title": self.title, "spacing_mm": self.spacing_mm}


def stage_of(entry: Mapping[str, Any]) -> Stage:
    """The stage that `Stage.describe` described."""
    return Stage(str(entry["name"]), str(entry["title"]), float(entry["spacing_mm"]))


# What is shown between two values of λ whose fields are known.
BETWEEN_TEXT = "Preview between two computed λ"
