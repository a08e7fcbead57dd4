"""Images and label maps from and to files: NIfTI, NRRD, MHA/MHD, MGZ, DICOM series, and what else SimpleITK reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import dicom, itk, nifti
from hyperreg.imaging.output import replacing
from hyperreg.imaging.volume import Volume
from hyperreg.machine import main_memory

PathLike = str | os.PathLike[str]

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh")
# Room for headers when the size of a file is estimated.
HEADER_ALLOWANCE = 65536
# Label values further than this from a whole number are no labels.
LABEL_TOLERANCE = 1e-3
MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)


def extension(path: PathLike) -> str:
    """The file's extension in lower case, ".nii.gz" in one piece."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def read_volume(path: PathLike, working_bytes: float = 0) -> Volume:
    """Read a 3D scalar image.

    path: a file, one DICOM file of a series, or a folder, DICOMDIR or zip with DICOM (`SOURCE#2` for the second of its
    series). 4D files with one time point are taken as 3D. working_bytes: how many bytes per voxel the caller will need
    at least, besides the image.
    Raises FileError if it is missing, damaged or of an unknown format; InputError if it is 2D, 4D, colour, vector or
    sheared; OutOfMemory, before anything is read, if its header says that it cannot fit into the memory (not for MGZ).
    """
    path = Path(path)
    if not dicom.split_number(path)[0].exists():
        raise FileError(f"'{path}' does not exist. Check the name and the folder.")
    try:
        if dicom.is_dicom_source(path):
            return dicom.read_dicom(path)
        if path.stat().st_size == 0:
            raise FileError(f"'{path}' is empty (0 bytes). Copy or export it again.")
        if extension(path) in (".mgz", ".mgh"):
            return _read_mgh(path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    return _read_by_itk(path, working_bytes)


def read_label_map(path: PathLike) -> Volume:
    """Read a label map: like `read_volume`, with an integer array. Raises InputError if its values are not whole
    numbers.
    """
    volume = read_volume(path)
    return Volume(as_labels(volume), volume.ijk_to_ras, volume.name, volume.warnings)


def as_labels(volume: Volume) -> np.ndarray:
    """The (I, J, K) array as integers. Raises InputError if its values are not whole numbers."""
    if volume.array.dtype.kind in "iu":
        return volume.array
    if volume.array.dtype == np.bool_:
        return volume.array.astype(np.uint8)
    rounded = np.rint(volume.array)
    with np.errstate(invalid="ignore"):
        whole = np.abs(volume.array - rounded) <= LABEL_TOLERANCE
    if not whole.all() or np.abs(rounded).max() > np.iinfo(np.int32).max:
        raise InputError(
            f"'{volume.name}' is not a label map: it has values that are not whole numbers. Was an image given "
            f"instead, or was "
            "the label map resampled with interpolation? Resample label maps with nearest neighbour."
        )
    return rounded.astype(np.int32)


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
            _write_mgh(target, array, volume)
        else:
            sitk.WriteImage(image, str(target), useCompression=True)


def _name_of(path: Path) -> str:
    return path.name[: -len(extension(path))] or path.name if extension(path) else path.name


def _read_by_itk(path: Path, working_bytes: float) -> Volume:
    header = nifti.read_header(path) if nifti.is_nifti_name(path) else None
    if header is not None:
        nifti.check_readable(path, header)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with itk.quiet():
            reader.ReadImageInformation()
            _set_extraction(reader, path)
            _check_memory(reader, path, working_bytes)
            image = reader.Execute()
    except RuntimeError as error:
        raise _read_error(path, str(error)) from error
    return itk.volume_from_itk(image, _name_of(path))


def _set_extraction(reader: sitk.ImageFileReader, path: Path) -> None:
    """Make the reader hand out one 3D scalar image, or say why it cannot."""
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()).lower():
        raise InputError(f"'{path.name}' holds complex numbers; export its magnitude image.")
    if reader.GetNumberOfComponents() > 1:
        raise InputError(
            f"'{path.name}' has {reader.GetNumberOfComponents()} values per voxel (a colour or vector image); HyperReg "
            "takes grey-value images. Convert it to one grey value per voxel."
        )
    size = reader.GetSize()
    if len(size) < 3:
        raise InputError(
            f"'{path.name}' is a {len(size)}D image; HyperReg takes 3D images. Give a volume or a DICOM series folder."
        )
    if len(size) > 3:
        if max(size[3:]) > 1:
            raise InputError(
                f"'{path.name}' is a {len(size)}D image with {int(np.prod(size[3:]))} volumes (time points or "
                f"channels); "
                "HyperReg takes one 3D image per file. Export the volume you want as a file of its own."
            )
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])


def _check_memory(reader: sitk.ImageFileReader, path: Path, working_bytes: float) -> None:
    free, _ = main_memory()
    voxels = float(np.prod(reader.GetSize(), dtype=float))
    image = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    # SimpleITK's image and the array that is made of it are there at the same time.
    needed = voxels * max(2 * image, image + working_bytes)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"'{path.name}' has {' x '.join(str(n) for n in reader.GetSize()[:3])} voxels: that needs at least "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Crop the image to the region of "
            "interest, resample it to larger voxels, or close other programs."
        )


def _read_error(path: Path, message: str) -> FileError | InputError:
    """The plain-words error for what ITK said."""
    if "orthonormal" in message:
        return InputError(
            f"'{path.name}' has axes that are not at right angles (sheared affine). Resample it to a straight grid "
            f"first."
        )
    if "Unable to determine ImageIO reader" in message:
        return FileError(
            f"'{path}' is not an image that HyperReg can read. It reads NIfTI, NRRD, MHA/MHD, MGZ and DICOM series; "
            f"if it "
            "should be one of these, the file is damaged."
        )
    return FileError(
        f"'{path}' cannot be read: it is damaged or was cut short (an interrupted copy or download?), or a file that "
        f"belongs "
        "to it is missing. Copy or export it again."
    )


def _read_mgh(path: Path) -> Volume:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise FileError(
            f"'{path.name}' is a FreeSurfer file, which needs the Python package nibabel. Install it (pip install "
            f"nibabel), "
            "or convert the file to NIfTI (mri_convert)."
        ) from error
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except (EOFError, OSError, ValueError, ImageFileError) as error:
        raise _read_error(path, str(error)) from error
    if array.ndim > 3 and max(array.shape[3:]) == 1:
        array = array.reshape(array.shape[:3])
    if array.ndim != 3:
        raise InputError(
            f"'{path.name}' holds {array.shape[-1]} volumes; HyperReg takes one 3D image per file. Export one of them."
        )
    return Volume(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")), affine, _name_of(path))


def _write_mgh(target: Path, array: np.ndarray, volume: Volume) -> None:
    try:
        import nibabel
    except ImportError as error:
        raise FileError(
            f"Writing '{target.name}' needs the Python package nibabel. Install it (pip install nibabel), or choose "
            f".nii.gz."
        ) from error
    fitting = next((t for t in MGH_TYPES if np.can_cast(array.dtype, t)), np.float32)
    converted = array.astype(fitting)
    if array.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise InputError(f"'{target.name}': the format cannot hold values as large as these; choose .nii.gz or .nrrd.")
    nibabel.save(nibabel.MGHImage(converted, volume.ijk_to_ras), target)
