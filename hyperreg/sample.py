"""The sample pair to try the program with: two free brain templates, MNI152 and Colin27; see their README for licences.

No torch, nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import hyperreg
from hyperreg.errors import InputError


@dataclass(frozen=True)
class SampleImage:
    """One image of the pair. role: "fixed" or "moving". name: for the user. sha256: of the file."""

    role: str
    name: str
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Of the file. Raises InputError if it was not installed."""
        package = Path(hyperreg.__file__).resolve().parent
        folders = (package.parent / "Resources" / "SampleData", package / "sample_data")
        found = [folder / self.file for folder in folders if (folder / self.file).is_file()]
        if not found:
            raise InputError(f"The sample image '{self.name}' is not installed. Install HyperReg again.")
        return found[0]


SAMPLE = (
    SampleImage(
        "fixed", "MNI152", "mni152_2mm.nii.gz", "54117536b962ccbc9e4d50946b81bf66d75c7afbd517be33f7328b1a54e5c18d"
    ),
    SampleImage(
        "moving", "Colin27", "colin27_2mm.nii.gz", "036951ada0254dc2383a37c87a5896c4c818f39395524bcacbc3c8e64165aba6"
    ),
)
