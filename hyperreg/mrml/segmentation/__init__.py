"""Segmentation in the scene: runs in the worker, the segmentations they leave, the way along uncertain places."""
