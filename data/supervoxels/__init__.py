"""Pseudo-labels: supervoxels in 3D, superpixels in 2D."""
