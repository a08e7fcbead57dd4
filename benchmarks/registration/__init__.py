"""Registration methods side by side on real pairs: the same images, the same threads, the same measurements."""
