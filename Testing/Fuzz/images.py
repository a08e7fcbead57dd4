"""Image files: a small corpus of every format, and the verdict on a damaged one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume
from Testing.Fuzz.harness import Seed

# Damage that leaves more than this share of the voxels 0, which were not, is seen by nobody who trusts the reader.
MOST_ZEROS = 0.5
# So does damage that moves more than this share of the voxels.
SLIPPED = 0.3
# An image as it was read, as it is used, and what the user is told.
Read = tuple[Volume, Volume, list[str]]


def corpus(folder: Path) -> list[Seed]:
    """One image in every format that is read, compressed or not, written by nibabel and SimpleITK."""
    folder.mkdir()
    matrix = np.array([[0.8, 0.1, 0, -20], [-0.1, 0.8, 0.02, 30], [0, -0.02, 3, -7], [0, 0, 0, 1]])
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = u @ vt * (0.8, 0.8, 3)
    random = np.random.default_rng(1)
    volume = Volume(random.integers(1, 900, (28, 26, 22)).astype(np.int16), matrix, "whole")
    image = itk.volume_to_itk(volume)
    kinds = {"a.nii": nibabel.Nifti1Image, "a.nii.gz": nibabel.Nifti1Image, "b.nii": nibabel.Nifti2Image}
    kinds |= {"c.img": nibabel.Nifti1Pair, "d.mgh": nibabel.MGHImage, "d.mgz": nibabel.MGHImage}
    for name, kind in kinds.items():
        nibabel.save(kind(volume.array, matrix), folder / name)
    for stem, compressed in (("raw", False), ("packed", True)):
        for ending in (".nrrd", ".nhdr", ".mha", ".mhd"):
            sitk.WriteImage(image, str(folder / f"{stem}-{ending[1:]}{ending}"), compressed)
    data = {"c.img": "c.hdr", "raw-nhdr.raw": "raw-nhdr.nhdr", "packed-nhdr.raw.gz": "packed-nhdr.nhdr"}
    data |= {"raw-mhd.raw": "raw-mhd.mhd", "packed-mhd.zraw": "packed-mhd.mhd"}
    return [image_seed(folder / data.get(path.name, path.name), path, volume) for path in sorted(folder.iterdir())]


def image_seed(source: Path, damaged: Path, volume: Volume) -> Seed:
    """source: what is read. volume: what the whole file holds."""
    checked = damaged.suffix in (".gz", ".mgz", ".zraw")
    judge = partial(judge_image, volume=volume, checked=checked, whole_bytes=damaged.stat().st_size)
    return Seed(damaged, lambda: read_image(source), lambda read: _alike(read[0], volume), judge)


def read_image(source: Path) -> Read:
    """As every command does."""
    read, warnings = read_volume(source), list[str]()
    return read, check_image(read, warnings), warnings


def judge_image(read: Read, raw: bytes, *, volume: Volume, checked: bool, whole_bytes: int) -> str:
    """checked: whether everything in the file is covered by a checksum. whole_bytes: how long the file was."""
    found, used, warnings = read
    alike = found.shape == volume.shape and found.array.dtype == volume.array.dtype
    if checked and alike:
        return "other voxels in spite of a checksum"
    if len(raw) != whole_bytes and not warnings and alike and (found.array != volume.array).mean() > SLIPPED:
        return "voxels slipped out of their places, without a word"
    zeros = float((used.array == 0).mean())
    return f"{100 * zeros:.0f} % of the voxels are 0, without a word" if zeros > MOST_ZEROS and not warnings else ""


def _alike(found: Volume, volume: Volume) -> bool:
    alike = found.shape == volume.shape and found.array.dtype == volume.array.dtype
    return alike and np.array_equal(found.array, volume.array)
