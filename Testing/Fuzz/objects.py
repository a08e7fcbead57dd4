"""DICOM series, multi-frame images, segmentations, registrations: a small corpus, and the verdict on a damaged one."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from dicom_examples import dataset, write_enhanced, write_slices
from imaging_examples import smooth_field
from pydicom.uid import JPEGLSLossless, RLELossless

from hyperreg.imaging import dicom
from hyperreg.imaging.dicom import identity, registration_objects, segmentation_objects
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume
from Testing.Fuzz.harness import Seed
from Testing.Fuzz.images import Read, judge_image, read_image
from Testing.Fuzz.maps import LINEAR, PLACES, bad_segments, far, plain, seed_of

DOSE = "1.2.840.10008.5.1.4.1.1.481.2"


def corpus(folder: Path) -> list[Seed]:
    """Every kind of object that is read, and a dose beside a series, which is not."""
    folder.mkdir()
    # A damaged first or last slice may be left out, a middle one leaves a gap.
    seeds = [_of_series(folder / name, place) for name, place in (("first", 0), ("middle", 5), ("last", 11))]
    for name, syntax in (("rle", RLELossless), ("jls", JPEGLSLossless)):
        seeds.append(_of_series(folder / name, 5, change=lambda one, _number, syntax=syntax: one.compress(syntax)))
    enhanced = write_enhanced(folder / "enhanced.dcm")
    seeds.append(_of_image(enhanced, enhanced))
    files = write_slices(folder / "packed")
    with zipfile.ZipFile(folder / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    seeds.append(_of_image(folder / "packed.zip", folder / "packed.zip"))
    seeds.append(_of_dose(folder / "dose"))
    return [*seeds, *_of_results(folder)]


def _of_series(folder: Path, place: int, **how: Any) -> Seed:
    files = write_slices(folder, **how)
    return _of_image(folder, files[place])


def _of_image(source: Path, damaged: Path) -> Seed:
    whole = read_volume(source)
    judge = partial(_judge, volume=whole, whole_bytes=damaged.stat().st_size)

    def read() -> Read:
        dicom.list_series(source) if source.is_dir() else None
        return read_image(source)

    return Seed(damaged, read, lambda found: _same(found[0], whole), judge)


def _same(found: Volume, whole: Volume) -> bool:
    return np.array_equal(found.array, whole.array) and np.allclose(found.ijk_to_ras, whole.ijk_to_ras, atol=1e-3)


def _judge(read: Read, raw: bytes, *, volume: Volume, whole_bytes: int) -> str:
    found, _used, warnings = read
    if found.shape[2] < volume.shape[2] and not warnings:
        return f"{found.shape[2]} of {volume.shape[2]} slices, without a word"
    return judge_image(read, raw, volume=volume, checked=False, whole_bytes=whole_bytes)


def _of_dose(folder: Path) -> Seed:
    """What lies beside a series changes nothing of its image."""
    write_slices(folder)
    dose = dataset(DOSE, "dose", "dose", Modality="RTDOSE")
    dose.Rows = dose.Columns = 4
    dose.save_as(folder / "dose.dcm", enforce_file_format=True)
    whole = read_volume(folder)

    def judge(read: Read, _raw: bytes) -> str:
        return "" if read[0].warnings else "a file beside the series changed its image, without a word"

    return Seed(folder / "dose.dcm", lambda: read_image(folder), lambda found: _same(found[0], whole), judge)


def _of_results(folder: Path) -> list[Seed]:
    """Objects that HyperReg writes itself."""
    write_slices(folder / "source")
    series, _ = dicom.find_series(folder / "source")
    sources = identity.sources_of(series)
    volume = read_volume(folder / "source")
    labels = np.zeros(volume.shape, np.uint8)
    labels[3:8, 4:9, 2:7], labels[10:15, 2:5, 5:9] = 1, 2
    names = [Structure(1, 0, "Liver", (220, 130, 100)), Structure(2, 1, "Left kidney", (0, 0, 200))]
    segmentation = folder / "segmentation.dcm"
    segmentation_objects.write_segmentation(
        Volume(labels, volume.ijk_to_ras), names, sources, segmentation, ("fuzz", "1")
    )
    seeds = [seed_of(segmentation, lambda: plain(read_structures(segmentation)), bad_segments)]
    for name, transform in (("rigid", Transform((LINEAR,))), ("field", Transform((smooth_field(volume.grid), LINEAR)))):
        path = folder / f"{name}.dcm"
        registration_objects.write_registration(transform, sources, sources, path, volume.grid)
        seeds.append(seed_of(path, lambda path=path: read_transform(path).apply(PLACES), far))
    return seeds
