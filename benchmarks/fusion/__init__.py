"""Label fusion on real images with manual labels: the paper's experiments at our scale, and other people's methods."""
