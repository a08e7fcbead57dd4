"""Transforms and displacement fields from and to files that other tools load.

.h5, .tfm, .txt   ITK transform files: an affine, a displacement field, or a composite of both. LPS, as ITK, Slicer,
ANTs.
.nii, .nii.gz     dense displacement field: 5D, intent 1006, vectors in RAS mm as the format defines them; ITK (from
5.3),
                  SimpleITK and Slicer turn them to LPS in memory. Without that intent (ANTs: 1007) vectors are LPS.
.nrrd, .mha       dense displacement field, vectors in LPS mm; .nrrd carries Slicer's key intent_code = 1006.
All of them map points of the fixed image to the moving image: what a resampling filter takes, and Slicer's transform
from
parent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import itk, nifti
from hyperreg.imaging.dicom.registration_objects import read_registration
from hyperreg.imaging.dicom.sources import is_dicom_file
from hyperreg.imaging.files import HEADER_ALLOWANCE, PathLike, extension
from hyperreg.imaging.output import replacing
from hyperreg.imaging.transform import Transform, from_sitk, to_sitk
from hyperreg.imaging.volume import DisplacementField, Grid

TRANSFORM_FORMATS = (".h5", ".hdf5", ".tfm", ".txt", ".mat")
FIELD_FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
WRITABLE = (".h5", ".tfm", ".txt", ".nii", ".nii.gz", ".nrrd", ".mha")
# A number of a text transform file takes at most this many characters, blank included; a binary one eight bytes.
BYTES_PER_NUMBER = {".h5": 8, ".tfm": 25, ".txt": 25}


def write_transform(transform: Transform, path: PathLike, reference: Grid | None = None) -> None:
    """Write a transform; the extension decides the format (see the module's text). The file is complete or not there.

    reference: the grid of a dense field (normally the fixed image's); by default that of the first field in the chain.
    Raises FileError if the file cannot be written; InputError if a dense field is asked for and no grid is known.
    """
    path = Path(path)
    kind = extension(path)
    if kind not in WRITABLE:
        raise FileError(f"'{path.name}': unknown transform format '{kind}'. Use one of {', '.join(WRITABLE)}.")
    if kind in FIELD_FORMATS:
        _write_field(_dense(transform, reference), path)
        return
    numbers = 24 + sum(stage.array.size for stage in transform.stages if isinstance(stage, DisplacementField))
    with replacing(path, numbers * BYTES_PER_NUMBER[kind] + HEADER_ALLOWANCE) as target, itk.quiet():
        sitk.WriteTransform(to_sitk(transform), str(target))
        if kind != ".h5" and not _text_is_complete(target):
            raise FileError(
                f"'{path}' could not be written completely. Is the disk full? Free some space and try again."
            )


def read_transform(path: PathLike) -> Transform:
    """Read an ITK transform file (.h5, .tfm, .txt, .mat), a displacement field (NIfTI, NRRD, MHA), or a DICOM
    (Deformable) Spatial Registration object.

    Raises FileError if it is missing, damaged or unknown; InputError if it is 2D or of a kind that is not supported.
    """
    path = Path(path)
    kind = extension(path)
    if not path.is_file():
        raise FileError(f"'{path}' does not exist. Check the name and the folder.")
    try:
        if is_dicom_file(path):
            return read_registration(path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if kind not in TRANSFORM_FORMATS + FIELD_FORMATS:
        known = ", ".join(TRANSFORM_FORMATS + FIELD_FORMATS)
        raise FileError(f"'{path.name}': unknown transform format '{kind}'. HyperReg reads {known}.")
    if kind in (".tfm", ".txt"):
        _check_text(path)
    header = nifti.read_header(path) if nifti.is_nifti_name(path) else None
    if header is not None:
        nifti.check_readable(path, header)
    try:
        with itk.quiet():
            if kind in FIELD_FORMATS:
                return Transform((itk.field_from_itk(sitk.ReadImage(str(path))),))
            return from_sitk(sitk.ReadTransform(str(path)))
    except RuntimeError as error:
        raise FileError(
            f"'{path}' cannot be read as a transform: it is damaged, was cut short, or another program's format. "
            f"Save it as an "
            "ITK transform (.h5, .tfm) or as a displacement field (.nii.gz, .nrrd)."
        ) from error


def _dense(transform: Transform, reference: Grid | None) -> DisplacementField:
    grid = reference or next((stage.grid for stage in transform.stages if isinstance(stage, DisplacementField)), None)
    if grid is None:
        raise InputError(
            "A linear transform can only be saved as a displacement field if an image says on which grid. Save it as "
            ".h5 or "
            ".tfm, or give the fixed image."
        )
    return transform.to_field(grid)


def _write_field(field: DisplacementField, path: Path) -> None:
    with replacing(path, field.array.nbytes + HEADER_ALLOWANCE) as target, itk.quiet():
        if nifti.is_nifti_name(path):
            nifti.write(
                target,
                np.asarray(field.array, dtype=np.float32),
                field.grid,
                description="HyperReg displacement field, RAS mm",
                intent=nifti.INTENT_DISPLACEMENT,
            )
            return
        image = sitk.Cast(itk.field_to_itk(field), sitk.sitkVectorFloat32)
        image.SetMetaData("intent_code", str(nifti.INTENT_DISPLACEMENT))
        sitk.WriteImage(image, str(target), useCompression=True)


def _check_text(path: Path) -> None:
    """Raise a FileError if ITK would read a text transform file only in part: cut, or several transforms in a row."""
    try:
        with open(path, encoding="ascii") as file:
            # Parameter lines of a displacement field are long: only the beginning of each line is kept.
            starts = [line[:80] for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read as a transform: it is not an ITK text transform file.") from error
    kinds = [start.split(":", 1)[1].strip() for start in starts if start.startswith("Transform:")]
    if not kinds or not starts[0].startswith("#Insight Transform File"):
        raise FileError(f"'{path}' cannot be read as a transform: it is not an ITK text transform file.")
    if len(kinds) > 1 and not kinds[0].startswith("CompositeTransform"):
        raise InputError(
            f"'{path.name}' holds {len(kinds)} separate transforms. Save the one you want, or all of them as one "
            f"composite."
        )
    if not _text_is_complete(path):
        raise FileError(
            f"'{path}' is damaged or was cut short (an interrupted copy or download?). Copy or export it again."
        )


def _text_is_complete(path: Path) -> bool:
    """Whether a text transform file ends as ITK ends it: with a whole line of fixed parameters."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        tail = file.read()
    return tail.endswith(b"\n") and tail.rstrip().splitlines()[-1].startswith(b"FixedParameters:")
