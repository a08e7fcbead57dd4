"""The files of one segmentation: for 3D Slicer, as a label map, uncertainty, volumes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.worker.segmentation import Segmented


def write(segmented: Segmented, folder: Path, stem: str) -> list[tuple[str, Path]]:
    """Writes segmentation, uncertainty and volumes into `folder`; (title, path) of each. Raises FileError."""
    files = [
        ("Segmentation for 3D Slicer (.seg.nrrd)", folder / f"{stem}.seg.nrrd"),
        ("Label map (.nii.gz)", folder / f"{stem}.nii.gz"),
        ("Uncertainty, 0 to 1, not calibrated (.nii.gz)", folder / f"{stem}-uncertainty.nii.gz"),
        ("Volumes (.csv)", folder / f"{stem}-volumes.csv"),
    ]
    for _title, path in files[:2]:
        write_segmentation(segmented.labels, segmented.card.structures, path)
    write_volume(segmented.uncertainty, files[2][1])
    write_table([found.as_dict() for found in segmented.volumes], files[3][1])
    return files


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes rows with the same keys as CSV; no rows make a table of one empty column."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else ["name"])
        table.writeheader()
        table.writerows(rows)
