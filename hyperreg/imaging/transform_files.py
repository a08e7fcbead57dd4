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

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import files, guarded, headers, itk, nifti, plausibility, streams
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
# Fields of FSL's own (nifti1.h, intents 2006 to 2009): in voxels of both images, or coefficients.
FSL_INTENTS = range(2006, 2010)
INTENT_VECTOR = 1007
# Vectors that differ from the places of their voxels by less than this share of their spread are places themselves.
PLACES = 0.3
SAMPLES_PER_AXIS = 16
# The kinds that ITK's files name, with the type of their numbers and the dimensions.
# What the files of ITK that are no .mat begin with.
MARKS = {"\N{REPLACEMENT CHARACTER}HDF\r\n": ".h5", "#Insight Transform File": ".tfm"}
KIND = re.compile(rb"(\w+)_(?:double|float)_(\d)_(\d)")
BEGINNING = 4096


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
        sitk.WriteTransform(to_sitk(transform), itk.text_of(target))
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
    streams.check_there(path)
    try:
        if is_dicom_file(path):
            return read_registration(path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if kind not in TRANSFORM_FORMATS + FIELD_FORMATS:
        known = ", ".join(TRANSFORM_FORMATS + FIELD_FORMATS)
        raise FileError(f"'{path.name}': unknown transform format '{kind}'. HyperReg reads {known}.")
    if kind in FIELD_FORMATS:
        return Transform((_read_field(path),))
    beginning = _beginning(path)
    kind = next((own for mark, own in MARKS.items() if beginning.startswith(mark)), kind)
    if reason := _foreign(beginning):
        raise InputError(f"'{path.name}' {reason}")
    if kind in (".tfm", ".txt"):
        _check_text(path)
    try:
        facts, arrays = guarded.call("hyperreg.imaging.transform_files:read_stages", path, kind)
    except InputError as error:
        raise InputError(f"'{path.name}': {error}") from error
    except RuntimeError as error:
        kinds = [kind for kind in _kinds(path) if kind not in ("CompositeTransform", "AffineTransform")]
        named = f" (it names the kind {kinds[0]}, which HyperReg may not know)" if kinds else ""
        raise FileError(
            f"'{path}' cannot be read as a transform: it is damaged, was cut short, or another program's format"
            f"{named}. Save it as an affine ITK transform (.h5, .tfm) or as a displacement field (.nii.gz, .nrrd)."
        ) from error
    return Transform(
        tuple(
            array if affine is None else DisplacementField(array, np.array(affine))
            for array, affine in zip(arrays, facts["affines"], strict=True)
        )
    )


def read_stages(path: str, kind: str) -> tuple[dict[str, Any], list[npt.NDArray]]:
    """The stages of an ITK transform file: matrices, and fields with their affine. Run by `guarded`.

    kind: the ending that tells its format, whatever the file is called.
    """
    with itk.quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(path)
        if file.suffix != kind:  # ITK goes by the name
            file = Path(shutil.copyfile(path, Path(folder) / f"transform{kind}"))
        stages = from_sitk(_read_itk(file)).stages
    fields = [stage if isinstance(stage, DisplacementField) else None for stage in stages]
    arrays = [stage.array if isinstance(stage, DisplacementField) else stage for stage in stages]
    return {"affines": [None if field is None else field.ijk_to_ras.tolist() for field in fields]}, arrays


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
        sitk.WriteImage(image, itk.text_of(target), useCompression=True)


def _beginning(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(BEGINNING).decode("ascii", errors="replace")
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error


def _foreign(beginning: str) -> str:
    """What a file of another program's transforms is, and what to do; "" for what may be ITK's."""
    rows = [line.split() for line in beginning.splitlines() if line.strip()]
    if len(rows) == 4 and all(len(row) == 4 and all(map(_is_number, row)) for row in rows):
        return (
            "is a bare 4x4 matrix, as FSL's FLIRT and others write it: it does not say in which coordinates, nor which "
            "way it maps. Convert it to an ITK transform (c3d_affine_tool -ref FIXED -src MOVING FILE -fsl2ras -oitk "
            "OUT.txt)."
        )
    if re.search(r"^\s*\(Transform\s", beginning, re.MULTILINE):
        return (
            "is a parameter file of elastix. Let elastix write an ITK transform (ITKTransformOutputFileNameExtension "
            '"h5"), or transformix a displacement field (-def all).'
        )
    return ""


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_itk(path: Path) -> sitk.Transform:
    """An ITK transform. SimpleITK names only some of the linear kinds; in a composite it reads all that ITK knows."""
    try:
        return sitk.ReadTransform(itk.text_of(path))
    except (RuntimeError, KeyError):
        text = path.suffix.lower() in (".tfm", ".txt")
        if not text or "CompositeTransform" in "".join(_kinds(path)):
            raise
        with tempfile.TemporaryDirectory() as folder:
            wrapped = Path(folder) / "composite.tfm"
            lines = path.read_text(encoding="ascii").splitlines(keepends=True)
            first = next(n for n, line in enumerate(lines) if line.startswith("Transform:"))
            (_kind, taken, given), *_others = KIND.findall(lines[first].encode())
            composite = f"Transform: CompositeTransform_double_{int(taken)}_{int(given)}\n#Transform 1\n"
            wrapped.write_text("".join([*lines[:first], composite, *lines[first:]]), encoding="ascii")
            return sitk.ReadTransform(str(wrapped))


def _kinds(path: Path) -> list[str]:
    """The kinds of transforms that an ITK file names, whatever its format."""
    return [kind.decode() for kind, _from, _to in KIND.findall(path.read_bytes())]


def _check_vectors(path: Path) -> None:
    """Raise InputError for a field whose header counts in another unit, or along other directions than LPS."""
    text = headers.read_header(path)
    header = text or nifti.read_header(path)
    if header is not None and header.mm != 1:
        raise InputError(
            f"'{path.name}' counts its places in another unit than mm, and does not say whether its vectors do, too. "
            "Save it in mm."
        )
    if text is not None and text.turned:
        raise InputError(
            f"'{path.name}' has a 'space' or 'measurement frame' by which its vectors need not count to the left, back "
            "and top; ITK and 3D Slicer do not heed it. Save it in the space left-posterior-superior."
        )


def _read_field(path: Path) -> DisplacementField:
    array, ijk_to_ras, intent = files.read_components(path)
    _check_vectors(path)
    name = path.name
    if intent in FSL_INTENTS:
        raise InputError(
            f"'{name}' is a warp of FSL's, in coordinates of its own. Convert it to a displacement field in mm "
            "(wb_command -convert-warpfield -from-fnirt ... -to-itk)."
        )
    if len(array) != 3:
        raise InputError(f"'{name}' has {len(array)} values per voxel; a displacement field has three.")
    if nifti.is_nifti_name(path) and intent not in (nifti.INTENT_DISPLACEMENT, INTENT_VECTOR):
        raise InputError(
            f"'{name}' does not say that it holds displacements, nor in which coordinates (its NIfTI intent is "
            f"{intent}). Save it with the intent 1006 (RAS mm) or 1007 (LPS mm, as ANTs does)."
        )
    if not np.isfinite(array).all():
        raise InputError(f"'{name}' holds displacements that are not numbers (NaN or infinite).")
    plausibility.check_reach(array, f"'{name}' moves points")
    vectors = array.astype(np.float32)
    if intent != nifti.INTENT_DISPLACEMENT:  # LPS; the axes of RAS and LPS differ in the sign of the first two
        vectors[:2] *= -1
    field = DisplacementField(vectors, ijk_to_ras)
    if _holds_places(field):
        raise InputError(
            f"'{path.name}' holds the places that points move to, not displacements (as deformations of SPM, y_*.nii, "
            "and of NiftyReg do). Convert it to a displacement field."
        )
    return field


def _holds_places(field: DisplacementField) -> bool:
    """Whether the vectors are about the coordinates of their own voxels, RAS or LPS: no displacement looks so."""
    steps = tuple(slice(None, None, max(1, n // SAMPLES_PER_AXIS)) for n in field.grid.shape)
    vectors = field.array[:, steps[0], steps[1], steps[2]].reshape(3, -1).astype(np.float64)
    ijk = np.stack(np.meshgrid(*(np.arange(n)[s] for n, s in zip(field.grid.shape, steps, strict=True)), indexing="ij"))
    places = field.grid.to_ras(ijk.reshape(3, -1).T).T
    spread = np.std(places, axis=1)
    for signs in ((1, 1, 1), (-1, -1, 1)):
        left = np.std(vectors - np.array(signs)[:, None] * places, axis=1)
        if min(field.grid.shape) > 1 and (left < PLACES * spread).all():
            return True
    return False


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
    if _ends_within_a_line(path):
        raise FileError(
            f"'{path}' ends without a line break, as a file does that was cut within its last number. Copy or export "
            "it again; if it is whole, add an empty line at its end."
        )
    if not _text_is_complete(path):
        raise FileError(
            f"'{path}' is damaged or was cut short (an interrupted copy or download?). Copy or export it again."
        )


def _ends_within_a_line(path: Path) -> bool:
    """Whether a text transform file may lack nothing but the end of its last line, or of the last number there."""
    *_others, last = path.read_bytes().splitlines()
    return last.startswith(b"FixedParameters:") and not path.read_bytes().endswith(b"\n")


def _text_is_complete(path: Path) -> bool:
    """Whether a text transform file ends as ITK ends it: with a whole line of fixed parameters."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        tail = file.read()
    return tail.endswith(b"\n") and tail.rstrip().splitlines()[-1].startswith(b"FixedParameters:")
