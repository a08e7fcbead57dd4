"""Fixtures of the tests of the registration module."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

import importlib.util

# Where it is missing, the tests say so and are skipped.
if importlib.util.find_spec("PySide6") is not None:
    from mrml_bench import bench, make_bench, points
    from slicer_module_bench import module, opened
