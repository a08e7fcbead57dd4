"""Transforms as DICOM (Deformable) Spatial Registration objects, and back.

The directions, which differ between the two kinds of objects (PS3.3 C.20.2 and C.20.3, PS3.17 O.1):

- The *Registered* frame of reference is that of the object itself: the fixed image's. The *Source* frame of reference
  is named in an item: the moving image's.
- A **Spatial Registration** has a matrix that maps Source to Registered: moving to fixed. HyperReg's transforms map
  fixed to moving, as images are pulled back, so the matrix is the inverse of ours.
- A **Deformable Spatial Registration** maps Registered to Source, fixed to moving, as ours do:
  source = M_post (M_pre x + d(x)), with d given on a grid in Registered coordinates and looked up at x itself, not at
  M_pre x. HyperReg's x -> A (x + u(x)) is M_pre = 1, d = u, M_post = A.
- Everything is in mm of the patient's LPS coordinates. The grid's third axis is the cross product of the other two, so
  a left-handed grid is written with its slices in reverse. Vectors are x, y, z triples in the patient's axes, not the
  grid's; the first grid index runs fastest. Each lies at the centre of its voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.dicom import identity
from hyperreg.imaging.dicom.headers import parsing, read_whole
from hyperreg.imaging.dicom.sources import Entry
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.transform import Matrix, Transform, checked_matrix
from hyperreg.imaging.volume import DisplacementField, Grid

if TYPE_CHECKING:
    from pydicom import Dataset

SPATIAL_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.1"
DEFORMABLE_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.3"
# Registration types (CID 7100): by the images' content; the same frame of reference.
BY_CONTENT = ("125024", "DCM", "Image Content-based Alignment")
SAME_FRAME = ("125021", "DCM", "Frame of Reference Identity")
RIGID_TOLERANCE = 1e-6
# The length of an element is a 32-bit number.
MOST_BYTES = 2**32 - 2


def write_registration(
    transform: Transform,
    fixed: Sequence[Dataset],
    moving: Sequence[Dataset],
    path: Path,
    reference: Grid,
    comment: str = "",
) -> None:
    """Write a transform that maps fixed to moving RAS points: a linear one as a Spatial Registration, else deformable.

    fixed, moving: the images' headers, see `identity.sources_of`. reference: the grid of the deformation where the
    transform is no single field followed by linear maps. comment: what made it; at most 1024 letters are kept.
    Raises InputError if the grid is too large for a DICOM element.
    """
    deformable = not transform.is_linear
    sop_class = DEFORMABLE_REGISTRATION if deformable else SPATIAL_REGISTRATION
    from pydicom.uid import generate_uid

    result = identity.new_object(fixed[0], sop_class, "REG", generate_uid(), "HyperReg registration, not for diagnosis")
    result.ContentLabel = "REGISTRATION"
    result.ContentDescription = "Relates the frames of reference of two images; for research"
    result.ContentCreatorName = None
    if deformable:
        field, linear = _field_and_linear(transform, reference)
        result.DeformableRegistrationSequence = [_deformable_item(field, linear, moving, comment)]
    else:
        result.RegistrationSequence = [
            _linear_item(np.eye(4), fixed, SAME_FRAME, ""),
            _linear_item(checked_matrix(np.linalg.inv(transform.linear)), moving, BY_CONTENT, comment),
        ]
    identity.add_references(result, [*fixed, *moving])
    result.save_as(path, enforce_file_format=True)


def read_registration(path: Path) -> Transform:
    """The transform of a (Deformable) Spatial Registration object, fixed (Registered) to moving (Source) RAS points.

    Raises InputError if it holds several registrations, or a deformation that is undefined in places; FileError if it
    is damaged or another object.
    """
    entry = Entry(path.name, path.stat().st_size, path.absolute())
    with parsing(path.name):
        dataset = read_whole(entry)
        if dataset.get("SOPClassUID") == DEFORMABLE_REGISTRATION:
            items = [item for item in dataset.DeformableRegistrationSequence if not _is_identity(_of_item(item))]
            return _of_item(_only(items, path)) if items else Transform((np.eye(4),))
        if dataset.get("SOPClassUID") != SPATIAL_REGISTRATION:
            raise FileError(f"'{path.name}' is no DICOM registration object. Give a transform file or such an object.")
        steps = [
            _of_matrix_item([step])
            for item in dataset.RegistrationSequence
            for step in item.MatrixRegistrationSequence[0].MatrixSequence
        ]
        # Of several matrices in a row, readers disagree which one comes first.
        other = [matrix for matrix in steps if not np.allclose(matrix, np.eye(4), atol=1e-9)]
        linear = _only(other, path) if other else np.eye(4)
        return Transform((np.linalg.inv(linear),))


def frames_of_registration(path: Path) -> tuple[str, str]:
    """The frames of reference of a registration object: Registered (fixed) and Source (moving); "" where it is silent.

    Raises as `read_registration`.
    """
    entry = Entry(path.name, path.stat().st_size, path.absolute())
    with parsing(path.name):
        dataset = read_whole(entry)
        registered = str(dataset.get("FrameOfReferenceUID") or "")
        items = dataset.get("DeformableRegistrationSequence") or dataset.get("RegistrationSequence") or []
        named = {str(item.get("SourceFrameOfReferenceUID") or item.get("FrameOfReferenceUID") or "") for item in items}
        others = named - {registered, ""}
        return registered, others.pop() if len(others) == 1 else ""


def _only(items: list[Any], path: Path) -> Any:
    if len(items) > 1:
        raise InputError(
            f"The DICOM registration '{path.name}' holds {len(items)} registrations. Save the one you want on its own."
        )
    return items[0]


def _field_and_linear(transform: Transform, reference: Grid) -> tuple[DisplacementField, Matrix]:
    """A chain as one field and the linear map after it, exactly where it is such a chain, else sampled."""
    first, *others = transform.stages
    if isinstance(first, DisplacementField) and not any(isinstance(stage, DisplacementField) for stage in others):
        return first, transform.linear
    return transform.to_field(reference), np.eye(4)


def _deformable_item(field: DisplacementField, linear: Matrix, moving: Sequence[Dataset], comment: str) -> Dataset:
    from pydicom import Dataset

    if field.array.nbytes > MOST_BYTES:
        raise InputError(
            "The deformation is too large for a DICOM object (4 GB). Save it as a transform file instead "
            "(--out-transform)."
        )
    vectors = field.array.astype("<f4") * np.array([-1, -1, 1], dtype="<f4")[:, None, None, None]
    affine = RAS_LPS @ field.ijk_to_ras
    if np.linalg.det(affine[:3, :3]) < 0:
        vectors = vectors[..., ::-1]
        affine[:3, 3] += affine[:3, 2] * (vectors.shape[-1] - 1)
        affine[:3, 2] *= -1
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = Dataset()
    grid.ImagePositionPatient = _decimals(affine[:3, 3])
    grid.ImageOrientationPatient = _decimals((affine[:3, :2] / spacing[:2]).T.ravel())
    grid.GridDimensions = list(vectors.shape[1:])
    grid.GridResolution = spacing.tolist()
    grid.VectorGridData = np.ascontiguousarray(vectors.transpose(3, 2, 1, 0)).tobytes()
    item = Dataset()
    item.SourceFrameOfReferenceUID = moving[0].FrameOfReferenceUID
    item.ReferencedImageSequence = [identity.reference_to(image) for image in moving]
    item.FrameOfReferenceTransformationComment = comment[:1024]
    item.RegistrationTypeCodeSequence = [identity.coded(*BY_CONTENT)]
    item.PreDeformationMatrixRegistrationSequence = [_matrix_item(np.eye(4))]
    item.PostDeformationMatrixRegistrationSequence = [_matrix_item(linear)]
    item.DeformableRegistrationGridSequence = [grid]
    return item


def _linear_item(matrix: Matrix, images: Sequence[Dataset], kind: tuple[str, str, str], comment: str) -> Dataset:
    from pydicom import Dataset

    registration = Dataset()
    registration.FrameOfReferenceTransformationComment = comment[:1024]
    registration.RegistrationTypeCodeSequence = [identity.coded(*kind)]
    registration.MatrixSequence = [_matrix_item(matrix)]
    item = Dataset()
    item.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    item.ReferencedImageSequence = [identity.reference_to(image) for image in images]
    item.MatrixRegistrationSequence = [registration]
    return item


def _matrix_item(matrix: Matrix) -> Dataset:
    """A map of RAS points as an item with a matrix of LPS points."""
    from pydicom import Dataset

    lps = RAS_LPS @ matrix @ RAS_LPS
    turn = lps[:3, :3]
    rigid = np.abs(turn.T @ turn - np.eye(3)).max() < RIGID_TOLERANCE and np.linalg.det(turn) > 0
    item = Dataset()
    item.FrameOfReferenceTransformationMatrixType = "RIGID" if rigid else "AFFINE"
    item.FrameOfReferenceTransformationMatrix = _decimals(lps.ravel())
    return item


def _decimals(numbers: np.ndarray) -> list[Any]:
    """Numbers as text of at most 16 letters, as many digits as fit."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(number) + 0.0, auto_format=True) for number in numbers]


def _of_item(item: Dataset) -> Transform:
    pre, post = (_of_matrix_item(item.get(f"{when}DeformationMatrixRegistrationSequence")) for when in ("Pre", "Post"))
    # post (pre x + d(x)) = post pre (x + pre^-1 d(x))
    linear = post @ pre
    sequence = item.get("DeformableRegistrationGridSequence")
    if not sequence:
        return Transform((linear,))
    grid = sequence[0]
    shape = tuple(int(n) for n in grid.GridDimensions)
    vectors = np.frombuffer(grid.VectorGridData, dtype="<f4").reshape(*shape[::-1], 3).transpose(3, 2, 1, 0)
    if not np.isfinite(vectors).all():
        raise InputError("The DICOM registration leaves part of its deformation undefined; HyperReg cannot use it.")
    row, column = np.array(grid.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * np.array(grid.GridResolution, dtype=float)
    affine[:3, 3] = np.array(grid.ImagePositionPatient, dtype=np.float64)
    ras = vectors * np.array([-1, -1, 1], dtype=np.float32)[:, None, None, None]
    if not np.allclose(pre[:3, :3], np.eye(3), atol=1e-12):
        ras = np.einsum("ab,bijk->aijk", np.linalg.inv(pre[:3, :3]), ras)
    field = DisplacementField(np.ascontiguousarray(ras, dtype=np.float32), RAS_LPS @ affine)
    return Transform((field, linear))


def _is_identity(transform: Transform) -> bool:
    return transform.is_linear and np.allclose(transform.linear, np.eye(4), atol=1e-9)


def _of_matrix_item(sequence: Any) -> Matrix:
    """The map of RAS points of an item with a matrix; the identity if there is none."""
    if not sequence:
        return np.eye(4)
    lps = np.array(sequence[0].FrameOfReferenceTransformationMatrix, dtype=np.float64).reshape(4, 4)
    return RAS_LPS @ lps @ RAS_LPS
