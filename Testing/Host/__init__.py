"""Test host: runs Slicer scripted modules without Slicer, on slicer-core and PySide6 (see README.md)."""
