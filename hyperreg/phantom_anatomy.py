"""The anatomy of the generated head: level sets (signed distances in mm, negative inside) over its own RAS space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.volume import Grid

Array: TypeAlias = npt.NDArray[np.float32]

CORTEX_MM = 3.4
# Numbers of FreeSurfer's colour table, so that label maps show the usual colours and names elsewhere.
LABEL_NAMES = {
    2: "left cerebral white matter",
    3: "left cerebral cortex",
    4: "left lateral ventricle",
    7: "left cerebellar white matter",
    8: "left cerebellar cortex",
    10: "left thalamus",
    11: "left caudate",
    12: "left putamen",
    13: "left pallidum",
    14: "third ventricle",
    15: "fourth ventricle",
    16: "brain stem",
    17: "left hippocampus",
    24: "cerebrospinal fluid",
    41: "right cerebral white matter",
    42: "right cerebral cortex",
    43: "right lateral ventricle",
    46: "right cerebellar white matter",
    47: "right cerebellar cortex",
    49: "right thalamus",
    50: "right caudate",
    51: "right putamen",
    52: "right pallidum",
    53: "right hippocampus",
}
_RIGHT_OF_LEFT = {2: 41, 3: 42, 4: 43, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53}


class Waves:
    """A smooth random function of space: a sum of plane waves of about one wavelength, standard deviation 1."""

    def __init__(self, random: np.random.Generator, wavelength: float, count: int, spread: float = 0.15) -> None:
        directions = random.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = wavelength * np.exp(spread * random.normal(size=(count, 1)))
        self.wave_vectors = (2 * np.pi * directions / lengths).astype(np.float32)
        self.phases = random.uniform(0, 2 * np.pi, count).astype(np.float32)
        self.scale = np.float32(np.sqrt(2 / count))

    def __call__(self, points: Array) -> Array:
        """(3, N) mm -> (N,)."""
        value = np.zeros(points.shape[1], dtype=np.float32)
        for vector, phase in zip(self.wave_vectors, self.phases, strict=True):
            value += np.sin(vector @ points + phase)
        return value * self.scale

    def with_slope(self, points: Array) -> tuple[Array, Array]:
        """(3, N) mm -> value (N,) and length of its gradient (N,), 1/mm."""
        value = np.zeros(points.shape[1], dtype=np.float32)
        gradient = np.zeros(points.shape, dtype=np.float32)
        for vector, phase in zip(self.wave_vectors, self.phases, strict=True):
            angle = vector @ points + phase
            value += np.sin(angle)
            slope = np.cos(angle)
            for axis in range(3):
                gradient[axis] += vector[axis] * slope
        return value * self.scale, np.sqrt((gradient * gradient).sum(axis=0)) * self.scale


def _ellipsoid(points: Array, centre: Sequence[float], radii: Sequence[float]) -> Array:
    """Approximate signed distance to an ellipsoid at points (3, N), mm: (N,)."""
    length = np.full(points.shape[1], 1e-6, dtype=np.float32)
    slope = length.copy()
    for axis in range(3):
        scaled = (points[axis] - np.float32(centre[axis])) * np.float32(1 / radii[axis])
        scaled *= scaled
        length += scaled
        slope += scaled * np.float32(1 / radii[axis] ** 2)
    np.sqrt(length, out=length)
    return length * (length - 1) / np.sqrt(slope)


def _tube(
    points: Array, start: Sequence[float], end: Sequence[float], radius: float, end_radius: float | None = None
) -> Array:
    """Signed distance to a segment with a radius that may change along it, at points (3, N), mm: (N,)."""
    a, b = np.array(start, dtype=np.float32), np.array(end, dtype=np.float32)
    direction = b - a
    along = (((direction / (direction @ direction)) @ points) - a @ direction / (direction @ direction)).clip(0, 1)
    square = np.zeros(points.shape[1], dtype=np.float32)
    for axis in range(3):
        offset = points[axis] - a[axis] - along * direction[axis]
        square += offset * offset
    end_radius = radius if end_radius is None else end_radius
    return np.sqrt(square) - (np.float32(radius) + np.float32(end_radius - radius) * along)


def _mirrored(points: Array) -> Array:
    """Points (3, N) with the left half of the head laid over the right one."""
    result = points.copy()
    np.abs(result[0], out=result[0])
    return result


def _union(*levels: Array, blend: float = 0.0) -> Array:
    """Union of level sets; `blend` mm rounds the seam."""
    result = levels[0]
    for level in levels[1:]:
        if blend > 0:
            overlap = (blend - np.abs(result - level)).clip(0) / blend
            result = np.minimum(result, level) - overlap * overlap * (blend / 4)
        else:
            result = np.minimum(result, level)
    return result


class Head:
    """The anatomy: `scan` makes a volume and a label map of it on any grid."""

    def __init__(self, random: np.random.Generator) -> None:
        self.shape_waves = Waves(random, 85.0, 10)
        self.fold_waves = Waves(random, 21.0, 32, spread=0.12)
        self.depth_waves = Waves(random, 45.0, 10)
        self.folia_waves = Waves(random, 13.0, 14)
        self.texture_waves = Waves(random, 17.0, 10, spread=0.4)

    def scan(
        self,
        grid: Grid,
        moved: Array | None,
        random: np.random.Generator,
        *,
        gamma: float,
        noise: float,
        bias: float,
    ) -> tuple[Array, npt.NDArray[np.int16]]:
        """Volume (I, J, K) float32, 0 to about 250, and label map (I, J, K) int16 of the head on `grid`.

        moved: what to add to a voxel's RAS to find it in the head's own space, (3, I, J, K) mm (None: nothing).
        gamma, noise (SD) and bias (log SD): the scanner.
        """
        image: npt.NDArray[np.floating] = np.empty(grid.shape, dtype=np.float32)
        labels = np.empty(grid.shape, dtype=np.int16)
        plane = np.indices((1, *grid.shape[1:]), dtype=np.float64).reshape(3, -1)
        for i in range(grid.shape[0]):  # slab by slab: the temporary arrays stay in the processor's cache
            ijk = plane + np.array([[i], [0], [0]])
            points = (grid.ijk_to_ras[:3, :3] @ ijk + grid.ijk_to_ras[:3, 3:]).astype(np.float32)
            if moved is not None:
                points += moved[:, i].reshape(3, -1)
            values, found = self._sample(points, float(grid.spacing.mean()))
            image[i] = values.reshape(grid.shape[1:])
            labels[i] = found.reshape(grid.shape[1:])
        image = 220 * (image / 220) ** gamma
        image *= np.exp(bias * _smooth_random(grid, random))
        # Magnitude of a complex signal: noise is Rician, the air is not zero.
        magnitude = np.hypot(
            image + noise * random.standard_normal(grid.shape, dtype=np.float32),
            noise * random.standard_normal(grid.shape, dtype=np.float32),
        )
        return magnitude.astype(np.float32), labels

    def _sample(self, points: Array, voxel: float) -> tuple[Array, npt.NDArray[np.int16]]:
        """Intensity (N,) and label (N,) at head RAS points (3, N); edges are `voxel` mm wide (partial volume)."""
        image = np.full(points.shape[1], 2.0, dtype=np.float32)
        labels = np.zeros(points.shape[1], dtype=np.int16)
        # Most of the volume is air: what follows looks only at the points near the head, then at those near the brain.
        near = np.flatnonzero(self._outline(points) < 12)
        if len(near):
            points = points[:, near]
            cavity = self._cavity(points) + 1.6 * self.shape_waves(points)
            values = image[near]
            self._paint_outside(values, points, cavity, voxel)
            inside = np.flatnonzero(cavity < 4)
            if len(inside):
                values[inside], found = self._brain(points[:, inside], cavity[inside], values[inside], voxel)
                labels[near[inside]] = found
            image[near] = values
        return image, labels

    @staticmethod
    def _outline(points: Array) -> Array:
        """A level set that holds the whole head."""
        return _union(
            _ellipsoid(points, (0, 2, 14), (92, 110, 84)),
            _ellipsoid(points, (0, 44, -52), (66, 66, 72)),
            _tube(points, (0, -22, -45), (0, -30, -140), 64),
        )

    @staticmethod
    def _cavity(points: Array) -> Array:
        """Inside of the skull."""
        mirrored = _mirrored(points)
        return _union(
            _ellipsoid(points, (0, -2, 26), (68, 86, 53)),
            _ellipsoid(mirrored, (38, 10, -8), (30, 44, 26)),
            _ellipsoid(points, (0, -54, -22), (52, 34, 28)),
            blend=12,
        )

    def _paint_outside(self, image: Array, points: Array, cavity: Array, voxel: float) -> None:
        """Skin, fat, muscle, bone and airways, in place."""
        mirrored = _mirrored(points)
        texture = self.texture_waves(points)
        skin = _union(
            cavity - 15 - 0.3 * texture,
            _ellipsoid(points, (0, 44, -52), (60, 50, 66)),
            _tube(points, (0, -22, -45), (0, -30, -140), 58, 54),
            _ellipsoid(points, (0, 97, -34), (13, 15, 17)),
            blend=16,
        )
        skin = _union(skin, _ellipsoid(mirrored, (84, -12, -28), (5, 15, 24)), blend=6)

        def paint(level: Array, value: float | Array) -> None:
            _paint(image, level, value, voxel)

        paint(skin, 95)
        paint(skin + 1.8, 205 + 12 * texture)  # fat under the skin
        paint(skin + 5.0, 88 + 5 * texture)  # muscle
        paint(cavity - 8.5, 24)  # outer and inner table, with marrow between
        paint(np.abs(cavity - 5.2) - 1.6 - 0.8 * texture, 118)
        for centre, radius, value in (
            ((32, 76, -14), 20, 190.0),
            ((32, 80, -13), 12.5, 38.0),
            ((32, 91, -13), 4, 75.0),
        ):
            paint(_ellipsoid(mirrored, centre, (radius,) * 3), value)
        paint(_tube(mirrored, (27, 56, -16), (32, 70, -14), 3.0), 105)
        paint(_ellipsoid(mirrored, (9, 66, -40), (6, 24, 15)), 6)  # nose and sinuses
        paint(np.abs(points[0]) - 1.0 + 100 * (_ellipsoid(points, (0, 66, -40), (8, 24, 16)) > 0), 90)
        paint(_ellipsoid(mirrored, (30, 62, -46), (13, 15, 15)), 5)
        paint(
            _union(_tube(points, (0, 42, -52), (0, 12, -62), 8), _tube(points, (0, 12, -62), (0, 8, -140), 8), blend=8),
            4,
        )
        paint(_ellipsoid(points, (0, 48, -84), (30, 34, 20)), 105 + 14 * texture)  # tongue
        paint(_tube(points, (0, -24, -62), (0, -28, -150), 14), 28)  # vertebrae
        paint(np.maximum(_tube(points, (0, -24, -62), (0, -28, -150), 12), 1.5 - np.abs((points[2] % 18) - 9)), 112)

    def _brain(self, points: Array, cavity: Array, image: Array, voxel: float) -> tuple[Array, npt.NDArray[np.int16]]:
        """Paints what lies inside the skull over `image`; returns it and the labels."""
        mirrored = _mirrored(points)
        labels = np.zeros(points.shape[1], dtype=np.int16)
        texture = self.texture_waves(points)
        pial, cerebellum = self._surfaces(points, mirrored, cavity)
        stem = _union(
            _tube(mirrored, (5, -20, 0), (3, -24, -18), 10),
            _ellipsoid(points, (0, -24, -26), (16, 14, 15)),
            _tube(points, (0, -30, -38), (0, -42, -70), 9, 6.5),
            _tube(points, (0, -42, -70), (0, -44, -150), 6),
            blend=6,
        )
        waves = self.folia_waves(points)
        folia = np.sin(1.35 * _tube(points, (0, -26, 4), (0, -26, 5), 0) + 0.8 * waves)
        branches = cerebellum + 8.5 - 3.5 * waves

        def put(level: Array, value: float | Array, label: int) -> None:
            _paint(image, level, value, voxel)
            inside = level < 0
            labels[inside] = np.where(points[0, inside] > 0, _RIGHT_OF_LEFT.get(label, label), label)

        put(cavity, 30, 24)
        put(_tube(points, (0, -42, -60), (0, -44, -150), 10), 30, 24)
        put(cerebellum, 100 - 16 * (folia > 0.55) + 3 * texture, 8)
        put(branches, 146 + 3 * texture, 7)
        put(pial, 102 + 4 * texture, 3)
        put(pial + CORTEX_MM, 150 + 3 * texture, 2)
        put(stem, 138 + 4 * texture, 16)
        put(_ellipsoid(points, (0, -45, -27), (7, 6, 9)), 30, 15)
        for label, value, level in self._deep_structures(points, mirrored):
            put(level, value + 3 * texture, label)
        return image, labels

    def _surfaces(self, points: Array, mirrored: Array, cavity: Array) -> tuple[Array, Array]:
        """Level sets of the folded cortical surface and of the cerebellum."""
        x, y, z = points
        tentorium = z + 2 - 0.22 * (y + 35)  # above it the cerebrum, below it the cerebellum
        cerebellum = _union(
            _ellipsoid(mirrored, (22, -57, -27), (29, 26, 22)), _ellipsoid(points, (0, -56, -24), (14, 21, 19)), blend=8
        )
        cerebellum = np.maximum(np.maximum(cerebellum, tentorium + 2.5), cavity + 2.5)
        hull = _union(
            _ellipsoid(points, (0, -2, 27), (65, 83, 50)), _ellipsoid(mirrored, (38, 10, -8), (27, 41, 23)), blend=10
        )
        above = np.minimum(
            1.5 - tentorium, -28 - y
        )  # nothing of it below the tentorium, which ends behind the midbrain
        hull = np.maximum(np.maximum(hull, cavity + 2.2), above)
        depth = (-hull).clip(0)

        # Sulci: the zero set of a random wave, drawn out from the middle so that it meets the surface upright.
        centred = points - np.array([[0], [-2], [14]], dtype=np.float32)
        radius = np.sqrt(((centred / np.array([[65], [83], [56]], dtype=np.float32)) ** 2).sum(axis=0)) + np.float32(
            0.05
        )
        stretch = 1 + 0.75 * (1 / radius - 1)
        stretched = centred * stretch
        stretched[0] += 7 * np.sign(centred[0])  # the two sides are alike, not equal
        value, slope = self.fold_waves.with_slope(stretched)
        across = np.abs(value) / (slope * stretch + 0.02)
        reach = 15 + 4 * self.depth_waves(points)
        sulci = np.hypot(across, (depth - reach).clip(0)) - (0.5 + 0.9 * np.exp(-depth / 4))

        callosum = _ellipsoid(points, (0, -8, 14), (26, 46, 26))
        fissure = np.hypot(x, (-callosum).clip(0)) - 0.9
        plane = z - 0.32 * y + 2 - 3 * np.sin(y / 17) - 4 * np.sin(mirrored[0] / 8)
        sylvian = np.sqrt(plane**2 + (36 - mirrored[0]).clip(0) ** 2 + (-26 - y).clip(0) ** 2) - 1.3
        insula = (
            np.sqrt((mirrored[0] - 37) ** 2 + (np.abs(plane) - 12).clip(0) ** 2 + (np.abs(y - 4) - 20).clip(0) ** 2)
            - 1.0
        )
        pial = np.maximum(hull, -_union(sulci, fissure, sylvian, insula))
        return pial, cerebellum

    @staticmethod
    def _deep_structures(points: Array, mirrored: Array) -> list[tuple[int, float, Array]]:
        """(label, intensity, level set) in painting order."""
        ventricle = _union(
            _tube(mirrored, (9, 34, 16), (10, 8, 27), 5.5, 5.0),
            _tube(mirrored, (10, 8, 27), (15, -22, 27), 5.0, 5.5),
            _tube(mirrored, (15, -22, 27), (27, -40, 14), 5.5, 6.5),
            _tube(mirrored, (27, -40, 14), (23, -64, 12), 6.0, 3.0),
            _tube(mirrored, (27, -40, 14), (34, -14, -12), 5.5, 3.0),
            blend=5,
        )
        return [
            (
                11,
                116.0,
                _union(
                    _ellipsoid(mirrored, (14, 22, 14), (6, 12, 9)),
                    _tube(mirrored, (17, 12, 22), (22, -24, 26), 4, 2.6),
                    blend=4,
                ),
            ),
            (10, 126.0, _ellipsoid(mirrored, (12.5, -14, 8), (9.5, 15, 9.5))),
            (12, 116.0, _ellipsoid(mirrored, (28, 5, 5), (5.5, 18, 11.5))),
            (13, 136.0, _ellipsoid(mirrored, (21, 0, 2), (4.5, 10, 7.5))),
            (17, 106.0, _tube(mirrored, (26, -6, -17), (26, -32, -6), 6.0, 4.5)),
            (4, 30.0, ventricle),
            (14, 30.0, _ellipsoid(points, (0, -8, 6), (2.6, 14, 11))),
        ]


def _paint(image: Array, level: Array, value: float | Array, voxel: float) -> None:
    """Blend `value` into `image` where `level` < 0, with an edge one voxel wide; in place."""
    share = (0.5 - level / voxel).clip(0, 1)
    image += share * (value - image)


def _smooth_random(grid: Grid, random: np.random.Generator) -> Array:
    """A slowly varying field (the coil's), about -2 to 2: (I, J, K)."""
    values = np.zeros(grid.shape, dtype=np.float32)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape]
    for _ in range(5):
        a, b, c = (np.cos(random.uniform(0.4, 2.2) * axis + random.uniform(0, 6.3)) for axis in axes)
        values += a[:, None, None] * b[None, :, None] * c[None, None, :]
    return values.astype(np.float32)
