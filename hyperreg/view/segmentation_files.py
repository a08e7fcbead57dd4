"""The files of one segmentation: for 3D Slicer, as a label map, uncertainty, volumes."""

from __future__ import annotations

import csv
from pathlib import Path

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
    rows = [found.as_dict() for found in segmented.volumes]
    with files[3][1].open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return files
