"""Scans and outlines as napari shows them, and back: head first, the front above, the patient's left on the right."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

SHOWN = axcodes2ornt("LPS")     # of an array (x, y, z); napari gets (z, y, x)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a scan lie.

    Attributes:
        affine: (4, 4), from voxels of the NIfTI file to mm, RAS+.
        shape: (x, y, z) of the file.
    """

    affine: np.ndarray
    shape: tuple[int, ...]

    @property
    def scale(self) -> tuple[float, ...]:
        """Spacing in mm of the axes that are shown, (z, y, x)."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(spacing[np.flatnonzero(io_orientation(self.affine)[:, 0] == axis)[0]]) for axis in (2, 1, 0))

    def shown(self, voxels: np.ndarray) -> np.ndarray:
        """Return an array (x, y, z) of the file as napari shows it, (z, y, x)."""
        return apply_orientation(voxels, ornt_transform(io_orientation(self.affine), SHOWN)).T

    def of_file(self, shown: np.ndarray) -> np.ndarray:
        """Return what is shown as an array of the file: the inverse of `shown`."""
        return apply_orientation(shown.T, ornt_transform(SHOWN, io_orientation(self.affine)))


def read(content: bytes) -> tuple[np.ndarray, Grid]:
    """Return the values in the content of a NIfTI file as napari shows them, (z, y, x), and their grid."""
    image = nibabel.Nifti1Image.from_bytes(content)
    grid = Grid(image.affine, image.shape)
    return grid.shown(np.asarray(image.dataobj)), grid


def write(shown: np.ndarray, grid: Grid) -> bytes:
    """Return a (z, y, x) label map, as napari shows it, as the content of a NIfTI file on the voxels of a scan."""
    return nibabel.Nifti1Image(grid.of_file(shown).astype(np.uint8), grid.affine).to_bytes()
