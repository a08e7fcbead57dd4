"""Search for a network, augmentation, learning rate and loss that fit one's own data (T-AutoML's way)."""
