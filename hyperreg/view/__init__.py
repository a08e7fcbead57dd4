"""The browser app: a live λ slider over slice views, for who has no 3D Slicer at hand."""

from __future__ import annotations

from typing import Any


def import_libraries() -> None:
    """Imports all that `serve` needs, which takes a second; see `hyperreg.view.app.import_libraries`."""
    from hyperreg.view import app

    app.import_libraries()


def serve(*arguments: Any, **options: Any) -> None:
    """Serves the app until it is interrupted; see `hyperreg.view.app.serve`."""
    from hyperreg.view import app  # slicer-core takes a second to load: only for who wants it

    app.serve(*arguments, **options)
