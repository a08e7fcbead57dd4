"""How good the bundled segmentation models are: real images, manual labels, time and memory."""
