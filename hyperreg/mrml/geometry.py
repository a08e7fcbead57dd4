"""Between MRML nodes and HyperReg's arrays: volumes, linear transforms and displacement fields, in RAS mm.

Memory order: a vtkImageData is (K, J, I[, 3]) in numpy, HyperReg's arrays are (I, J, K) and (3, I, J, K).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField, Grid, Volume

Matrix = npt.NDArray[np.float64]

# Newton's iteration that inverts a grid transform stops at this distance (VTK's default, 0.01 mm, shows on a landmark).
INVERSE_TOLERANCE_MM = 1e-3


def refusal(node: slicer.vtkMRMLVolumeNode | None, role: str) -> str:
    """Why a node cannot be used as `role` ("fixed", "moving", "input"), in words for the user; "" if it can.

    Looks at the kind of node and the size of the image, not at the voxels: cheap enough for every change of a selector.
    """
    if node is None:
        return f"Choose a {role} volume."
    name = node.GetName()
    image = node.GetImageData()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return f"'{name}' is a label map. Choose the image it was drawn on as the {role} volume."
    if node.IsA("vtkMRMLMultiVolumeNode") or node.IsA("vtkMRMLDiffusionWeightedVolumeNode"):
        return f"'{name}' is a 4D series. Extract one 3D volume from it and choose that as the {role} volume."
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLTensorVolumeNode"):
        return f"'{name}' is a colour, vector or tensor image. Convert it to a scalar volume first."
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        return f"'{name}' holds no image. Load it again, or choose another {role} volume."
    if image.GetNumberOfScalarComponents() != 1:
        return (
            f"'{name}' has {image.GetNumberOfScalarComponents()} values per voxel (colour, vector or 4D image). "
            "Convert it to a scalar volume first."
        )
    if min(image.GetDimensions()) < 2:
        return f"'{name}' has only one slice. HyperReg works on 3D volumes."
    return ""


def to_numpy(matrix: vtk.vtkMatrix4x4) -> Matrix:
    """(4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(matrix: npt.ArrayLike) -> vtk.vtkMatrix4x4:
    """vtkMatrix4x4 from (4, 4)."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return result


def to_world(transform_node: slicer.vtkMRMLTransformNode | None, of_what: str) -> Matrix:
    """(4, 4) map from the space below a transform node to the world; the identity for None.

    of_what: names the thing under the transform in the message.
    Raises InputError if the transform, or one above it, is not linear.
    """
    if transform_node is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not transform_node.IsTransformToWorldLinear() or not transform_node.GetMatrixTransformToWorld(matrix):
        raise InputError(
            f"{of_what} is under the transform '{transform_node.GetName()}', which is not linear. Harden that "
            "transform (module Transforms) or take the volume out of it, then try again."
        )
    return to_numpy(matrix)


def sampled(transform_node: slicer.vtkMRMLTransformNode, grid: Grid) -> DisplacementField:
    """The map from the world to the space below a transform of any kind, at the points of a grid, RAS mm."""
    transform = vtk.vtkGeneralTransform()
    transform_node.GetTransformFromWorld(transform)
    places = grid.points().reshape(-1, 3)
    given, found = vtk.vtkPoints(), vtk.vtkPoints()
    given.SetData(numpy_to_vtk(np.ascontiguousarray(places), deep=True))
    found.SetDataTypeToDouble()
    transform.TransformPoints(given, found)
    moved = vtk_to_numpy(found.GetData()) - places
    return DisplacementField(moved.astype(np.float32).T.reshape(3, *grid.shape), grid.ijk_to_ras)


def volume_from_node(node: slicer.vtkMRMLScalarVolumeNode, parent: slicer.vtkMRMLTransformNode | None) -> Volume:
    """The image of a scalar volume or label map node, placed in the world through the linear transform `parent`.

    The array is a view of the node's memory, (I, J, K). `parent` is given and not read from the node, because a moving
    volume may be under the live transform, which is no part of its geometry.
    Raises InputError for a nonlinear parent or axes that are not at right angles in the world.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    image = node.GetImageData()
    i, j, k = image.GetDimensions()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i).T
    world = to_world(parent, f"'{node.GetName()}'")
    try:
        return Volume(array, world @ to_numpy(matrix), node.GetName())
    except InputError as error:
        raise InputError(f"'{node.GetName()}': {error}") from error


def volume_to_node(volume: Volume, node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Replaces the image and the geometry of a volume node by a copy of `volume`."""
    image = vtk.vtkImageData()
    image.SetDimensions(*volume.shape)
    flat = np.ascontiguousarray(volume.array.T).reshape(-1)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    modifying = node.StartModify()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(to_vtk(volume.ijk_to_ras))
    node.EndModify(modifying)


def padded(field: DisplacementField) -> DisplacementField:
    """The field with one more layer of voxels around it, all zero.

    Outside its grid a vtkGridTransform goes on with the value at the edge, ITK and HyperReg with zero. With a rim of
    zeros all three say the same everywhere, so views, saved transform and resampled volume agree.
    """
    affine = field.ijk_to_ras.copy()
    affine[:3, 3] = field.grid.to_ras((-1, -1, -1))
    return DisplacementField(np.pad(field.array, ((0, 0), (1, 1), (1, 1), (1, 1))), affine)


class GridTransform:
    """A vtkOrientedGridTransform that is filled in place, with the rim of zeros of `padded`.

    transform: the VTK object; it and its image stay the same objects for ever.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        shape = tuple(n + 2 for n in grid.shape)
        self._image = vtk.vtkImageData()
        self._image.SetDimensions(*shape)
        self._image.SetSpacing(*grid.spacing)
        self._image.SetOrigin(*grid.to_ras((-1, -1, -1)))
        self._image.AllocateScalars(vtk.VTK_FLOAT, 3)
        memory = vtk_to_numpy(self._image.GetPointData().GetScalars()).reshape(*shape[::-1], 3)
        memory[...] = 0
        self._inside = memory[1:-1, 1:-1, 1:-1]
        direction = np.eye(4)
        direction[:3, :3] = grid.ijk_to_ras[:3, :3] / grid.spacing
        self.transform = slicer.vtkOrientedGridTransform()
        self.transform.SetGridDirectionMatrix(to_vtk(direction))
        self.transform.SetDisplacementGridData(self._image)
        self.transform.SetInterpolationModeToLinear()
        self.transform.SetInverseTolerance(INVERSE_TOLERANCE_MM)

    def fill(self, field: DisplacementField) -> None:
        """Copies a field on the same grid in, (3, I, J, K) to (K, J, I, 3): one vectorised copy per component."""
        for component in range(3):
            self._inside[..., component] = field.array[component].T
        self._image.Modified()


class LiveTransform:
    """The map x -> linear @ (x + u(x)) as one VTK transform whose field changes in place.

    transform: vtkGeneralTransform, the grid first, then the matrix. Both are needed in ONE node: the user sees one
    transform, and ITK .h5 files hold exactly this composite.
    """

    def __init__(self, grid: Grid, linear: Matrix) -> None:
        self._linear = linear
        self.transform = vtk.vtkGeneralTransform()
        self._put(GridTransform(grid))

    def fill(self, field: DisplacementField) -> None:
        """Shows another field, also one on another grid (a refinement's is finer); announces it once."""
        if self._grid.grid.matches(field.grid):
            self._grid.fill(field)
        else:
            finer = GridTransform(field.grid)
            finer.fill(field)
            self._put(finer)
        # A general transform does not pass on the events of its parts: this one reaches the node and the views.
        self.transform.Modified()

    def _put(self, grid: GridTransform) -> None:
        self._grid = grid
        self.transform.Identity()
        self.transform.PostMultiply()
        self.transform.Concatenate(grid.transform)
        self.transform.Concatenate(to_vtk(self._linear))


def vtk_transform(stages: Sequence[Matrix | DisplacementField]) -> vtk.vtkGeneralTransform:
    """A VTK transform of its own (no shared memory) that applies matrices and fields, first to last, to RAS points."""
    transform = vtk.vtkGeneralTransform()
    transform.PostMultiply()
    for stage in merged(stages):
        if isinstance(stage, DisplacementField):
            grid = GridTransform(stage.grid)
            grid.fill(stage)
            transform.Concatenate(grid.transform)
        else:
            transform.Concatenate(to_vtk(stage))
    return transform


def merged(stages: Sequence[Matrix | DisplacementField]) -> list[Matrix | DisplacementField]:
    """The same map with neighbouring matrices multiplied into one."""
    result: list[Matrix | DisplacementField] = []
    for stage in stages:
        before = result[-1] if result else None
        if isinstance(before, np.ndarray) and isinstance(stage, np.ndarray):
            result[-1] = stage @ before
        else:
            result.append(stage)
    return result
