"""What the peers' results become here, in mm, against what each peer's own tool does with them.

The tool warps three images that hold the R, A and S coordinate of each voxel of the moving grid: what arrives at a
voxel of the fixed grid is where the tool took it from. Both grids are oblique, anisotropic and left-handed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imaging_examples import affine, oblique_grid, scene, smooth_field

from benchmarks.registration import peers
from hyperreg.imaging import itk as bridge
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume

FIXED = oblique_grid((40, 36, 34), (1.7, 2.0, 2.3), (30.0, -45.0, 10.0))
MOVING = oblique_grid((44, 38, 32), (1.6, 1.9, 2.6), (33.0, -49.0, 14.0))
TOLERANCE_MM = 0.02


def reason(package: str) -> str:
    return f"{package} is not installed: its results are not checked here (pip install 'hyperreg[bench]')"


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    moving = scene(MOVING)
    truth = Transform((smooth_field(FIXED, 2.0), affine(5, (0, 1, 1), (3.0, -2.0, 2.0))))
    return resample(moving, FIXED, truth), moving


def coordinates(axis: int) -> Volume:
    return Volume(np.ascontiguousarray(MOVING.points()[..., axis]).astype(np.float32), MOVING.ijk_to_ras)


def assert_same_points(found: Transform, warped: Callable[[Volume], np.ndarray]) -> None:
    """`warped` brings an image of the moving grid to the fixed one with the peer's own tool: (I, J, K)."""
    points = FIXED.points()[4:-4, 4:-4, 4:-4].reshape(-1, 3)
    mapped = found.apply(points)
    ijk = MOVING.to_ijk(mapped)
    inside = ((ijk > 3) & (ijk < np.array(MOVING.shape) - 4)).all(axis=1)
    assert inside.sum() > 5000
    theirs = np.stack([warped(coordinates(axis))[4:-4, 4:-4, 4:-4].reshape(-1) for axis in range(3)], axis=1)
    assert np.abs(theirs - mapped)[inside].max() < TOLERANCE_MM
    moved = np.linalg.norm(mapped - points, axis=1)[inside]
    assert moved.mean() > 2  # nobody passes by doing nothing
    linear = points @ np.linalg.lstsq(np.c_[points, np.ones(len(points))], mapped, rcond=None)[0][:3] - mapped
    assert np.ptp(np.linalg.norm(linear - linear.mean(0), axis=1)) > 0.2  # nor with an affine alone


def test_greedy(pair: tuple[Volume, Volume]) -> None:
    greedy = pytest.importorskip("picsl_greedy", reason=reason("picsl_greedy"))
    fixed, moving = (bridge.volume_to_itk(volume, np.float32) for volume in pair)
    tool = greedy.Greedy3D()
    tool.execute(
        "-i fixed moving -a -dof 12 -m NCC 2x2x2 -n 40x20 -ia-image-centers -threads 1 -V 0 -o affine",
        fixed=fixed, moving=moving, affine=None,
    )  # fmt: skip
    tool.execute("-i fixed moving -it affine -m NCC 2x2x2 -n 20x10 -threads 1 -V 0 -o warp", warp=None)
    found = peers.from_greedy(tool["warp"], tool["affine"])

    def warped(volume: Volume) -> np.ndarray:
        image = bridge.volume_to_itk(volume, np.float32)
        tool.execute("-rf fixed -rm image there -r warp affine -V 0", image=image, there=None)
        return bridge.volume_from_itk(tool["there"]).array

    assert_same_points(found, warped)


def test_ants(pair: tuple[Volume, Volume], tmp_path: Path) -> None:
    ants = pytest.importorskip("ants", reason=reason("antspyx"))
    fixed, moving = (peers.to_ants(volume) for volume in pair)
    found = ants.registration(
        fixed, moving, "SyN", outprefix=f"{tmp_path}/", random_seed=1, aff_iterations=(100, 50, 20, 5),
        reg_iterations=(20, 10, 0),
    )  # fmt: skip

    def warped(volume: Volume) -> np.ndarray:
        image = peers.to_ants(volume)
        return ants.apply_transforms(fixed, image, found["fwdtransforms"], interpolator="linear").numpy()

    assert_same_points(peers.from_ants(found["fwdtransforms"]), warped)


def test_elastix(pair: tuple[Volume, Volume], tmp_path: Path) -> None:
    itk = pytest.importorskip("itk", reason=reason("itk-elastix"))
    if not hasattr(itk, "ElastixRegistrationMethod"):
        pytest.skip(reason("itk-elastix"))
    fixed, moving = (peers.to_elastix(itk, volume) for volume in pair)
    parameters = peers.elastix_parameters(itk, "lung")
    for number in range(parameters.GetNumberOfParameterMaps()):
        parameters.SetParameter(number, "MaximumNumberOfIterations", ("60",))
        parameters.SetParameter(number, "NumberOfResolutions", ("2",))
    tool = itk.ElastixRegistrationMethod[type(fixed), type(moving)].New(fixed, moving)
    tool.SetParameterObject(parameters)
    tool.SetLogToConsole(False)
    tool.SetOutputDirectory(str(tmp_path))
    tool.UpdateLargestPossibleRegion()
    found = tool.GetTransformParameterObject()

    def warped(volume: Volume) -> np.ndarray:
        transformix = itk.TransformixFilter[type(moving)].New(peers.to_elastix(itk, volume))
        transformix.SetTransformParameterObject(found)
        transformix.SetOutputDirectory(str(tmp_path))
        transformix.UpdateLargestPossibleRegion()
        return np.asarray(itk.array_view_from_image(transformix.GetOutput())).transpose(2, 1, 0)

    assert_same_points(peers.from_elastix(itk, moving, found, tmp_path), warped)


def test_each_image_is_handed_over_where_it_is(pair: tuple[Volume, Volume]) -> None:
    """Physical points of a voxel, LPS mm, as the peers' own image types tell them."""
    ants = pytest.importorskip("ants", reason=reason("antspyx"))
    image = peers.to_ants(pair[1])
    expected = MOVING.to_ras((3, 5, 7)) * (-1, -1, 1)
    np.testing.assert_allclose(ants.transform_index_to_physical_point(image, (3, 5, 7)), expected, atol=1e-3)
    assert image.numpy()[3, 5, 7] == pytest.approx(pair[1].array[3, 5, 7])
