"""The one place where HyperReg meets ITK: images, fields, grids and matrices between RAS and LPS.

HyperReg thinks in RAS and numpy's (I, J, K); ITK thinks in LPS and hands arrays over as (K, J, I). Every other module
works
in RAS only and comes here for SimpleITK objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.plausibility import check_reach
from hyperreg.imaging.volume import DisplacementField, Grid, Volume, spatial_sizes

Matrix = npt.NDArray[np.float64]

# Left/right and posterior/anterior are the two axes whose sign differs between RAS and LPS; the flip is its own
# inverse.
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal: what matters in them is checked and said in plain words by the caller."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def text_of(path: str | os.PathLike[str]) -> str:
    """A path as ITK takes it. Raises FileError for one that is no text: it would end the process."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FileError(
            f"'{os.path.basename(text)}' cannot be opened: the bytes of its name, or of its folder's, are no text "
            "(UTF-8). Rename it."
        ) from error
    return text


def set_geometry(image: sitk.Image, grid: Grid) -> None:
    """Give a SimpleITK image the place in space of `grid`."""
    lps = RAS_LPS @ grid.ijk_to_ras
    spacing = grid.spacing
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())


def grid_of(image: sitk.Image) -> Grid:
    """The grid of a 3D SimpleITK image. Raises InputError if it is not 3D or sheared."""
    if image.GetDimension() != 3:
        raise InputError(f"Expected a 3D image, got one with {image.GetDimension()} dimensions.")
    direction = np.array(image.GetDirection()).reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = direction * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Grid((i, j, k), RAS_LPS @ lps)


def volume_to_itk(volume: Volume, dtype: npt.DTypeLike | None = None) -> sitk.Image:
    """A SimpleITK image with the voxels (cast to `dtype` if given) and the geometry of `volume`."""
    array = volume.array if dtype is None else volume.array.astype(dtype, copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InputError(f"'{volume.name}' has voxels of the type {array.dtype}; HyperReg needs whole or real numbers.")
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    set_geometry(image, volume.grid)
    return image


def volume_from_itk(image: sitk.Image, name: str = "image") -> Volume:
    """The voxels and geometry of a 3D scalar SimpleITK image. Raises InputError if it is sheared or not 3D."""
    grid = grid_of(image)
    # A copy even where the view happens to be contiguous: the view ends with the image.
    array = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0).copy(order="C")
    return Volume(array, grid.ijk_to_ras, name)


def read_image(path: str, reader: str) -> tuple[dict[str, Any], list[npt.NDArray]]:
    """Read a 3D image by the class of ITK of that name; for the child process of `guarded.call`.

    Facts: grid ((4, 4) ijk to RAS mm, in rows) and components (numbers per voxel). Array: (K, J, I), or
    (K, J, I, components). Axes beyond the third are dropped if they have one element.
    Raises InputError for other dimensions and complex numbers, RuntimeError for files that ITK cannot read.
    """
    source = sitk.ImageFileReader()
    source.SetImageIO(reader)
    source.SetFileName(text_of(path))
    with quiet():
        source.ReadImageInformation()
        size = source.GetSize()
        name = os.path.basename(path)
        if "complex" in sitk.GetPixelIDValueAsString(source.GetPixelID()).lower():
            raise InputError(f"'{name}' holds complex numbers; export its magnitude image.")
        source.SetExtractSize([*spatial_sizes(size, name), *[0] * (len(size) - 3)])
        image = source.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    facts = {"grid": (RAS_LPS @ lps).tolist(), "components": image.GetNumberOfComponentsPerPixel()}
    return facts, [sitk.GetArrayFromImage(image)]


def field_to_itk(field: DisplacementField) -> sitk.Image:
    """A SimpleITK vector image (float64, LPS mm): what sitk.DisplacementFieldTransform takes, and empties."""
    array = np.empty((*field.array.shape[:0:-1], 3), dtype=np.float64)
    for axis in range(3):
        array[..., axis] = field.array[axis].transpose(2, 1, 0) * RAS_LPS[axis, axis]
    image = sitk.GetImageFromArray(array, isVector=True)
    set_geometry(image, field.grid)
    return image


def field_from_itk(image: sitk.Image) -> DisplacementField:
    """The displacement field of a 3D vector image (LPS mm). Raises InputError if it has not three components."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(
            "A displacement field is a 3D image with three values per voxel; this one has "
            f"{image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} value(s) per voxel."
        )
    view = sitk.GetArrayViewFromImage(image)
    array = np.empty((3, *image.GetSize()), dtype=np.float32)
    for axis in range(3):
        array[axis] = view[..., axis].transpose(2, 1, 0) * RAS_LPS[axis, axis]
    if not np.isfinite(array).all():
        raise InputError("The displacement field holds values that are not numbers (NaN or infinite).")
    check_reach(array, "The displacement field moves points")
    return DisplacementField(array, grid_of(image).ijk_to_ras)


def affine_to_itk(matrix: Matrix) -> sitk.AffineTransform:
    """A 4x4 map of RAS points as an ITK affine transform of LPS points."""
    lps = RAS_LPS @ matrix @ RAS_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def affine_from_itk(transform: sitk.Transform) -> Matrix:
    """The 4x4 map of RAS points of any linear ITK transform of LPS points (Euler, versor, similarity, affine...)."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, 3] = origin
    for axis in range(3):
        lps[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    return RAS_LPS @ lps @ RAS_LPS
