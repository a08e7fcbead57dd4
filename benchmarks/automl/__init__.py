"""Search for a network on real data: what a predictor of pairs is worth, and what the search finds."""
