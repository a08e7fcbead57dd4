"""Fixtures of the tests of the browser app."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

import importlib.util

# Where it is missing, the tests say so and are skipped.
if importlib.util.find_spec("trame") is not None:
    from view_app_bench import app, module_app, pair, pair_files
if importlib.util.find_spec("playwright") is not None:
    from browser_bench import browser
