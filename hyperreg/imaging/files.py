"""Images and label maps from and to files: NIfTI, NRRD, MHA/MHD, MGZ, DICOM series."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import dicom, guarded, headers, itk, mgh, nifti, plausibility, streams
from hyperreg.imaging.label_checks import as_labels
from hyperreg.imaging.output import replacing
from hyperreg.imaging.volume import Volume, spatial_sizes
from hyperreg.machine import main_memory

PathLike = str | os.PathLike[str]

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh")
# Room for headers when the size of a file is estimated.
HEADER_ALLOWANCE = 65536
# Of an image while it is read: ITK's, the one that is handed over, and the one that is kept.
COPIES = 3


def extension(path: PathLike) -> str:
    """The file's extension in lower case, ".nii.gz" in one piece."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def read_volume(path: PathLike, working_bytes: float = 0, confined: bool = False) -> Volume:
    """Read a 3D scalar image; what is odd about its header is in the volume's `warnings`.

    path: a file, one DICOM file of a series, or a folder, DICOMDIR or zip with DICOM (`SOURCE#2` for the second of its
    series). The format is recognised by content. 4D files with one time point are taken as 3D. working_bytes: how many
    bytes per voxel the caller will need at least, besides the image. confined: the header may name no file outside of
    its folder (for files from other people).
    Raises FileError if it is missing, damaged or of an unknown format; InputError if it is 2D, 4D, colour, vector,
    sheared, or of an impossible size or position; OutOfMemory, before anything is read, if its header says that it
    cannot fit into the memory (not for DICOM).
    """
    path = Path(path)
    streams.check_there(dicom.split_number(path)[0], folders=True)
    volume = _read_file(path, working_bytes, confined)
    plausibility.check_grid(volume.grid, volume.name)
    return volume


def _read_file(path: Path, working_bytes: float, confined: bool) -> Volume:
    try:
        if dicom.is_dicom_source(path):
            return dicom.read_dicom(path)
        if path.stat().st_size == 0:
            raise FileError(f"'{path}' is empty (0 bytes). Copy or export it again.")
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if (text := headers.read_header(path)) is not None:
        return _read_by_itk(path, text, working_bytes, confined)
    if (header := nifti.read_header(path)) is not None:
        if math.prod(header.dims[4:]) > 1:
            raise _not_grey(path, math.prod(header.dims[4:]))
        shape = spatial_sizes(header.dims, path.name)
        _check_memory(path, header.dims, header.dtype.itemsize, working_bytes)
        array = nifti.read_voxels(path, header).reshape(shape)
        return Volume(array, header.ijk_to_ras, _name_of(path), tuple(header.warnings))
    if mgh.is_mgh(path):
        fields, matrix, warnings = mgh.read_header(path)
        shape = spatial_sizes(tuple(int(n) for n in fields.get_data_shape()), path.name)
        _check_memory(path, shape, fields.get_data_dtype().itemsize, working_bytes)
        array = mgh.read_voxels(path, fields, warnings)
        return Volume(array, matrix, _name_of(path), tuple(warnings))
    if dicom.is_bare_file(path):
        raise FileError(f"'{path}' is {dicom.BARE}")
    raise FileError(
        f"'{path}' is not an image that HyperReg can read. It reads NIfTI, NRRD, MHA/MHD, MGZ and DICOM series; if it "
        "should be one of these, the file is damaged. Convert other formats in 3D Slicer."
    )


def read_label_map(path: PathLike, confined: bool = False) -> Volume:
    """Read a label map: like `read_volume`, with an integer array. Raises InputError if its values are not whole
    numbers.
    """
    volume = read_volume(path, confined=confined)
    return replace(volume, array=as_labels(volume))


def read_components(path: PathLike, confined: bool = False) -> tuple[npt.NDArray, npt.NDArray[np.float64], int]:
    """Read a 3D image with several numbers per voxel, such as a displacement field, as its file has them.

    Returns the array (C, I, J, K), the (4, 4) ijk-to-RAS matrix in mm, and NIfTI's intent code (0 for NRRD and
    MetaImage). The numbers are in the file's own axes and unit: of vectors, LPS but for NIfTI's intent 1006.
    Raises FileError and InputError as `read_volume`, and InputError for images with one number per voxel.
    """
    path = Path(path)
    streams.check_there(path)
    if (text := headers.read_header(path)) is not None:
        array, matrix = _itk_array(path, text, 0, confined)
        if array.ndim > 3:
            return np.ascontiguousarray(array.transpose(3, 2, 1, 0)), matrix, 0
    elif (header := nifti.read_header(path)) is not None:
        sizes = (*header.dims, 1, 1)
        if math.prod(sizes[4:]) > 1 and sizes[3] == 1:
            _check_memory(path, header.dims, header.dtype.itemsize, 0)
            array = nifti.read_voxels(path, header).reshape(*sizes[:3], -1)
            return np.ascontiguousarray(np.moveaxis(array, -1, 0)), header.ijk_to_ras, header.intent
    else:
        raise FileError(f"'{path}' is no NIfTI, NRRD or MetaImage file, or is damaged.")
    raise InputError(f"'{path.name}' has one number per voxel; a displacement field has three.")


def write_volume(volume: Volume, path: PathLike) -> None:
    """Write an image or label map; the extension decides the format. The file is complete or not there.

    Raises FileError if the format is unknown or the file cannot be written, InputError if the format cannot hold the
    geometry.
    """
    path = Path(path)
    kind = extension(path)
    if kind not in WRITABLE:
        raise FileError(f"'{path.name}': unknown image format '{kind}'. Use one of {', '.join(WRITABLE)}.")
    image = itk.volume_to_itk(volume)
    array = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    with replacing(path, array.nbytes + HEADER_ALLOWANCE) as target, itk.quiet():
        if nifti.is_nifti_name(path):
            nifti.write(target, array, volume.grid)
        elif kind in (".mgz", ".mgh"):
            mgh.write(target, array, volume)
        else:
            sitk.WriteImage(image, itk.text_of(target), useCompression=True)


def _name_of(path: Path) -> str:
    return path.name[: -len(extension(path))] or path.name if extension(path) else path.name


def _read_by_itk(path: Path, header: headers.Header, working_bytes: float, confined: bool) -> Volume:
    array, matrix = _itk_array(path, header, working_bytes, confined)
    if array.ndim > 3:
        raise _not_grey(path, array.shape[3])
    return Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), matrix, _name_of(path), tuple(header.warnings))


def _itk_array(
    path: Path, header: headers.Header, working_bytes: float, confined: bool
) -> tuple[npt.NDArray, npt.NDArray[np.float64]]:
    """(K, J, I) or (K, J, I, C), and the (4, 4) ijk-to-RAS matrix in mm."""
    _check_memory(path, header.sizes, header.item_bytes, working_bytes)
    headers.check_voxels(path, header, confined)
    try:
        facts, (array,) = guarded.call("hyperreg.imaging.itk:read_image", path, header.reader)
    except RuntimeError as error:  # the voxels were found whole
        raise FileError(
            f"'{path}' has a damaged header: ITK's reader does not take what it says of axes, directions or voxel "
            "sizes. Export it again."
        ) from error
    if array.nbytes != header.data_bytes:
        raise streams.damaged(path)
    matrix = np.array(facts["grid"])
    matrix[:3] *= header.mm
    return array, matrix


def _not_grey(path: Path, values: int) -> InputError:
    return InputError(
        f"'{path.name}' has {values} values per voxel (a colour or vector image); HyperReg takes grey-value images. "
        "Convert it to one grey value per voxel."
    )


def _check_memory(path: Path, sizes: tuple[int, ...], item_bytes: int, working_bytes: float) -> None:
    free, _ = main_memory()
    needed = float(math.prod(sizes)) * max(COPIES * item_bytes, item_bytes + working_bytes)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"'{path.name}' has {' x '.join(str(n) for n in sizes[:3])} voxels: that needs at least "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Crop the image to the region of "
            "interest, resample it to larger voxels, or close other programs."
        )
