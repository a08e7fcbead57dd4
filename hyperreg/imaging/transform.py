"""Spatial transforms: a chain of linear maps and displacement fields, as pull-back maps of RAS points.

numpy only, so that a process without SimpleITK or torch can hold and apply a transform; conversion to and from ITK
imports
SimpleITK when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.plausibility import LARGEST_STRETCH, check_reach
from hyperreg.imaging.volume import DisplacementField, Grid

if TYPE_CHECKING:
    import SimpleITK as sitk

Matrix = npt.NDArray[np.float64]
Stage = Matrix | DisplacementField

# A matrix whose determinant is below this squeezes space flat: no inverse that a float32 file would survive.
SMALLEST_DETERMINANT = 1e-6
# A B-spline read from a file becomes a dense field with this many samples per control point interval, and at most so
# many.
SAMPLES_PER_CONTROL_POINT = 8
MOST_SAMPLES = 8_000_000
# Composites within composites.
DEEPEST = 20
UNSUPPORTED = (
    "HyperReg cannot take over {}. Save it as an affine transform, a displacement field or a composite of these (in "
    "3D Slicer: convert it to a grid transform)."
)


def checked_matrix(matrix: npt.ArrayLike, name: str = "The linear transform") -> Matrix:
    """A (4, 4) float64 copy of `matrix`. Raises InputError unless it is a finite, invertible map of points."""
    try:
        array = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not a 4x4 matrix of numbers.") from error
    if array.shape != (4, 4) or not np.isfinite(array).all():
        raise InputError(f"{name} is not a 4x4 matrix of finite numbers (its shape is {array.shape}).")
    if not np.allclose(array[3], (0, 0, 0, 1), atol=1e-9):
        raise InputError(f"{name} is not an affine map: its last row must be 0 0 0 1.")
    check_reach(array[:3, 3], f"{name} moves space")
    if np.abs(array[:3, :3]).max() > LARGEST_STRETCH:
        raise InputError(
            f"{name} stretches space {np.abs(array[:3, :3]).max():.3g} times: the file is damaged, or not in mm. "
            "Export it again."
        )
    if abs(np.linalg.det(array[:3, :3])) < SMALLEST_DETERMINANT:
        raise InputError(f"{name} cannot be inverted (it squeezes space flat).")
    return array


@dataclass(frozen=True, eq=False)
class Transform:
    """A map of RAS points, mm: its stages, applied first to last.

    stages: each a (4, 4) matrix or a `DisplacementField` (x -> x + u(x)).
    A registration result is Transform((field, linear)): x -> linear @ (x + u(x)), fixed RAS to moving RAS, the way
    images are
    pulled back; its inverse is Transform((inv(linear), inverse_field)).
    Raises InputError for a matrix that is not an invertible affine map.
    """

    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        stages = tuple(
            stage if isinstance(stage, DisplacementField) else checked_matrix(stage, "A stage of the transform")
            for stage in self.stages
        )
        object.__setattr__(self, "stages", stages)

    @property
    def is_linear(self) -> bool:
        return not any(isinstance(stage, DisplacementField) for stage in self.stages)

    @property
    def linear(self) -> Matrix:
        """The linear stages alone, as one (4, 4) matrix of RAS mm; displacement fields are left out."""
        matrix = np.eye(4)
        for stage in self.stages:
            if not isinstance(stage, DisplacementField):
                matrix = stage @ matrix
        return matrix

    def apply(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map (N, 3) RAS points, mm, to (N, 3) RAS points, mm."""
        mapped = np.array(points, dtype=np.float64)
        if mapped.ndim != 2 or mapped.shape[1] != 3:
            raise InputError(f"Points must come as an array of the shape (N, 3), not {mapped.shape}.")
        for stage in self.stages:
            if isinstance(stage, DisplacementField):
                mapped += displacement_at(stage, mapped)
            else:
                mapped = mapped @ stage[:3, :3].T + stage[:3, 3]
        return mapped

    def to_field(self, grid: Grid) -> DisplacementField:
        """The whole chain as one displacement field on `grid`: (3, I, J, K) float32, RAS mm."""
        if self.is_linear:
            matrix = self.linear @ grid.ijk_to_ras - grid.ijk_to_ras
            i, j, k = (np.arange(n, dtype=np.float64) for n in grid.shape)
            array = np.empty((3, *grid.shape), dtype=np.float32)
            for axis in range(3):
                a, b, c, d = matrix[axis]
                array[axis] = a * i[:, None, None] + b * j[None, :, None] + c * k[None, None, :] + d
            return DisplacementField(array, grid.ijk_to_ras)
        import SimpleITK as sitk

        from hyperreg.imaging import itk

        frame = sitk.Image([1, 1, 1], sitk.sitkUInt8)
        itk.set_geometry(frame, grid)
        image = sitk.TransformToDisplacementField(
            to_sitk(self),
            sitk.sitkVectorFloat32,
            grid.shape,
            frame.GetOrigin(),
            frame.GetSpacing(),
            frame.GetDirection(),
        )
        return itk.field_from_itk(image)


def displacement_at(field: DisplacementField, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Displacements at (N, 3) RAS points: (N, 3), RAS mm.

    Linear between voxel centres, the border's value within half a voxel of it, zero beyond: as ITK does it, so that a
    point
    moves the same here and in every tool that loads the saved file.
    """
    shape = np.array(field.grid.shape)
    ijk = field.grid.to_ijk(points)
    displacements = np.zeros_like(points)
    inside = np.flatnonzero(((ijk >= -0.5) & (ijk < shape - 0.5)).all(axis=1))
    position = np.clip(ijk[inside], 0, shape - 1)
    low = np.floor(position).astype(np.intp)
    weight = position - low
    high = np.minimum(low + 1, shape - 1)
    total = np.zeros((3, inside.size))
    for corner in range(8):
        bits = np.array([corner >> axis & 1 for axis in range(3)], dtype=bool)
        index = np.where(bits, high, low)
        share = np.where(bits, weight, 1 - weight).prod(axis=1)
        total += share * field.array[:, index[:, 0], index[:, 1], index[:, 2]]
    displacements[inside] = total.T
    return displacements


def to_sitk(transform: Transform) -> sitk.Transform:
    """The same map as an ITK transform of LPS points: an affine, a displacement field, or a composite of them."""
    import SimpleITK as sitk

    from hyperreg.imaging import itk

    def stage_to_itk(stage: Stage) -> sitk.Transform:
        if isinstance(stage, DisplacementField):
            return sitk.DisplacementFieldTransform(itk.field_to_itk(stage))
        return itk.affine_to_itk(stage)

    if transform.is_linear:
        return itk.affine_to_itk(transform.linear)
    if len(transform.stages) == 1:
        return stage_to_itk(transform.stages[0])
    composite = sitk.CompositeTransform(3)
    for stage in reversed(transform.stages):  # ITK applies the transform that was added last first
        composite.AddTransform(stage_to_itk(stage))
    return composite


def from_sitk(transform: sitk.Transform, depth: int = 0) -> Transform:
    """The same map as a `Transform`.

    Every linear kind becomes a matrix, a B-spline becomes a dense field, a composite its parts. Raises InputError for
    2D, other kinds (velocity fields, kernel splines), and maps that lead implausibly far.
    """
    import SimpleITK as sitk

    from hyperreg.imaging import itk

    if transform.GetDimension() != 3:
        raise InputError(f"The transform is for {transform.GetDimension()}D images; HyperReg needs a 3D one.")
    # Before composites: SimpleITK calls linear kinds that it does not know (ANTs' MatrixOffsetTransformBase) composites
    # of themselves.
    if transform.IsLinear():
        return Transform((itk.affine_from_itk(transform),))
    kind = transform.GetTransformEnum()
    if kind == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        parts = [composite.GetNthTransform(n) for n in reversed(range(composite.GetNumberOfTransforms()))]
        if depth == DEEPEST:  # other kinds that SimpleITK does not know are composites of themselves, too
            raise InputError(UNSUPPORTED.format("a part of this transform, of a kind that ITK's readers do not name"))
        return Transform(tuple(stage for part in parts for stage in from_sitk(part, depth + 1).stages))
    if kind == sitk.sitkDisplacementField:
        return Transform((itk.field_from_itk(sitk.DisplacementFieldTransform(transform).GetDisplacementField()),))
    if kind == sitk.sitkBSplineTransform:
        return Transform((_dense_field(sitk.BSplineTransform(transform)),))
    raise InputError(UNSUPPORTED.format(f"a transform of the kind '{transform.GetName()}'"))


def _dense_field(spline: sitk.BSplineTransform) -> DisplacementField:
    """A B-spline's displacements over its whole domain, finely enough for linear interpolation between samples."""
    import SimpleITK as sitk

    from hyperreg.imaging import itk

    mesh = np.array(spline.GetTransformDomainMeshSize())
    extent = np.array(spline.GetTransformDomainPhysicalDimensions())
    intervals = mesh * SAMPLES_PER_CONTROL_POINT
    intervals = np.maximum(mesh, np.floor(intervals * min(1.0, (MOST_SAMPLES / intervals.prod()) ** (1 / 3)))).astype(
        int
    )
    # Samples sit in the middle of their cells: the cells fill the domain, and none lies on its rim, where ITK says
    # "outside".
    step = extent / intervals
    direction = np.array(spline.GetTransformDomainDirection())
    origin = np.array(spline.GetTransformDomainOrigin()) + direction.reshape(3, 3) @ (step / 2)
    image = sitk.TransformToDisplacementField(
        spline, sitk.sitkVectorFloat32, intervals.tolist(), origin.tolist(), step.tolist(), direction.tolist()
    )
    return itk.field_from_itk(image)
