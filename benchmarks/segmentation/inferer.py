"""The sliding window against MONAI's own inferer: one network, one image, one window, turn by turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.pairs import DATA
from benchmarks.speed import median_costs
from hyperreg.imaging.files import read_volume
from hyperreg.nets.weights import fast_precision
from hyperreg.segmentation.catalogue import find_model
from hyperreg.segmentation.inputs import check_inputs, show
from hyperreg.segmentation.model import load_model
from hyperreg.segmentation.prediction import OVERLAP, Prediction, Triple

# Windows to compare with, as parts of the model's: its own, which takes in nearly a whole brain, and a smaller one that
# slides over it many times.
WINDOWS: dict[str, float] = {"own window": 1.0, "half window": 0.5}
REPEATS = 5


def run(subject: str, model: str, share: float, threads: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Median CPU-seconds of each, their ratio, and how far the probabilities differ at most.

    MONAI's inferer gets the same network, window, overlap and Gaussian, and its softmax; its precision is torch's
    default, float32.
    """
    torch.set_num_threads(threads)
    card = find_model(model)
    volume = read_volume(DATA / "brain_oasis" / f"{subject}_T1_brain.nii.gz")
    images, _ = show(check_inputs({card.inputs[0].name: volume}, card, []), card, None, [])
    network = load_model(card)
    multiple = int(getattr(network, "multiple", 1))
    i, j, k = (max(multiple, int(side * share) // multiple * multiple) for side in card.window)
    window: Triple = (i, j, k)
    ours = Prediction(network, window, card.exclusive)
    theirs = SlidingWindowInferer(window, 1, OVERLAP, "gaussian")

    @torch.inference_mode()
    def monai() -> torch.Tensor:
        found: torch.Tensor = theirs(images, network)  # type: ignore[assignment]
        return found.softmax(1)[0]

    one, two = ours(images), monai()
    mine, their = median_costs(lambda: ours(images), monai, repeats=repeats)
    return {
        "ours_cpu_s": mine.cpu,
        "monai_cpu_s": their.cpu,
        "ratio": mine.cpu / their.cpu,
        "largest_difference": float(np.abs(one.numpy() - two.numpy()).max()),
        "shape": "x".join(str(n) for n in images.shape[2:]),
        "window": "x".join(str(n) for n in window),
        "precision": str(fast_precision("cpu")).removeprefix("torch."),
        "threads": threads,
    }
