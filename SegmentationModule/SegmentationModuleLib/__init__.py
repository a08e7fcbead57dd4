"""What the segmentation module is made of. Logic and everything below it needs no Qt: the browser app uses it too.

What both modules share (installation, worker, geometry, texts) is in HyperRegSlicerLib.
"""
