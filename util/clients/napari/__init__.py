"""The napari plugin: `napari.yaml` is its manifest, `widget.py` what it adds, `voxels.py` turns scans as napari shows them."""
