"""Fixtures of the tests of both modules: the host that runs them."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

import importlib.util

# Where it is missing, the tests say so and are skipped.
if importlib.util.find_spec("PySide6") is not None:
    from Testing.Host.fixtures import ctk, host, qt, scene
