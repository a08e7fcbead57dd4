"""A Ray cluster on this machine: several raylets, which are as many machines to Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# What workers import: the package, the helpers, and test modules with tasks of their own.
IMPORTED = os.pathsep.join(
    str(path) for path in (REPOSITORY, *(REPOSITORY / "Testing" / "Python" / part for part in ("helpers", "execution")))
)
SMALL = {"memory_gb": 0.05}


@contextmanager
def two_machines() -> Iterator[Any]:
    """Two machines with a CPU each; tests may add more. Its `address` is that of a cluster."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", IMPORTED)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # Ray lets its workers wait for everything else that a busy machine does.
        patch.setenv("RAY_worker_niceness", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()
