"""What all logics have in common: what they can be doing, and callbacks that nobody has set."""

from __future__ import annotations

from typing import Any

# Nothing; the worker prepares or computes; λ moves a registration.
IDLE, RUNNING, LIVE = "idle", "running", "live"


def ignore(*_anything: Any) -> None:
    """The callback of who does not want to know."""
