"""A scene of real MRML nodes with the registration logic, and a stand-in for the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from fake_registration import FakeRegistration

from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.worker.live.state import LiveState

AGREE_MM = 1e-4
TRANSFORM_CLASS = "vtkMRMLTransformNode"


def turned(degrees: float, spacing: tuple[float, ...], flip: tuple[int, ...], origin: tuple[float, ...]) -> np.ndarray:
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(flip) * spacing
    affine[:3, 3] = origin
    return affine


FIXED = turned(20, (1.5, 2.0, 2.5), (1, -1, 1), (-14.0, 20.0, -12.0))
MOVING = turned(-35, (2.0, 1.2, 1.8), (-1, 1, 1), (16.0, -18.0, -9.0))
LINEAR = np.array([[1.03, 0.04, 0, 2], [-0.05, 0.98, 0.02, -1], [0, 0.03, 1.01, 1.5], [0, 0, 0, 1.0]])


def smooth(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 1.5)
    return (sitk.GetArrayFromImage(image) * 1000).astype(np.float32)


class Bench:
    """A scene with a fixed and a moving volume, a logic, and what it said."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.scene = slicer.vtkMRMLScene()
        self.fixed = self.volume("head", smooth((18, 20, 16), 1), FIXED)
        self.moving = self.volume("follow-up", smooth((17, 26, 19), 2), MOVING)
        self.registration = FakeRegistration(linear=LINEAR)
        self.logic = RegistrationLogic(self.scene, self.registration)
        self._before = LiveState()
        self.errors: list[str] = []
        self.states: list[str] = []
        self.fields: list[tuple[float, bool]] = []
        self.metrics: list[float] = []
        self.logic.on_error = self.errors.append
        self.logic.on_change = self._changed

    def _changed(self) -> None:
        before, self._before = self._before, self.logic.live
        self.states.append(self.logic.state)
        shown = self._before.shown
        if shown is not None and shown is not before.shown:
            self.fields.append((shown.lam, shown.solved))
        if shown is not None and self._before.metrics and self._before.metrics is not before.metrics:
            self.metrics.append(shown.lam)

    def volume(self, name: str, array: np.ndarray, affine: np.ndarray, kind: str = "vtkMRMLScalarVolumeNode"):
        node = self.scene.AddNewNodeByClass(kind, name)
        geometry.volume_to_node(Volume(array, affine, name), node)
        return node

    def transform(self, to_parent: np.ndarray):
        node = self.scene.AddNewNodeByClass(TRANSFORM_CLASS, "placed")
        node.SetMatrixTransformToParent(geometry.to_vtk(to_parent))
        return node

    def fixed_points(self) -> np.ndarray:
        """(P, 3): voxels of the fixed volume, away from its edges, RAS mm."""
        inside = np.stack(np.meshgrid([4, 9, 13], [5, 10, 14], [4, 8, 11], indexing="ij"), -1).reshape(-1, 3)
        return inside @ FIXED[:3, :3].T + FIXED[:3, 3]

    def register(self, **options) -> None:
        self.logic.register(self.fixed, self.moving, **{"lam": 0.25, "model": self.model, **options})

    def go_live(self, **options) -> None:
        self.register(**options)
        self.registration.answer_ready()

    def content(self) -> dict[str, str | None]:
        """Every node and what it is under: what undo has to bring back."""
        nodes = [self.scene.GetNthNode(n) for n in range(self.scene.GetNumberOfNodes())]
        return {
            node.GetID(): node.GetTransformNodeID() if node.IsA("vtkMRMLTransformableNode") else None for node in nodes
        }

    def shown_at(self, points: np.ndarray) -> np.ndarray:
        """Where Slicer's views look up the moving volume's voxels (its inner RAS) for points of the world."""
        transform = vtk.vtkGeneralTransform()
        self.moving.GetParentTransformNode().GetTransformFromWorld(transform)
        return np.array([transform.TransformPoint(point) for point in points])


@pytest.fixture
def make_bench(tiny_model: str) -> Iterator[Callable[[], Bench]]:
    """Benches that are taken down in order: a scene with observers must not be left to the garbage collector."""
    benches: list[Bench] = []

    def make() -> Bench:
        benches.append(Bench(tiny_model))
        return benches[-1]

    yield make
    for bench in benches:
        bench.logic.close()
        bench.scene.Clear(1)


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def points() -> np.ndarray:
    inside = np.random.default_rng(3).uniform(1, 14, (50, 3))
    return inside @ FIXED[:3, :3].T + FIXED[:3, 3]
