"""The pair that a command is given: its files, read and checked, and the session in which it is prepared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.dicom import different_patients, frame_of_reference
from hyperreg.imaging.dicom.registration_objects import frames_of_registration
from hyperreg.imaging.dicom.sources import is_dicom_file
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.label_checks import check_on_image
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.points import read_points
from hyperreg.imaging.streams import same_file
from hyperreg.imaging.structures import LabelMap, Table, compared
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import default_model
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.landmarks import Landmarks, order_by_name, pair_landmarks
from hyperreg.registration.session import LiveSession
from hyperreg.registration.start import ALIGNMENTS, BY_LANDMARKS, landmark_alignment
from hyperreg.reporting import Cancel, Progress


@dataclass(frozen=True)
class Pair:
    """What is registered, and how: two images, what belongs to them, the start, the model and the device.

    fixed_labels, moving_labels: label maps to measure against only. fixed_points, moving_points: landmarks, to measure
    against if `pull` is 0; else they pull at each other with this weight, up to 1.
    initial: one of ALIGNMENTS, "landmarks", or the file of any transform from fixed to moving space.
    model: a name from the catalogue, or None for the default one.
    device: "auto", "cpu" or "cuda".
    values: hyperparameters other than lambda, by name; the model's defaults for those that are not named.
    regions: a label map in the fixed image's space; region_lambdas: lambdas for some of its labels.
    contrast: whether both images show tissues alike, one of `contrast.CONTRASTS`.
    fixed_mask, moving_mask: label maps, not 0 where an image counts for the similarity.
    rigid: a label map in the fixed image's space, whose labels move as one rigid body each. symmetric: neither image is
    preferred.
    """

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    initial: str = "affine"
    model: str | None = None
    device: str = "auto"
    values: Mapping[str, float] = field(default_factory=dict)
    regions: Path | None = None
    region_lambdas: Mapping[int, float] = field(default_factory=dict)
    fixed_points: Path | None = None
    moving_points: Path | None = None
    contrast: str = AUTOMATIC
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    pull: float = 0.0
    rigid: Path | None = None
    symmetric: bool = False

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Everything that is read: no output may replace it."""
        measured = self.fixed_labels, self.moving_labels, self.fixed_points, self.moving_points
        others = _initial_file(self.initial), self.regions, self.fixed_mask, self.moving_mask, self.rigid
        return self.fixed, self.moving, *measured, *others


@dataclass(frozen=True)
class LoadedPair:
    """A pair's images, checked, label maps and landmarks in memory.

    fixed_labels, moving_labels: numbered alike where both name their structures, to be compared. table: what their
    numbers mean. drawn: the moving label map as its file has it, to be carried over.
    landmarks: None if there are none. warnings: what had to be mended, and what the user should know.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None
    moving_labels: Volume | None
    table: Table
    drawn: LabelMap | None
    landmarks: Landmarks | None
    regions: Volume | None
    initial: str | npt.NDArray[np.float64] | Transform
    fixed_mask: Volume | None
    moving_mask: Volume | None
    rigid: LabelMap | None
    warnings: list[str]


def load_pair(pair: Pair) -> LoadedPair:
    """Read the images, label maps and landmarks of a pair. Raises FileError or InputError that name the file."""
    warnings = list(filter(None, [different_patients(pair.fixed, pair.moving)]))
    fixed, moving = (check_image(read_volume(path), warnings) for path in (pair.fixed, pair.moving))
    drawn = [
        _structures(pair.fixed_labels, fixed, warnings, measured_only=True),
        _structures(pair.moving_labels, moving, warnings),
        _structures(pair.regions, fixed, warnings),
    ]
    warnings += _frames_apart(pair.fixed_labels, pair.fixed) + _frames_apart(pair.moving_labels, pair.moving)
    warnings += _frames_apart(pair.regions, pair.fixed)
    table: Table = {}
    alike = drawn[:2]
    if drawn[0] is not None and drawn[1] is None:
        warnings.append("Only the fixed image has a label map: no overlap is measured.")
    if drawn[0] is not None and drawn[1] is not None:
        alike[0], alike[1], table, texts = compared(drawn[0], drawn[1])
        warnings += texts
    warnings += _given_twice(pair.fixed_labels, pair.moving_labels) + _given_twice(
        pair.fixed_points, pair.moving_points
    )
    points = _landmarks((pair.fixed_points, pair.moving_points), warnings)
    landmarks = pair_landmarks(points[0], points[1], pair.pull)
    return LoadedPair(
        fixed=fixed,
        moving=moving,
        fixed_labels=None if alike[0] is None else alike[0].flat,
        moving_labels=None if alike[1] is None else alike[1].flat,
        table=table,
        drawn=drawn[1],
        landmarks=landmarks,
        regions=None if drawn[2] is None else drawn[2].flat,
        initial=_initial(pair, landmarks, warnings),
        fixed_mask=_mask(pair.fixed_mask, warnings),
        moving_mask=_mask(pair.moving_mask, warnings),
        rigid=_structures(pair.rigid, fixed, warnings),
        warnings=warnings,
    )


def _landmarks(paths: tuple[Path | None, Path | None], warnings: list[str]) -> list[npt.NDArray[np.float64] | None]:
    """The points of both images; those of the moving one in the order of the fixed one's, where their names tell it."""
    names: tuple[list[str], list[str]] = ([], [])
    points = [
        None if path is None else read_points(path, warnings, called) for path, called in zip(paths, names, strict=True)
    ]
    order = order_by_name(*names)
    if order is not None and points[1] is not None and paths[0] is not None and paths[1] is not None:
        points[1] = points[1][order]
        warnings.append(
            f"'{paths[1].name}' lists the points of '{paths[0].name}' in another order: they were paired by name."
        )
    return points


def _structures(path: Path | None, image: Volume, warnings: list[str], measured_only: bool = False) -> LabelMap | None:
    if path is None:
        return None
    labels = read_structures(path)
    if not labels.labels:
        raise InputError(f"The label map '{path.name}' is empty: no voxel has a label.")
    warnings += [*labels.warnings, *check_on_image(labels.flat, image, measured_only)]
    return labels


def _given_twice(fixed: Path | None, moving: Path | None) -> list[str]:
    """A warning of one file that was given for what belongs to each of two images."""
    if fixed is None or moving is None or not same_file(fixed, moving):
        return []
    return [f"'{fixed.name}' was given for both images: what is measured by it says nothing unless they share a space."]


def _mask(path: Path | None, warnings: list[str]) -> Volume | None:
    """1 where any structure of a label map is drawn."""
    if path is None:
        return None
    labels = read_structures(path, folder_table=False)
    warnings += labels.warnings
    drawn = np.any([layer.array != 0 for layer in labels.layers], axis=0)
    return Volume(drawn.astype(np.uint8), labels.layers[0].ijk_to_ras, labels.name)


def open_session(
    pair: Pair, images: LoadedPair, progress: Progress | None = None, cancelled: Cancel | None = None
) -> LiveSession:
    """A session in which the pair is prepared: any lambda can be asked for."""
    landmarks = images.landmarks
    measuring = None if landmarks is None else landmarks.measuring
    session = LiveSession(pair.model or default_model(), device=pair.device)
    session.choose(pair.values)
    session.prepare(
        images.fixed,
        images.moving,
        initial=images.initial,
        contrast=pair.contrast,
        symmetric=pair.symmetric,
        fixed_labels=images.fixed_labels,
        moving_labels=images.moving_labels,
        fixed_points=None if measuring is None else measuring.fixed,
        moving_points=None if measuring is None else measuring.moving,
        progress=progress,
        cancelled=cancelled,
    )
    session.constrain(
        Constraints(
            fixed_mask=images.fixed_mask,
            moving_mask=images.moving_mask,
            landmarks=None if landmarks is None else landmarks.pulling,
            rigid=None if images.rigid is None else images.rigid.flat,
            rigid_values=() if images.rigid is None else tuple(images.rigid.labels),
            regions=images.regions,
            region_lambdas=pair.region_lambdas,
        )
    )
    return session


def _initial_file(initial: str) -> Path | None:
    return None if initial in (*ALIGNMENTS, BY_LANDMARKS) else Path(initial)


def _frames_apart(labels: Path | None, image: Path) -> list[str]:
    """A warning of DICOM objects that count their places from different points, as far as their headers tell."""
    if labels is None:
        return []
    frames = frame_of_reference(labels), frame_of_reference(image)
    text = (
        f"The DICOM headers of '{labels.name}' and '{image.name}' name different frames of reference: places in one "
        "say nothing of places in the other. Do the labels belong to the image?"
    )
    return [text] if all(frames) and frames[0] != frames[1] else []


def _check_direction(path: Path, pair: Pair, warnings: list[str]) -> None:
    """Raise InputError for a DICOM registration that leads from the moving to the fixed image; warn of other images."""
    registered = frames_of_registration(path)
    images = (frame_of_reference(pair.fixed), frame_of_reference(pair.moving))
    if not all(images) or images[0] == images[1] or registered == images:
        return
    if registered == images[::-1]:
        raise InputError(
            f"The DICOM registration '{path.name}' was made the other way round: it registers the fixed image to the "
            "moving one. Exchange the images, or give no initial alignment."
        )
    warnings.append(
        f"The DICOM registration '{path.name}' names other frames of reference than the images: it was made for others."
    )


def _initial(pair: Pair, landmarks: Landmarks | None, warnings: list[str]) -> str | npt.NDArray[np.float64] | Transform:
    """A method's name as it is, what the landmarks say, or the transform of a file."""
    initial = pair.initial
    path = _initial_file(initial)
    if path is not None:
        if not os.path.exists(path):
            known = ", ".join((*ALIGNMENTS, BY_LANDMARKS))
            raise FileError(f"'{initial}' is neither one of {known} nor a transform file that exists.")
        transform = read_transform(path)
        if np.linalg.det(transform.linear[:3, :3]) < 0:
            warnings.append(
                f"The transform '{path.name}' mirrors the moving image, as no alignment of two bodies does: was one of "
                "its axes counted the other way when it was saved?"
            )
        if is_dicom_file(path):
            _check_direction(path, pair, warnings)
        return transform
    if initial != BY_LANDMARKS:
        return initial
    if landmarks is None:
        raise InputError("To start from landmarks give them: --fixed-points and --moving-points, in the same order.")
    return landmark_alignment(landmarks)
