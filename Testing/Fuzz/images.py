"""Image files: a small corpus of every format, and the verdict on a damaged one."""

from __future__ import annotations

import resource
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import nibabel
import numpy as np
import SimpleITK as sitk

from hyperreg.errors import HyperRegError
from hyperreg.imaging import itk
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume
from Testing.Fuzz.mutations import mutated

# No damaged file may take longer, or more memory than this, s and kB; the files of the corpus have 30 kB.
LONGEST = 60
MOST_MEMORY = 1 << 20
# Damage that leaves more than this share of the voxels 0, which were not, is seen by nobody who trusts the reader.
MOST_ZEROS = 0.5
# So does damage that moves more than this share of the voxels.
SLIPPED = 0.3


@dataclass(frozen=True)
class Seed:
    """A whole file. path: what is read. damaged: the file that is damaged, its header or its data. checked: whether
    everything in it is covered by a checksum. damaged_bytes: how long the damaged file was.
    """

    path: Path
    damaged: Path
    volume: Volume
    checked: bool
    damaged_bytes: int


def corpus(folder: Path) -> list[Seed]:
    """One image in every format that is read, compressed or not, written by nibabel and SimpleITK."""
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
    seeds = []
    for path in sorted(folder.iterdir()):
        checked = path.suffix in (".gz", ".mgz", ".zraw")
        seeds.append(Seed(folder / data.get(path.name, path.name), path, volume, checked, path.stat().st_size))
    return seeds


def faults(
    seeds: list[Seed], folder: Path, count: int, seed: int = 0, tally: Counter[str] | None = None
) -> Iterator[str]:
    """A description of every fault among `count` damaged files; the damaged file is kept in `folder` with it.

    tally: is told what became of the others.

    A fault is: any error but one in words; a hang; memory out of proportion; and silent nonsense: most voxels lost
    or moved, or a format with checksums that gives other voxels at the same sizes.
    """
    random = np.random.default_rng(seed)
    tally = Counter() if tally is None else tally
    for number in range(count):
        chosen = seeds[number % len(seeds)]
        whole = chosen.damaged.read_bytes()
        name, raw = next(mutated(whole, random))
        if raw == whole:
            continue
        chosen.damaged.write_bytes(raw)
        try:
            problem = _problem(chosen, raw, tally)
        finally:
            chosen.damaged.write_bytes(whole)
        if problem:
            kept = folder / f"fault-{seed}-{number}-{chosen.damaged.name}"
            kept.write_bytes(raw)
            yield f"{kept.name} ({name}): {problem}"


def _problem(seed: Seed, raw: bytes, tally: Counter[str]) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _limit():
            read = read_volume(seed.path)
            warnings: list[str] = []
            fit = check_image(read, warnings)
    except HyperRegError as error:
        tally["refused"] += 1
        text = str(error)
        return "" if text.endswith((".", "?", "!", ")")) and "Traceback" not in text else f"no sentence: {text!r}"
    except TimeoutError:
        return f"took longer than {LONGEST} s"
    except Exception:  # noqa: BLE001 (that is what is looked for)
        return traceback.format_exc()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MOST_MEMORY:
        return f"took {grown / 1024:.0f} MB for {len(raw) / 1024:.0f} kB"
    alike = read.shape == seed.volume.shape and read.array.dtype == seed.volume.array.dtype
    same = alike and np.array_equal(read.array, seed.volume.array)
    tally["read, voxels as they were" if same else "read, other voxels"] += 1
    if seed.checked and alike and not same:
        return "other voxels in spite of a checksum"
    if len(raw) != seed.damaged_bytes and not warnings and alike and (read.array != seed.volume.array).mean() > SLIPPED:
        return "voxels slipped out of their places, without a word"
    zeros = float((fit.array == 0).mean())
    return f"{100 * zeros:.0f} % of the voxels are 0, without a word" if zeros > MOST_ZEROS and not warnings else ""


@contextmanager
def _limit() -> Iterator[None]:
    def end(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
