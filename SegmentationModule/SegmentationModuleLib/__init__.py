"""Parts of the segmentation module: its panels and its parameter node.

What is done with the scene is `hyperreg.mrml`; what both modules' panels have in common is in HyperRegSlicerLib.
"""
