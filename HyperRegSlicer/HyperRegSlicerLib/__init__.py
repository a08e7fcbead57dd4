"""Parts of the HyperRegSlicer module.

Geometry, Logic and Views need MRML and VTK only (the browser app uses them too); Parameters needs Slicer's parameter
nodes; Install and Widget need Slicer with its Qt. Import the part that is meant: this package imports nothing itself.
"""
