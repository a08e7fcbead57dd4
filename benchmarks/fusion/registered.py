"""Atlases brought to targets by registrations of deliberately mixed quality, made once and kept on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from benchmarks.pairs import DATA, check_data
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.session import LiveSession

SUBJECTS = ("1000", "1001", "1002", "1004", "1005", "1006", "1008", "1009", "1010", "1017")
# Settings were chosen on the first one; the others are reported.
DEVELOPMENT = "1000"
TARGETS = ("1005", "1006", "1008", "1009", "1010")
MODEL = "brain"
# Every atlas of a target has one of these qualities; which one goes round from target to target. The disturbed ones are
# the network's at λ = 0.3 after a smooth random displacement of that mean length.
QUALITIES = (
    "refined", "network λ=0.1", "network λ=0.3", "network λ=0.6", "network λ=1", "affine",
    "disturbed 3 mm", "disturbed 6 mm", "disturbed 10 mm",
)  # fmt: skip
UNIFORM = "network λ=0.3"
REFINED_LAMBDA = 0.3
# Distance of the points at which the displacement is random.
CONTROL_MM = 40.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Registered:
    """An atlas on the grid of its target: image, label map, and how it came there."""

    atlas: str
    quality: str
    image: Volume
    labels: Volume


@dataclass(frozen=True)
class Target:
    """A subject with its manual labels, which no method sees."""

    name: str
    image: Volume
    truth: Volume


def read_target(name: str) -> Target:
    image, labels = (DATA / "brain_oasis" / f"{name}_{what}.nii.gz" for what in ("T1_brain", "labels"))
    return Target(name, read_volume(image), read_label_map(labels))


def atlases_of(target: str) -> list[str]:
    return [name for name in SUBJECTS if name != target]


def mixed(target: str) -> list[tuple[str, str]]:
    """(atlas, quality) of the mixed set of a target: every quality once."""
    turn = SUBJECTS.index(target)
    return [(atlas, QUALITIES[(n + turn) % len(QUALITIES)]) for n, atlas in enumerate(atlases_of(target))]


def unrefined(target: str) -> list[tuple[str, str]]:
    """(atlas, quality) of the mixed set without the refined one, which costs as much as all others together."""
    return [(atlas, quality) for atlas, quality in mixed(target) if quality != "refined"]


def uniform(target: str) -> list[tuple[str, str]]:
    """(atlas, quality) of the set in which every atlas was registered alike."""
    return [(atlas, UNIFORM) for atlas in atlases_of(target)]


def single(target: str) -> list[tuple[str, str]]:
    """(atlas, quality) of the set in which one atlas was registered in every way but the costly one."""
    return [(atlases_of(target)[-1], quality) for quality in QUALITIES if quality != "refined"]


def path_of(store: Path, target: str, atlas: str, quality: str) -> Path:
    return store / target / f"{atlas}--{quality.replace(' ', '_')}.npz"


def register_all(wanted: Mapping[str, Sequence[tuple[str, str]]], store: Path, say: Say = print) -> None:
    """Make every registration that is not there yet; refined ones last, because they take longest.

    wanted: target -> (atlas, quality) of each.
    """
    check_data()
    session: LiveSession | None = None
    for costly in (False, True):
        for name, pairs in wanted.items():
            missing = [
                (atlas, quality)
                for atlas, quality in sorted(set(pairs))
                if (quality == "refined") == costly and not path_of(store, name, atlas, quality).exists()
            ]
            for atlas in dict.fromkeys(atlas for atlas, _quality in missing):
                started = time.perf_counter()
                session = LiveSession(MODEL, "cpu") if session is None else session
                qualities = [quality for one, quality in missing if one == atlas]
                _register(session, read_target(name), atlas, qualities, store)
                say(f"{name} from {atlas}: {', '.join(qualities)} [{time.perf_counter() - started:.0f} s]")


def _register(session: LiveSession, target: Target, atlas: str, qualities: Sequence[str], store: Path) -> None:
    moving = read_target(atlas)
    session.prepare(target.image, moving.image, initial="affine")
    for quality in qualities:
        transform = _transform(session, quality, target.image.grid, int(target.name) * 10000 + int(atlas))
        image = resample(moving.image, target.image.grid, transform)
        labels = resample(moving.truth, target.image.grid, transform, "nearest")
        path = path_of(store, target.name, atlas, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.{os.getpid()}")
        with half.open("wb") as stream:
            np.savez_compressed(stream, image=image.array.astype(np.float16), labels=labels.array.astype(np.uint8))
        half.replace(path)


def _transform(session: LiveSession, quality: str, grid: Grid, seed: int) -> Transform:
    """Target RAS to atlas RAS."""
    if quality == "affine":
        return Transform((session.linear,))
    if quality == "refined":
        return session.transform(REFINED_LAMBDA)
    if quality.startswith("disturbed"):
        length = float(quality.split()[1])
        return Transform((random_displacement(grid, length, seed), *session.transform(0.3).stages))
    return session.transform(float(quality.split("=")[1]))


def random_displacement(grid: Grid, length_mm: float, seed: int, control_mm: float = CONTROL_MM) -> DisplacementField:
    """A smooth random displacement whose mean length is `length_mm`, on every second voxel of a grid."""
    shape = [max(2, -(-n // 2)) for n in grid.shape]
    coarse = [max(3, round(n * size / control_mm) + 1) for n, size in zip(grid.shape, grid.spacing, strict=True)]
    noise = torch.randn(1, 3, *coarse, generator=torch.Generator().manual_seed(seed))
    field = F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0].numpy()
    field *= length_mm / np.linalg.norm(field, axis=0).mean()
    ijk_to_ras = grid.ijk_to_ras @ np.diag([2.0, 2.0, 2.0, 1.0])
    return DisplacementField(np.ascontiguousarray(field), ijk_to_ras)


def load(store: Path, target: Target, pairs: Sequence[tuple[str, str]]) -> list[Registered]:
    """Registered atlases, as `register_all` made them."""
    found = []
    for atlas, quality in pairs:
        with np.load(path_of(store, target.name, atlas, quality), allow_pickle=False) as arrays:
            image, labels = arrays["image"].astype(np.float32), arrays["labels"]
        affine = target.image.ijk_to_ras
        found.append(Registered(atlas, quality, Volume(image, affine, atlas), Volume(labels, affine, atlas)))
    return found


def restricted(labels: npt.NDArray, kept: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The label map without all labels but `kept`."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(kept)] = list(kept)
    return table[labels]
