"""Clients of the labelling page's server: for Python, for 3D Slicer and for napari."""
