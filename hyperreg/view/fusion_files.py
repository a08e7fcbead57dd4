"""The files of one consensus: for 3D Slicer, as a label map, disagreement, figures of label maps and structures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.view.segmentation_files import write_table
from hyperreg.worker.fusion import Fused


def write(fused: Fused, folder: Path, stem: str) -> list[tuple[str, Path]]:
    """Writes consensus, disagreement and both tables into `folder`; (title, path) of each. Raises FileError."""
    files = [
        ("Consensus for 3D Slicer (.seg.nrrd)", folder / f"{stem}.seg.nrrd"),
        ("Label map (.nii.gz)", folder / f"{stem}.nii.gz"),
        ("Share of atlases that disagree, 0 to 1 (.nii.gz)", folder / f"{stem}-disagreement.nii.gz"),
        ("Atlases (.csv)", folder / f"{stem}-atlases.csv"),
        ("Volumes (.csv)", folder / f"{stem}-volumes.csv"),
    ]
    for _title, path in files[:2]:
        write_segmentation(fused.labels, [found.structure for found in fused.structures], path)
    write_volume(fused.disagreement, files[2][1])
    write_table([asdict(rater) for rater in fused.raters], files[3][1])
    volumes = [
        {"label": found.structure.label, "name": found.structure.name}
        | {name: value for name, value in vars(found).items() if name.endswith("_ml")}
        for found in fused.structures
    ]
    write_table(volumes, files[4][1])
    return files
