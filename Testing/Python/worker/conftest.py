"""Fixtures of the tests of the worker."""

# ruff: noqa: F401 (fixtures are found by their names)

from __future__ import annotations

from worker_bench import client, live
