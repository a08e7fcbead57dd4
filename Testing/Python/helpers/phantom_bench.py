"""A small phantom pair whose fixed image lies on an oblique, anisotropic, flipped grid, and sessions with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import head_phantom_pair
from hyperreg.registration.session import LiveSession

LAMBDA = 0.3
# A shape that costs less than half as much, where the structures are too coarse to be found exactly.
COARSE = (48, 60, 48)
ANGLE = np.radians(12)
# The fixed image's world is turned about A against that of the phantom, and shifted, mm.
TURN = np.array(
    [
        [np.cos(ANGLE), 0, np.sin(ANGLE), 7.0],
        [0, 1, 0, -5.0],
        [-np.sin(ANGLE), 0, np.cos(ANGLE), 11.0],
        [0, 0, 0, 1],
    ]
)


@dataclass(frozen=True)
class ObliquePhantom:
    """Images and label maps. points: (P, 3) in the fixed image's structures; truth: where they lie in the moving one.

    linear: (4, 4), the affine part of the truth; everything RAS mm.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    points: np.ndarray
    truth: np.ndarray
    linear: np.ndarray


def oblique_phantom(shape: tuple[int, int, int] = (64, 80, 64)) -> ObliquePhantom:
    """3 x 3 x 6 mm unless another shape is wanted: every second axial slice, stored from left to right."""
    pair = head_phantom_pair(shape)

    def scan(volume: Volume) -> Volume:
        change = np.diag([-1.0, 1.0, 2.0, 1.0])
        change[0, 3] = volume.shape[0] - 1
        return Volume(np.ascontiguousarray(volume.array[::-1, :, ::2]), TURN @ volume.ijk_to_ras @ change, volume.name)

    fixed, fixed_labels = scan(pair.fixed), scan(pair.fixed_labels)
    points = fixed.grid.to_ras(np.argwhere(fixed_labels.array > 0)[::7])
    back = np.linalg.inv(TURN)
    truth = Transform((back, pair.field)).apply(points)
    homogeneous = np.c_[points, np.ones(len(points))]
    linear = np.eye(4)
    linear[:3] = np.linalg.lstsq(homogeneous, truth, rcond=None)[0].T
    return ObliquePhantom(fixed, pair.moving, fixed_labels, pair.moving_labels, points, truth, linear)


def prepared(phantom: ObliquePhantom, model: str = "tiny-untrained") -> LiveSession:
    """A session with the pair, aligned linearly as well as can be."""
    session = LiveSession(model, "cpu")
    session.prepare(
        phantom.fixed,
        phantom.moving,
        initial=phantom.linear,
        fixed_labels=phantom.fixed_labels,
        moving_labels=phantom.moving_labels,
    )
    return session
