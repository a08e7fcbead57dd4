"""Transforms, landmarks, tables of names and segmentations: a small corpus, and the verdict on a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from imaging_examples import oblique_grid, smooth_field

from hyperreg.imaging.itk import affine_to_itk
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.label_tables import read_table
from hyperreg.imaging.plausibility import FARTHEST_MM
from hyperreg.imaging.points import read_points
from hyperreg.imaging.segment_files import write_layers, write_segmentation
from hyperreg.imaging.structures import LabelMap, Meaning, Structure, Table
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import Volume
from Testing.Fuzz.harness import Seed

GRID = oblique_grid((10, 9, 8))
PLACES = GRID.corners
LINEAR = np.array([[0.99, -0.08, 0.02, 6.0], [0.08, 0.98, -0.05, -9.0], [-0.02, 0.05, 1.01, 3.5], [0, 0, 0, 1]])
# No transform of bodies leads further, no landmark lies further, mm.
FURTHEST = 2 * FARTHEST_MM
TABLES = {
    "a.csv": "label,name,r,g,b\n1,Liver,220,130,100\n2,Left kidney,0,0,200\n9,Spleen,10,200,30\n",
    "b.tsv": "name\tlabel\nLiver\t1\nLeft kidney\t2\nSpleen\t9\n",
    "c.ctbl": "# Color table\n0 Background 0 0 0 0\n1 Liver 220 130 100 255\n2 Left_kidney 0 0 200 255\n",
    "d.label": '0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "Liver"\n2 0 255 0 1 1 1 "Left kidney"\n',
}


def transforms(folder: Path) -> list[Seed]:
    """Linear maps and fields in every format that is read."""
    folder.mkdir()
    field = smooth_field(GRID)
    for name, transform in {
        "a.tfm": Transform((LINEAR,)), "b.tfm": Transform((field, LINEAR)), "c.txt": Transform((LINEAR,)),
        "d.h5": Transform((LINEAR,)), "e.h5": Transform((field, LINEAR)), "f.nii": Transform((field,)),
        "g.nii.gz": Transform((field,)), "h.nrrd": Transform((field,)), "i.mha": Transform((field,)),
    }.items():  # fmt: skip
        write_transform(transform, folder / name)
    sitk.WriteTransform(affine_to_itk(LINEAR), str(folder / "j.mat"))
    files = sorted(folder.iterdir())
    return [seed_of(path, lambda path=path: read_transform(path).apply(PLACES), far) for path in files]


def landmarks(folder: Path) -> list[Seed]:
    """Points in every format that is read."""
    folder.mkdir()
    points = [{"id": str(n), "label": f"F-{n}", "position": list(map(float, p))} for n, p in enumerate(PLACES)]
    markups = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}]}
    (folder / "a.mrk.json").write_text(json.dumps(markups, indent=1))
    rows = "\n".join(f"{n},{p[0]:.4f},{p[1]:.4f},{p[2]:.4f},0,0,0,1,1,1,0,F-{n},," for n, p in enumerate(PLACES))
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,"
    (folder / "b.fcsv").write_text(f"{head}lock,label,desc,associatedNodeID\n{rows}\n")
    plain = "\n".join(f"{p[0]:.4f},{p[1]:.4f},{p[2]:.4f}" for p in PLACES)
    (folder / "c.csv").write_text(f"l,p,s\n{plain}\n")
    return [seed_of(path, lambda path=path: read_points(path), far) for path in sorted(folder.iterdir())]


def structures(folder: Path) -> list[Seed]:
    """Tables of names of several programs, and segmentations with and without layers."""
    folder.mkdir()
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    seeds = [seed_of(path, lambda path=path: read_table(path), bad_names) for path in sorted(folder.iterdir())]
    names = [Structure(1, 0, "Liver", (220, 130, 100)), Structure(2, 1, "Left kidney", (0, 0, 200))]
    one, other = np.zeros((2, *GRID.shape), np.uint8)
    one[2:6, 2:6, 2:6], other[4:8, 4:8, 4:7] = 1, 2
    first, second = (Volume(array, GRID.ijk_to_ras) for array in (one, other))
    write_segmentation(Volume(np.maximum(one, other), GRID.ijk_to_ras), names, folder / "e.seg.nrrd")
    write_layers([first, second], names, folder / "f.seg.nrrd")
    drawn = (folder / "e.seg.nrrd", folder / "f.seg.nrrd")
    return [*seeds, *(seed_of(path, lambda path=path: plain(read_structures(path)), bad_segments) for path in drawn)]


def seed_of(path: Path, read: Callable[[], Any], problem: Callable[[Any], str]) -> Seed:
    """A file that is read as a whole. problem: what is nonsense in what was read, in words."""
    whole = read()
    checked = path.suffix == ".gz"

    def same(found: Any) -> bool:
        return (
            np.shape(found) == np.shape(whole) and np.allclose(found, whole)
            if isinstance(whole, np.ndarray)
            else (found == whole)
        )

    def judge(found: Any, _raw: bytes) -> str:
        return "other content in spite of a checksum" if checked else problem(found)

    return Seed(path, read, same, judge)


def far(points: npt.NDArray[np.float64]) -> str:
    """What is wrong with the places to which points lead."""
    if not np.isfinite(points).all():
        return "leads to places that are no numbers"
    return f"leads {np.abs(points).max():.3g} mm far" if np.abs(points).max() > FURTHEST else ""


def bad_names(table: Table) -> str:
    for label, meaning in table.items():
        colour = meaning.colour or (0, 0, 0)
        if label == 0 or not meaning.name.strip() or not all(0 <= part <= 255 for part in colour):
            return f"nonsense: {label} = {meaning}"
    return ""


def plain(labels: LabelMap) -> tuple[Table, list[bytes], list[int], bool]:
    """What of a segmentation can be compared with ==, and whether there are warnings."""
    return dict(labels.table), [layer.array.tobytes() for layer in labels.layers], labels.labels, bool(labels.warnings)


def bad_segments(read: tuple[dict[int, Meaning], list[bytes], list[int], bool]) -> str:
    table, _voxels, labels, told = read
    if nameless := set(labels) - set(table):
        return "" if told else f"labels without a name, without a word: {sorted(nameless)}"
    return bad_names(table)
