"""Slicer's translation of what the user reads; slicer-core has none, and there the words stay English."""

from __future__ import annotations

try:
    # The function itself, not a wrapper: it finds a text's context by the file of its caller.
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        """The text as it is."""
        return text
