"""Fixtures of the tests of the browser app's segmentation panel: its own app."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

import importlib.util

# Where it is missing, the tests say so and are skipped.
if importlib.util.find_spec("trame") is not None:
    from view_segmentation_bench import app, images, models, module_app
