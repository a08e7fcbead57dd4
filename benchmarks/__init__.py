"""Measurements on real images and side-by-side speed ratios; `python -m benchmarks --help`. Never part of the tests."""
