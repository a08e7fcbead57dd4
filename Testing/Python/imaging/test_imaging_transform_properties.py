"""Transforms and points on random oblique, flipped, anisotropic, far grids: one library writes, another one reads."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import rotation

from hyperreg.imaging import itk
from hyperreg.imaging.points import read_points
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import DisplacementField, Grid

hypothesis = pytest.importorskip("hypothesis", reason="skipped: hypothesis is not installed")
st = hypothesis.strategies

FLIP = np.array([-1.0, -1.0, 1.0])
# The same examples in every run, so that a failure is one of this change.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # shrinking takes minutes
QUICK = hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=PHASES)


@st.composite
def matrices(draw, farthest: float = 5e4) -> np.ndarray:
    """(4, 4): a rotation about any axis, scales from a tenth to ten, flips, and a shift of up to `farthest` mm."""
    # Whole numbers: with denormal ones, ITK's own NIfTI writer writes another affine than it was given.
    whole = st.integers(-100, 100)
    axis = draw(st.tuples(whole, whole, whole).filter(any))
    scales = draw(st.tuples(*[st.floats(0.1, 10)] * 3))
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(draw(st.integers(0, 3599)) / 10, axis) * np.array(scales) * np.array(signs)
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-farthest, farthest)] * 3))
    return matrix


@st.composite
def fields(draw) -> DisplacementField:
    grid = Grid(draw(st.tuples(*[st.integers(2, 6)] * 3)), draw(matrices(1e4)))
    values = np.random.default_rng(draw(st.integers(0, 1000))).normal(0, 5, (3, *grid.shape))
    return DisplacementField(values.astype(np.float32), grid.ijk_to_ras)


def inside(grid: Grid, seed: int = 0) -> np.ndarray:
    """(20, 3) RAS points between the voxel centres of a grid."""
    ijk = np.random.default_rng(seed).uniform(0, np.array(grid.shape) - 1, (20, 3))
    return grid.to_ras(ijk)


def by_itk(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint((point * FLIP).tolist()) for point in points]) * FLIP


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt", ".mat"])
@QUICK
@hypothesis.given(matrix=matrices())
def test_any_linear_map_of_itk_is_read_and_ours_is_read_by_itk(ending: str, matrix: np.ndarray) -> None:
    points = np.random.default_rng(0).uniform(-300, 300, (10, 3))
    expected = points @ matrix[:3, :3].T + matrix[:3, 3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{ending}"
        sitk.WriteTransform(itk.affine_to_itk(matrix), str(path))
        np.testing.assert_allclose(read_transform(path).apply(points), expected, atol=1e-6)
        if ending != ".mat":
            write_transform(Transform((matrix,)), path)
            np.testing.assert_allclose(by_itk(sitk.ReadTransform(str(path)), points), expected, atol=1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".h5", ".tfm"])
@QUICK
@hypothesis.given(field=fields())
def test_any_field_of_itk_is_read_where_itk_has_it(ending: str, field: DisplacementField) -> None:
    # Float32 headers of NIfTI round places by this much; steep fields turn that into as much displacement.
    tolerance = 1e-3 if ending != ".nii.gz" else 2e-6 * np.abs(field.grid.corners).max() * 200 + 1e-3
    image = itk.field_to_itk(field)
    points = inside(field.grid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{ending}"
        if ending in (".h5", ".tfm"):
            sitk.WriteTransform(sitk.DisplacementFieldTransform(sitk.Image(image)), str(path))
        else:
            sitk.WriteImage(image, str(path))
        expected = by_itk(sitk.DisplacementFieldTransform(image), points)
        np.testing.assert_allclose(read_transform(path).apply(points), expected, atol=tolerance)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".h5"])
@QUICK
@hypothesis.given(field=fields(), matrix=matrices(100))
def test_any_chain_of_ours_is_read_by_itk(ending: str, field: DisplacementField, matrix: np.ndarray) -> None:
    transform = Transform((field, matrix))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{ending}"
        write_transform(transform, path, field.grid)
        if ending == ".h5":
            points = inside(field.grid)
            np.testing.assert_allclose(
                by_itk(sitk.ReadTransform(str(path)), points), transform.apply(points), atol=1e-3
            )
            return
        # A dense field is exact at the voxels only.
        ijk = np.argwhere(np.ones(field.grid.shape))
        moved = transform.apply(field.grid.to_ras(ijk)) - field.grid.to_ras(ijk)
        read = sitk.ReadImage(str(path))
        found = np.array([read.GetPixel(*voxel.tolist()) for voxel in ijk]) * FLIP
        np.testing.assert_allclose(found, moved, rtol=1e-5, atol=1e-3)
        if ending == ".nii.gz":
            image = nibabel.load(path)
            np.testing.assert_allclose(image.affine, field.grid.ijk_to_ras, rtol=1e-5, atol=2e-2)
            np.testing.assert_allclose(np.asarray(image.dataobj)[tuple(ijk.T)][:, 0], moved, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "kind", ["json LPS", "json RAS", "fcsv LPS", "fcsv RAS", "csv r,a,s", "csv l,p,s", "csv x,y,z,t"]
)
@QUICK
@hypothesis.given(points=st.lists(st.tuples(*[st.floats(-9e4, 9e4)] * 3), min_size=1, max_size=8))
def test_any_points_come_back_as_ras(kind: str, points: list[tuple[float, float, float]]) -> None:
    ras = np.array(points)
    form, _, system = kind.partition(" ")
    lps = "l" in system.lower() or system.endswith("t")
    rows = (ras * FLIP if lps else ras).tolist()
    table = io.StringIO()
    if form == "json":
        control = [{"id": str(n), "position": row} for n, row in enumerate(rows)]
        table.write(json.dumps({"markups": [{"coordinateSystem": system, "controlPoints": control}]}))
    elif form == "fcsv":
        table.write(f"# CoordinateSystem = {system}\n")
        csv.writer(table).writerows([n, *row, 0, 0, 0, 1, 1, 1, 0, "F"] for n, row in enumerate(rows))
    else:
        table.write(system + "\n")
        csv.writer(table).writerows([*row, 0][: system.count(",") + 1] for row in rows)
    ending = {"json": ".mrk.json", "fcsv": ".fcsv", "csv": ".csv"}[form]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"p{ending}"
        path.write_text(table.getvalue(), encoding="utf-8", newline="")
        np.testing.assert_allclose(read_points(path), ras, atol=1e-9)
