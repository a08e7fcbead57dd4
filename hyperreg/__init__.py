"""HyperReg: live, λ-conditioned image registration (plain Python engine, without slicer, qt or trame)."""

__version__ = "0.1.0"
