"""Parts of the HyperRegSlicer module: its panel, its parameter node, and what both modules' panels have in common.

What is done with the scene is `hyperreg.mrml`. Import the part that is meant: this package imports nothing itself.
"""
