"""A network over a whole image: a sliding window, flips, and what is done where memory does not suffice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from hyperreg.errors import Cancelled, OutOfMemory
from hyperreg.machine import is_out_of_memory
from hyperreg.nets.cascade import Cascade
from hyperreg.nets.weights import fast_precision
from hyperreg.reporting import Cancel, Progress

# Half of every window is seen by its neighbours too; the Gaussian's weight at the border is then next to nothing.
OVERLAP = 0.5
# Windows are not made smaller than this: the network would see too little.
SMALLEST_WINDOW = 32

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One rung of the ladder: where the network runs, where its windows are put together, how large they are."""

    device: str
    stitch: str
    window: Triple

    def __str__(self) -> str:
        size = " x ".join(str(n) for n in self.window)
        place = "GPU" if self.device == "cuda" else "CPU"
        together = "" if self.stitch == self.device else ", put together in main memory"
        return f"on the {place} in windows of {size}{together}"


def ladder(device: str, window: Triple, multiple: int = 1) -> list[Step]:
    """What is tried in turn, each wanting less memory (of the GPU, first) than the one before."""
    small = _halved(window, multiple)
    steps = []
    if device == "cuda":
        steps += [Step("cuda", "cuda", window), Step("cuda", "cpu", window), Step("cuda", "cpu", small)]
    steps += [Step("cpu", "cpu", window), Step("cpu", "cpu", small), Step("cpu", "cpu", _halved(small, multiple))]
    return list(dict.fromkeys(steps))


class Prediction:
    """Probabilities of a network over images of any size.

    exclusive: softmax over the channels, else a sigmoid of each. window: sides of the patches, voxels.
    flips: axes along which the image is flipped, in all combinations, and the probabilities averaged.
    others: more networks of the same kind whose probabilities are averaged, too (an ensemble).
    overlap: the share of a window that the next one sees, too. temperature: what logits are divided by.
    steps: after a call, the steps that were tried; the last one is the one that worked.
    progress, cancelled: told and asked before every window.
    """

    def __init__(
        self,
        network: nn.Module,
        window: Triple,
        exclusive: bool,
        device: str = "cpu",
        flips: Sequence[int] = (),
        progress: Progress | None = None,
        cancelled: Cancel | None = None,
        others: Sequence[nn.Module] = (),
        overlap: float = OVERLAP,
        temperature: float = 1.0,
    ) -> None:
        self.networks = [network, *others]
        self.overlap, self.temperature = overlap, temperature
        self.window = window
        self.exclusive = exclusive
        self.device = device
        self.flips = [axes for count in range(len(flips) + 1) for axes in itertools.combinations(flips, count)]
        self.steps: list[Step] = []
        self._progress = progress or (lambda _fraction, _text: None)
        self._cancelled = cancelled or (lambda: False)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (1, C, I, J, K) to probabilities (channels, I, J, K), float32, in main memory.

        Raises OutOfMemory if the last step of the ladder does not fit either; Cancelled.
        """
        multiple = int(getattr(self.networks[0], "multiple", 1))
        rungs = ladder(self.device, _fitting(self.window, images.shape[2:], multiple), multiple)
        self.steps = []
        for step in rungs:
            self.steps.append(step)
            try:
                return self._averaged(images, step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, so that nothing of the failed step is held by its traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise OutOfMemory(
            f"There is not enough memory for an image of {' x '.join(str(n) for n in images.shape[2:])} voxels with "
            "this model, even in the smallest windows. Close other programs, or crop the image."
        )

    def warnings(self) -> list[str]:
        """What the user should know of the last call."""
        if len(self.steps) < 2:
            return []
        return [f"Memory did not suffice {self.steps[0]}; this was computed {self.steps[-1]}."]

    def _averaged(self, images: Tensor, step: Step) -> Tensor:
        total: Tensor | None = None
        for index, (network, axes) in enumerate(itertools.product(self.networks, self.flips)):
            dims = [axis + 2 for axis in axes]
            shown = images.flip(dims) if dims else images
            found = self._probabilities(network.to(step.device), shown, step, index)
            found = found.flip(dims) if dims else found
            total = found if total is None else total.add_(found)
            del found
        assert total is not None  # noqa: S101 (the empty flip is always among them)
        return total.div_(self._runs)[0].cpu()

    @property
    def _runs(self) -> int:
        """How often the whole image is looked at."""
        return len(self.networks) * len(self.flips)

    def _probabilities(self, network: nn.Module, images: Tensor, step: Step, run: int) -> Tensor:
        logits = self._logits(network, images, step, run)
        if self.temperature != 1:
            logits /= self.temperature
        if not self.exclusive:
            return logits.sigmoid_()
        # torch.softmax would need room for a second copy: the largest array there is.
        logits -= logits.amax(1, keepdim=True)
        logits.exp_()
        logits /= logits.sum(1, keepdim=True)
        return logits

    def _logits(self, network: nn.Module, images: Tensor, step: Step, run: int) -> Tensor:
        if not isinstance(network, Cascade):
            return self._slide(network, images, step, run)
        # Stage 2 looks at one window, where stage 1 found most.
        coarse = self._slide(network.first, images, step, run)
        patches, corners = network.second_input(images.to(coarse.device), coarse)
        fine = self._run(network.second, patches.to(step.device), step)
        return network.pasted(fine.to(coarse.device), coarse, corners)

    def _run(self, network: nn.Module, patch: Tensor, step: Step) -> Tensor:
        if self._cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        precision = fast_precision(step.device)
        # Channels last: a quarter faster on a CPU.
        patch = patch.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(step.device, precision, enabled=precision != torch.float32):
            logits: Tensor = network(patch)
        return logits.float()

    def _slide(self, network: nn.Module, images: Tensor, step: Step, run: int) -> Tensor:
        counted = 0
        every = window_count(images.shape[2:], step.window, self.overlap)

        def predict(patch: Tensor) -> Tensor:
            nonlocal counted
            self._progress((run + counted / every) / self._runs, "Segmenting")
            counted += 1
            return self._run(network, patch, step)

        found: Tensor = sliding_window_inference(
            images,
            step.window,
            1,
            predict,
            overlap=self.overlap,
            mode="gaussian",
            sw_device=step.device,
            device=step.stitch,
        )
        return found


def window_count(shape: Sequence[int], window: Triple, overlap: float) -> int:
    """How many windows MONAI's inferer looks at."""
    count = 1
    for size, side in zip(shape, window, strict=True):
        if size > side:
            interval = max(1, int(side * (1 - overlap)))
            count *= math.ceil((size - side) / interval) + 1
    return count


def _fitting(window: Triple, shape: Sequence[int], multiple: int) -> Triple:
    """The window, no larger than the image, with sides that the network takes.

    Twice the multiple at least: a norm over the one voxel that would be left at the bottom has nothing to norm.
    """
    i, j, k = (
        min(max(side, multiple), max(2 * multiple, math.ceil(size / multiple) * multiple))
        for side, size in zip(window, shape, strict=True)
    )
    return i, j, k


def _halved(window: Triple, multiple: int) -> Triple:
    least = math.ceil(SMALLEST_WINDOW / multiple) * multiple
    i, j, k = (side if side <= least else max(least, side // 2 // multiple * multiple) for side in window)
    return i, j, k
