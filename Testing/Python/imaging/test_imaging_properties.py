"""Property tests of geometry: any grid, written by one library, is read alike by ours, nibabel and ITK, in mm."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperreg.errors import InputError
from hyperreg.imaging import itk
from hyperreg.imaging.files import read_components, read_volume, write_volume
from hyperreg.imaging.volume import DisplacementField, Grid, Volume

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
BY_ITK = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
BY_NIBABEL = (".nii", ".nii.gz", ".mgz", ".mgh")
# The same few grids in every run: what fails, fails for everybody. `make fuzz` is where chance belongs.
STEADY = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def grids(draw) -> Grid:
    """Tiny, oblique, flipped, permuted, anisotropic, near and far: spacings of 1 micrometre to 40 mm."""
    shape = tuple(draw(st.integers(1, 7)) for _ in range(3))
    largest = 10 ** draw(st.floats(-3, 1.6))
    spacing = [largest / 10 ** draw(st.floats(0, 2)) for _ in range(3)]
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([1.0, 0, 0, 0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    signs = [draw(st.sampled_from((1, -1))) for _ in range(3)]
    order = draw(st.permutations(range(3)))
    matrix = np.eye(4)
    matrix[:3, :3] = (rotation * signs)[:, order] * spacing
    # As far as ten thousand voxels, so that NIfTI's float32 can hold the place.
    matrix[:3, 3] = [draw(st.floats(-1e4, 1e4)) * min(*spacing, 1.0) for _ in range(3)]
    return Grid(shape, matrix)


def _volume(grid: Grid) -> Volume:
    """Every voxel different, so that no mix-up of axes goes unnoticed."""
    return Volume(np.arange(np.prod(grid.shape), dtype=np.int16).reshape(grid.shape), grid.ijk_to_ras)


def _check(grid: Grid, corners: np.ndarray, array: np.ndarray, wanted: np.ndarray, who: str) -> None:
    """Corners within a hundredth of a voxel and the rounding of float32, voxels the same."""
    tolerance = 0.01 * grid.spacing.min() + 4e-7 * np.abs(grid.corners).max()
    assert np.abs(corners - grid.corners).max() <= tolerance, who
    np.testing.assert_array_equal(array, wanted, err_msg=who)


def _by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(8, 3) corners in RAS mm as ITK places them, and the voxels."""
    image = sitk.ReadImage(str(path))
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in image.GetSize()], indexing="ij"), axis=-1).reshape(-1, 3)
    corners = [image.TransformIndexToPhysicalPoint(ijk) for ijk in ends.tolist()]
    return np.array(corners) * (-1, -1, 1), sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def _by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.load(path)
    return Grid(image.shape, image.affine).corners, np.asarray(image.dataobj)


def _written_by_us(path: Path, volume: Volume) -> None:
    write_volume(volume, path)


def _written_by_itk(path: Path, volume: Volume) -> None:
    sitk.WriteImage(itk.volume_to_itk(volume), str(path), useCompression=True)


def _written_by_nibabel(path: Path, volume: Volume) -> None:
    kind = nibabel.MGHImage if path.suffix in (".mgz", ".mgh") else nibabel.Nifti1Image
    nibabel.save(kind(volume.array, volume.ijk_to_ras), path)


WRITERS = {"us": _written_by_us, "ITK": _written_by_itk, "nibabel": _written_by_nibabel}
CASES = [("us", ending) for ending in ENDINGS if ending != ".nhdr"]
CASES += [("ITK", ending) for ending in BY_ITK] + [("nibabel", ending) for ending in BY_NIBABEL]


@pytest.mark.parametrize(("writer", "ending"), CASES)
@STEADY
@given(grid=grids())
@example(grid=Grid((1, 1, 1), np.diag([-0.5, 0.25, 4, 1])))
@example(grid=Grid((1, 6, 2), np.array([[0, 0, 3.0, 5], [-0.3, 0, 0, -6], [0, 2, 0, 7], [0, 0, 0, 1]])))
def test_every_grid_is_read_alike_by_all_who_know_the_format(tmp_path, writer, ending, grid):
    path = tmp_path / f"image{ending}"
    volume = _volume(grid)
    WRITERS[writer](path, volume)
    read = read_volume(path)
    _check(grid, read.grid.corners, read.array, volume.array, "read by us")
    assert read.warnings == ()
    if ending in BY_ITK:
        _check(grid, *_by_itk(path), volume.array, "read by ITK")
    if ending in BY_NIBABEL:
        _check(grid, *_by_nibabel(path), volume.array, "read by nibabel")


@pytest.mark.parametrize("unit", ["mm", "micron"])
@STEADY
@given(grid=grids())
def test_a_qform_alone_places_an_image_as_in_itk(tmp_path, unit, grid):
    path = tmp_path / "image.nii"
    volume = _volume(grid)
    image = nibabel.Nifti1Image(volume.array, grid.ijk_to_ras)
    image.header.set_xyzt_units(unit)
    image.set_sform(None, 0)
    image.set_qform(grid.ijk_to_ras, 1)
    nibabel.save(image, path)
    by_itk, array = _by_itk(path)
    try:
        read = read_volume(path)
    except InputError:  # thinner than any voxel, once it is in micrometres
        assert unit == "micron" and grid.spacing.min() / 1000 < 1e-5
        return
    _check(Grid(grid.shape, read.ijk_to_ras), by_itk, array, volume.array, "read by ITK")
    scale = 1.0 if unit == "mm" else 0.001
    expected = np.vstack([grid.ijk_to_ras[:3] * scale, [[0, 0, 0, 1]]])
    _check(Grid(grid.shape, expected), read.grid.corners, read.array, volume.array, "read by us")


@STEADY
@given(grid=grids(), shear=st.floats(0.02, 0.5))
def test_sheared_grids_are_refused(tmp_path, grid, shear):
    matrix = grid.ijk_to_ras.copy()
    matrix[:3, 1] += shear * grid.spacing[1] / grid.spacing[0] * matrix[:3, 0]
    image = nibabel.Nifti1Image(_volume(grid).array, matrix)
    for path in (tmp_path / "sheared.nii", tmp_path / "sheared.mgz"):
        nibabel.save(image if path.suffix == ".nii" else nibabel.MGHImage(_volume(grid).array, matrix), path)
        with pytest.raises(InputError, match="right angles"):
            read_volume(path)


@STEADY
@given(grid=grids(), ending=st.sampled_from((".nrrd", ".mha", ".mhd")))
def test_vectors_stay_in_their_voxels(tmp_path, grid, ending):
    vectors = np.arange(3 * np.prod(grid.shape), dtype=np.float32).reshape(3, *grid.shape)
    path = tmp_path / f"field{ending}"
    image = sitk.Cast(itk.field_to_itk(DisplacementField(vectors, grid.ijk_to_ras)), sitk.sitkVectorFloat32)
    sitk.WriteImage(image, str(path), useCompression=True)
    array, matrix, _ = read_components(path)
    lps = np.array([-1, -1, 1], np.float32)[:, None, None, None]
    _check(grid, Grid(grid.shape, matrix).corners, array * lps, vectors, "read by us")
