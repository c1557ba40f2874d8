"""Scans in every orientation with outlines that have holes, corners and single voxels, and what other programs read of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.kinds import SPACING, grid, patient, rotation, save, write_slices

SHAPE = (24, 20, 9)
NAMES = {1: "liver", 2: "left/right kidney", 3: "spleen", 7: "ring"}
COLOURS = {1: "#e69f00", 2: "#56b4e9", 3: "#123456", 7: "#ffffff"}


def tilted() -> np.ndarray:
    """The slices of a gantry that is tilted by 20 degrees."""
    affine = grid(shape=SHAPE, axes="LPS")
    affine[1, 2] = -np.tan(np.deg2rad(20)) * SPACING[2]
    return affine


PLACES = {"axial": grid(shape=SHAPE, axes="LPS"), "sagittal": grid(shape=SHAPE, axes="PIR"),
          "coronal": grid(shape=SHAPE, axes="LIP"),
          "oblique": grid(shape=SHAPE, axes="LPS", turn=rotation(0, 25) @ rotation(2, 17)),
          "mirrored": grid(shape=SHAPE, axes="RPI"), "tilted": tilted()}


def outlines() -> np.ndarray:
    """(D, H, W) outlines: a block, one at two edges of the scan, a ring with an island, and pixels that touch at corners."""
    labels = np.zeros(SHAPE[::-1], np.uint8)
    labels[1:4, 3:8, 2:9] = 1
    labels[6:9, 14:20, 16:24] = 2
    labels[3:6, 10:17, 4:13] = 7
    labels[3:5, 12:15, 6:8] = labels[3:6, 11:16, 10:12] = 0
    labels[4, 13, 6] = 7
    labels[5, 2, 12] = labels[5, 3, 13] = labels[5, 4, 12] = labels[5, 5, 13] = labels[0, 0, 0] = 3
    return labels


def series(folder: Path, affine: np.ndarray) -> Path:
    return write_slices(folder / "series", patient(affine, SHAPE)[0], affine)


def nifti(folder: Path, affine: np.ndarray) -> Path:
    return save(patient(affine, SHAPE)[0], affine, folder / "scan.nii.gz")


def run(program: str, *arguments: object) -> None:
    """Run a program of the environment."""
    done = subprocess.run([str(Path(sys.executable).with_name(program)), *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]


def voxels_in(mask: np.ndarray, to_patient: np.ndarray, affine: np.ndarray) -> set[tuple[int, ...]]:
    """Return the indices (x, y, z) on a scan's grid of the voxels of a mask that another program read.

    Args:
        mask: (x, y, z).
        to_patient: its matrix to millimetres, RAS+.
        affine: of the scan.
    """
    to_scan = np.linalg.inv(affine) @ to_patient
    index = np.argwhere(mask) @ to_scan[:3, :3].T + to_scan[:3, 3]
    assert np.abs(index - np.rint(index)).max() < 0.02
    return set(map(tuple, np.rint(index).astype(int).tolist()))


def image_voxels(path: Path, affine: np.ndarray) -> set[tuple[int, ...]]:
    """Return `voxels_in` of an image that a program wrote, as SimpleITK places it."""
    image = sitk.ReadImage(path)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return voxels_in(sitk.GetArrayFromImage(image).T > 0, np.diag([-1, -1, 1, 1]) @ matrix, affine)
