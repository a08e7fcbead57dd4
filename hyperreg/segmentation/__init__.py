"""Segmentation: models and their cards, inference on any grid, what is written, volumes of structures."""
