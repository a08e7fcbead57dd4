"""How fast and how large: previews, exact fields, memory. Ratios are taken side by side in one run."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.pairs import DATA, OASIS_PAIRS, lung, oasis
from hyperreg.phantom import PhantomPair, head_phantom_pair
from hyperreg.registration.anchors import difference_mm
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.field import integrate
from hyperreg.registration.session import LiveSession

SHAPE = (160, 192, 224)
REPEATS = 15
PREVIEWS = 40
VIEW_SIZE = 512
# The anchors are complete when no further one has come for so long.
QUIET_S = 12.0
SWEEP = np.linspace(0, 1, 21)


def median_seconds(*tasks: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Median wall time of each task; they take turns, so that a busy machine slows all of them alike."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for task in tasks:
        task()
    for _ in range(repeats):
        for task, taken in zip(tasks, seconds, strict=True):
            started = time.perf_counter()
            task()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def exact_field(session: LiveSession) -> dict[str, float]:
    """The exact field at a new lambda against the same backbone with weights that do not change."""
    lambdas = iter(np.linspace(0.001, 0.999, 100 * REPEATS))
    weights = session.model.weights(session.hyperparameters(0.3))
    window = session._fade.to(session.device)

    def wait() -> None:
        if session.device == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def hyper() -> None:
        generated = session.model.weights(session.hyperparameters(float(next(lambdas))))
        for velocity in session.model.velocities(generated, session._fixed, session._moving):
            integrate(velocity * window)
        wait()

    @torch.inference_mode()
    def fixed_weights() -> None:
        for velocity in session.model.velocities(weights, session._fixed, session._moving):
            integrate(velocity * window)
        wait()

    def complete() -> None:
        session.field(float(next(lambdas)))

    generated, plain, whole = median_seconds(hyper, fixed_weights, complete)
    return {"exact_field_s": whole, "hyper_over_fixed": generated / plain}


def slice_views(session: LiveSession, pair: PhantomPair) -> dict[str, float]:
    """Lambda changed -> preview made, transform filled, three views of 512 x 512 resliced: real MRML, no screen."""
    import slicer
    from vtkmodules.util.numpy_support import vtk_to_numpy

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "HyperRegSlicer"))
    from HyperRegSlicerLib.Geometry import LiveTransform, volume_to_node

    scene = slicer.vtkMRMLScene()
    # A bare scene has neither colour tables nor orientations: the views would be empty, and quick to make.
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    grey = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "grey")
    grey.SetTypeToGrey()
    nodes = [scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", role) for role in ("fixed", "moving")]
    for node, volume in zip(nodes, (pair.fixed, pair.moving), strict=True):
        volume_to_node(volume, node)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(grey.GetID())
        node.GetDisplayNode().AutoWindowLevelOn()
    live = LiveTransform(session.grid, session.linear)
    transform_node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
    transform_node.SetAndObserveTransformFromParent(live.transform)
    nodes[1].SetAndObserveTransformNodeID(transform_node.GetID())
    logics = []
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        logic.AddSliceNode(name)
        logic.GetSliceNode().SetOrientation(orientation)
        logic.GetSliceNode().SetDimensions(VIEW_SIZE, VIEW_SIZE, 1)
        composite = logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(nodes[0].GetID())
        composite.SetForegroundVolumeID(nodes[1].GetID())
        composite.SetForegroundOpacity(0.5)
        logic.FitSliceToAll()
        logics.append(logic)
    buffer = session.anchors.interpolate(0.5)
    lambdas = iter(np.tile(np.linspace(0.02, 0.98, 37), 5))

    def preview() -> None:
        fields = session.anchors.interpolate(float(next(lambdas)), inverse=False, out=buffer)
        live.fill(fields.forward)
        for logic in logics:
            logic.GetImageDataConnection().GetProducer().Update()

    def pictures() -> list[npt.NDArray[np.uint8]]:
        images = [logic.GetImageDataConnection().GetProducer().GetOutput() for logic in logics]
        return [vtk_to_numpy(image.GetPointData().GetScalars()).copy() for image in images]

    preview()
    before = pictures()
    preview()
    if any(np.array_equal(first, second) for first, second in zip(before, pictures(), strict=True)):
        raise RuntimeError("A view did not change with λ: what was measured would be no preview.")

    def interpolation() -> None:
        session.anchors.interpolate(float(next(lambdas)), inverse=False, out=buffer)

    whole, alone = median_seconds(preview, interpolation, repeats=PREVIEWS)
    return {"preview_three_views_ms": 1000 * whole, "preview_interpolation_ms": 1000 * alone}


def worker_memory(pair: PhantomPair, model: str) -> dict[str, float]:
    """Peak memory of a worker that prepares the pair and fills all anchors, GB (Linux only, else NaN)."""
    from hyperreg.worker.client import WorkerClient
    from hyperreg.worker.live import LiveRegistration

    client = WorkerClient()
    try:
        live = LiveRegistration(client)
        live.prepare(pair.fixed, pair.moving, model=model, device="cpu").wait(600)
        live.set_lambda(0.3)
        known, since = 0, time.monotonic()
        while time.monotonic() - since < QUIET_S:
            client.poll()
            time.sleep(0.01)
            if live.anchor_count != known:
                known, since = live.anchor_count, time.monotonic()
        status = Path(f"/proc/{client.pid}/status")
        lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        return {"worker_peak_gb": peaks[0] / 1024**2 if peaks else float("nan"), "anchors": live.anchor_count}
    finally:
        client.stop()


def preview_error(model: str, oasis_pairs: int = 2) -> dict[str, float]:
    """Preview against exact field over a sweep of lambda on real pairs: the worst mean and 99th percentile, mm."""
    pairs = [oasis(*names) for names in OASIS_PAIRS[:oasis_pairs]] + [lung()]
    means, p99s = [], []
    for pair in pairs:
        session = LiveSession(model, "cpu")
        session.prepare(pair.fixed, pair.moving, initial="com")
        session.fill_anchors()
        for lam in SWEEP:
            mean, p99 = difference_mm(session.preview(float(lam)).forward, session.field(float(lam)).forward)
            means.append(mean)
            p99s.append(p99)
    return {"preview_error_mean_mm": max(means), "preview_error_p99_mm": max(p99s)}


def run(model: str, device: str = "auto") -> dict[str, Any]:
    """All of it. Preview errors are left out where the real data is absent."""
    pair = head_phantom_pair(SHAPE)
    session = LiveSession(model, device)
    session.prepare(pair.fixed, pair.moving, initial="affine")
    session.fill_anchors()
    found: dict[str, Any] = {
        "model": model,
        "model_version": find_model(model).version,
        "device": session.device,
        "cores": os.cpu_count(),
        "shape": "x".join(str(n) for n in SHAPE),
        "network_grid": "x".join(str(n) for n in session.grid.shape),
        "align_s": session.timing["align"],
        **exact_field(session),
        **slice_views(session, pair),
        **worker_memory(pair, model),
    }
    if DATA.is_dir():
        found |= preview_error(model)
    return found
