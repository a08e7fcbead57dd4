"""The whole corpus, by kinds of files."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

# The examples that tests write themselves.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python" / "helpers"))

from Testing.Fuzz import images, maps, models, objects
from Testing.Fuzz.harness import Seed

KINDS = {
    "images": images.corpus,
    "transforms": maps.transforms,
    "landmarks": maps.landmarks,
    "structures": maps.structures,
    "dicom": objects.corpus,
    "models": models.corpus,
}


def corpus(folder: Path, kinds: Collection[str] = ()) -> list[list[Seed]]:
    """Whole files of the named kinds, of all without any name."""
    folder.mkdir(exist_ok=True)
    return [make(folder / name) for name, make in KINDS.items() if not kinds or name in kinds]
