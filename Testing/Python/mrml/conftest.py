"""Fixtures of the tests of the scene logic."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

import importlib.util

# Where it is missing, the tests say so and are skipped.
if importlib.util.find_spec("slicer") is not None:
    from mrml_bench import bench, make_bench, points
