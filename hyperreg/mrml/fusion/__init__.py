"""Fusion in the scene: atlases and segmentations of several readers, the consensus they leave."""
