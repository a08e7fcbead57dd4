"""The real worker with toy networks (`segmentation_bench`), and three that misbehave: tests run it in its place."""

from __future__ import annotations

import os
import signal
import time

from segmentation_bench import NETWORKS, Bands
from torch import Tensor

from hyperreg.segmentation import model
from hyperreg.worker.operations import standard_operations
from hyperreg.worker.server import main


class Slow(Bands):
    """Takes its time over every window, as a large network on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.1)
        return super().forward(x)


def deaf() -> Bands:
    """Hears of no cancellation while it is made, as a computer that is too busy."""
    time.sleep(60)
    return Bands()


class Deadly(Bands):
    """Takes the process with it, as when the system runs out of memory."""

    def forward(self, x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


MORE = {
    "slow": lambda _inputs, _channels, _exclusive: Slow(),
    "deaf": lambda _inputs, _channels, _exclusive: deaf(),
    "deadly": lambda _inputs, _channels, _exclusive: Deadly(),
}

if __name__ == "__main__":
    model.NETWORKS.update({**NETWORKS, **MORE})
    main(standard_operations())
