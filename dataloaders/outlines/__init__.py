"""Outlines as other programs write and read them: segments with names and colours, on the voxels of a scan."""
