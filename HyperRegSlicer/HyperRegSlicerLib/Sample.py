"""The sample pair in the scene, and in Slicer's Sample Data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from hyperreg.sample import SAMPLE

CATEGORY = "HyperReg"


def load() -> dict[str, Any]:
    """Adds both volumes to the application's scene; their nodes by role. Raises InputError if the files are missing."""
    return {
        image.role: slicer.util.loadVolume(str(image.path), {"name": image.name, "show": False}) for image in SAMPLE
    }


def register(thumbnail: Path) -> None:
    """Offers the pair in the Sample Data module. thumbnail: a picture file."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="BrainTemplates",
        thumbnailFileName=str(thumbnail),
        uris=[image.path.as_uri() for image in SAMPLE],
        fileNames=[image.file for image in SAMPLE],
        nodeNames=[image.name for image in SAMPLE],
        checksums=[f"SHA256:{image.sha256}" for image in SAMPLE],
    )
