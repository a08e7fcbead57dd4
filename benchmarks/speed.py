"""How fast and how large: previews, fields of every stage, memory. Ratios are taken side by side in one run."""

from __future__ import annotations

import bisect
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from benchmarks.pairs import DATA, OASIS_PAIRS, lung, oasis
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.phantom import PhantomPair, head_phantom_pair
from hyperreg.registration.anchors import difference_mm
from hyperreg.registration.catalogue import NO_MODEL, find_model
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.field import integrate
from hyperreg.registration.landmarks import pair_landmarks
from hyperreg.registration.model import RegistrationModel
from hyperreg.registration.network import Network
from hyperreg.registration.session import LiveSession
from hyperreg.segmentation.session import Segmenter

SHAPE = (160, 192, 224)
REPEATS = 3
PREVIEWS = 40
VIEW_SIZE = 512
# Values of lambda in the order in which they are previewed: far enough apart that every picture has to change.
PREVIEWED = np.linspace(0.02, 0.98, 37)[(np.arange(PREVIEWS + 1) * 7) % 37]
# A preview that changes a smaller share of a view's pixels is no preview of another lambda.
LEAST_CHANGE = 1e-3
WORKER_LIMIT_S = 600.0
SEGMENTATION_MODEL = "brain-anatomy"
NETWORK = "brain"


@dataclass(frozen=True)
class Cost:
    """Medians: wall is what a user waits, on this machine as busy as it is; cpu the work of all threads. Seconds."""

    wall: float
    cpu: float


class Clock:
    """Collects the costs of one task."""

    def __init__(self) -> None:
        self._seconds: list[tuple[float, float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._seconds.append((time.perf_counter() - wall, time.process_time() - cpu))

    @property
    def median(self) -> Cost:
        return Cost(*(statistics.median(seconds) for seconds in zip(*self._seconds, strict=True)))


def median_costs(*tasks: Callable[[], object], repeats: int = REPEATS) -> list[Cost]:
    """Costs of each task; they take turns, so that a busy machine slows all of them alike."""
    clocks = [Clock() for _ in tasks]
    for task in tasks:
        task()
    for _ in range(repeats):
        for task, clock in zip(tasks, clocks, strict=True):
            with clock.running():
                task()
    return [clock.median for clock in clocks]


def stages(session: LiveSession) -> dict[str, float]:
    """Every stage at a lambda that is new each time, from nothing; the last is found once, because it takes longest."""
    lambdas = iter(np.linspace(0.001, 0.499, 100 * REPEATS))
    found: dict[str, float] = {}
    for number, stage in enumerate(session.stages):
        last = number == len(session.stages) - 1
        (cost,) = median_costs(
            lambda number=number: session.field(float(next(lambdas)), number),  # type: ignore[misc]
            repeats=1 if last else REPEATS,
        )
        found |= {f"{stage.name}_field_s": cost.wall, f"{stage.name}_field_cpu_s": cost.cpu}
    return found


def dragged_landmark(session: LiveSession) -> dict[str, float]:
    """One of four landmarks that pull was moved: the default lambda anew, up to the quick result."""
    middle = np.array(session.grid.shape) / 2
    here = session.grid.to_ras(middle + 8 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    there = Transform((session.linear,)).apply(here)
    places = itertools.count(1)

    def drag() -> None:
        there[0, 2] += 0.5 * (-1) ** next(places)
        session.constrain(Constraints(landmarks=pair_landmarks(here, there, 0.5)))
        session.field(session.card.default_lambda, session.quick_stage)

    (cost,) = median_costs(drag)
    session.constrain(Constraints())
    return {"dragged_landmark_s": cost.wall, "dragged_landmark_cpu_s": cost.cpu}


def hypernetwork(network: str, pair: PhantomPair, device: str) -> dict[str, float]:
    """A network's fields at a new lambda, against the same backbone with weights that do not change."""
    session = LiveSession(network, device)
    session.prepare(pair.fixed, pair.moving, initial="com")
    model, maker = cast(RegistrationModel, session.model), cast(Network, session._maker)
    lambdas = iter(np.linspace(0.001, 0.999, 100 * REPEATS))
    fixed, moving = (image.to(session.device) for image in maker.images)

    def weights_at(lam: float) -> dict[str, Tensor]:
        return model.weights(torch.tensor([lam, *session.values.values()], device=session.device))

    def run(weights: dict[str, Tensor]) -> None:
        for velocity in model.velocities(weights, fixed, moving):
            integrate(velocity)
        if session.device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        unchanged = weights_at(0.3)
        generated, plain = median_costs(lambda: run(weights_at(float(next(lambdas)))), lambda: run(unchanged))
    # Of CPU time, which other programs on the machine disturb least; on a GPU the CPU only waits.
    ratio = generated.cpu / plain.cpu if session.device == "cpu" else generated.wall / plain.wall
    return {"network_field_s": generated.wall, "network_field_cpu_s": generated.cpu, "hyper_over_fixed": ratio}


def slice_views(session: LiveSession, pair: PhantomPair) -> dict[str, float]:
    """Lambda changed -> preview made, transform filled, three views of 512 x 512 resliced: real MRML, no screen."""
    import slicer
    from vtkmodules.util.numpy_support import vtk_to_numpy

    from hyperreg.mrml.geometry import LiveTransform, volume_to_node

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

    def preview(lam: float) -> None:
        live.fill(session.anchors.interpolate(lam, buffer))
        for logic in logics:
            logic.GetImageDataConnection().GetProducer().Update()

    def pictures() -> list[npt.NDArray[np.uint8]]:
        images = [logic.GetImageDataConnection().GetProducer().GetOutput() for logic in logics]
        return [vtk_to_numpy(image.GetPointData().GetScalars()).copy() for image in images]

    whole, changed = preview_cost(preview, pictures)
    lambdas = iter(PREVIEWED)
    (alone,) = median_costs(lambda: session.anchors.interpolate(float(next(lambdas)), buffer), repeats=PREVIEWS)
    return {
        "preview_three_views_ms": 1000 * whole.wall,
        "preview_three_views_cpu_ms": 1000 * whole.cpu,
        "preview_interpolation_ms": 1000 * alone.wall,
        "preview_changed_percent": 100 * changed,
    }


def preview_cost(
    preview: Callable[[float], None], pictures: Callable[[], list[npt.NDArray[np.uint8]]]
) -> tuple[Cost, float]:
    """The cost of a preview, and the smallest share of the pixels of a view that one has changed.

    pictures: what the views show now, each (N, C). They are compared after every preview, outside of its time.
    Raises RuntimeError if a view did not change: what was measured would be no preview.
    """
    clock, changed = Clock(), []
    preview(float(PREVIEWED[0]))
    before = pictures()
    for lam in PREVIEWED[1:]:
        with clock.running():
            preview(float(lam))
        after = pictures()
        changed.append(min(float((old != new).any(-1).mean()) for old, new in zip(before, after, strict=True)))
        before = after
    if min(changed) < LEAST_CHANGE:
        raise RuntimeError(
            f"A view changed in only {100 * min(changed):.3g} % of its pixels when λ did: that is no preview. Do the "
            "views show both volumes?"
        )
    return clock.median, min(changed)


def worker_memory(pair: PhantomPair) -> dict[str, float]:
    """Peak memory of a worker that prepares the pair and computes and measures fields, GB (Linux only, else NaN)."""
    from hyperreg.worker.client import WorkerClient
    from hyperreg.worker.live.registration import LiveRegistration

    client = WorkerClient()
    try:
        live = LiveRegistration(client)
        live.prepare(pair.fixed, pair.moving, device="cpu").wait(WORKER_LIMIT_S)
        live.set_lambda(0.3)
        since = time.monotonic()
        # Full resolution takes the most memory.
        while not live.state.is_final:
            if time.monotonic() - since > WORKER_LIMIT_S:
                raise RuntimeError(f"The worker has not come to full resolution within {WORKER_LIMIT_S:.0f} s.")
            client.poll()
            time.sleep(0.01)
        status = Path(f"/proc/{client.pid}/status")
        lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        return {"worker_peak_gb": peaks[0] / 1024**2 if peaks else float("nan")}
    finally:
        client.stop()


def segmentation(pair: PhantomPair, device: str) -> dict[str, float]:
    """One whole head with `brain-anatomy`, from volume to label map: the second of two runs, once weights are read."""
    segmenter = Segmenter(SEGMENTATION_MODEL, device)
    segmenter.segment({"image": pair.fixed})
    clock = Clock()
    with clock.running():
        segmenter.segment({"image": pair.fixed})
    return {"segmentation_s": clock.median.wall, "segmentation_cpu_s": clock.median.cpu}


def preview_error() -> dict[str, float]:
    """Preview against the field solved at the same lambda, on a brain and a lung, in the quick stage and at full
    resolution: the worst mean and 99th percentile over lambda, mm.

    Measured in the middle between two anchors, where interpolation is worst; at full resolution between those around
    the default lambda, because each field takes long.
    """
    errors: dict[str, list[tuple[float, float]]] = {"quick": [], "full": []}
    for pair in (oasis(*OASIS_PAIRS[0]), lung()):
        session = LiveSession(NO_MODEL, "cpu")
        session.prepare(pair.fixed, pair.moving, initial="com")
        session.fill_anchors()
        lambdas = session.anchors.lambdas.copy()
        for left, right in itertools.pairwise(lambdas):
            middle = session.field((left + right) / 2, session.quick_stage).forward
            errors["quick"].append(difference_mm(session.preview((left + right) / 2), middle))
        at = bisect.bisect_right(lambdas, session.card.default_lambda)
        left, right = (session.field(lam).forward.array for lam in lambdas[at - 1 : at + 1])
        middle = session.field((lambdas[at - 1] + lambdas[at]) / 2).forward
        between = DisplacementField((left + right) / 2, middle.ijk_to_ras)
        errors["full"].append(difference_mm(between, middle))
        _say(f"preview error, {pair.name}: {len(lambdas)} anchors")
    return {
        f"preview_error_{stage}_{name}_mm": max(pair[n] for pair in found)
        for stage, found in errors.items()
        for n, name in enumerate(("mean", "p99"))
    }


def run(device: str = "auto", network: str = NETWORK) -> dict[str, Any]:
    """All of it, a few minutes. What needs real images or Slicer's libraries is left out where they are absent; on a
    GPU, what is the CPU's work in any case (errors of previews, the memory of a worker on the CPU).
    """
    _say("preparing the sample head")
    pair = head_phantom_pair(SHAPE)
    session = LiveSession(NO_MODEL, device)
    session.prepare(pair.fixed, pair.moving, initial="affine")
    found: dict[str, Any] = {
        "network": f"{network} {find_model(network).version}",
        "device": torch.cuda.get_device_name() if session.device == "cuda" else session.device,
        "gpu": session.device == "cuda",
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "shape": "x".join(str(n) for n in SHAPE),
        "field_grid": "x".join(str(n) for n in session.grid.shape),
        "align_s": session.timing["align"],
    }
    _say("fields of every stage")
    found |= stages(session)
    _say("a landmark is dragged")
    found |= dragged_landmark(session)
    _say("a network's fields")
    found |= hypernetwork(network, pair, device)
    _say("anchors of the previews")
    clock = Clock()
    with clock.running():
        session.fill_anchors()
    found["anchors_s"] = clock.median.wall
    found["anchors"] = len(session.anchors)
    if find_spec("slicer") is not None:
        _say(f"previews in three views, between {found['anchors']} anchors")
        found |= slice_views(session, pair)
    _say("segmentation")
    found |= segmentation(pair, device)
    if not found["gpu"]:
        _say("memory of the worker")
        found |= worker_memory(pair)
        if DATA.is_dir():
            found |= preview_error()
    return found


def _say(text: str) -> None:
    """What is being measured: the whole takes minutes."""
    typer.echo(f"speed: {text} [{time.process_time():.0f} CPU-s so far]", err=True)
