"""Surfaces of outlines as binary STL, in mm (LPS, as 3D Slicer reads them by default)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage.measure import marching_cubes

from qnet.dataloaders.geometry import voxel_to_patient
from qnet.util.base.files import replacing

HEADER = b"SPACE=LPS; outlines by qnet"      # Slicer looks for SPACE=
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def write_stl(mask: np.ndarray, image: sitk.Image, path: Path) -> None:
    """Write the closed surface of a (D, H, W) mask on the grid of a scan, half way between voxels inside and outside.

    An empty mask has no triangles.

    Raises:
        OSError: the file cannot be written.
    """
    corners = _corners(mask, voxel_to_patient(image)) if mask.any() else np.empty((0, 3, 3))
    triangles = np.zeros(len(corners), TRIANGLE)
    triangles["corners"] = corners
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    with replacing(path) as partial:
        partial.write_bytes(HEADER.ljust(80, b"\0") + np.uint32(len(triangles)).astype("<u4").tobytes() + triangles.tobytes())


def _corners(mask: np.ndarray, to_patient: np.ndarray) -> np.ndarray:
    """Return the (n, 3, 3) corners of triangles in mm, whose order is seen anticlockwise from outside."""
    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    part = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(part, 0.5, method="lorensen", allow_degenerate=False)
    points = (vertices + low - 1)[:, ::-1] @ to_patient[:3, :3].T + to_patient[:3, 3]
    corners = points[faces]
    return corners if _volume(corners) > 0 else corners[:, ::-1]


def _volume(corners: np.ndarray) -> float:
    """Return six times the volume inside of triangles; it is negative if they are seen clockwise from outside."""
    middle = corners - corners.reshape(-1, 3).mean(axis=0)
    return float(np.einsum("ij,ij->", middle[:, 0], np.cross(middle[:, 1], middle[:, 2])))
