"""Patients with two sequences: one organ stands out in the first alone, the other in the second alone."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

SHAPE, MM = (14, 40, 44), (4.0, 2.0, 2.0)


def patient(down: float = 0.0, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two channels (D, H, W) and a label map.

    Args:
        down: how many mm the first organ lies lower than usual; the second lies so much higher.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, MM, strict=True)), indexing="ij"))

    def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        return (((points - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(axis=0) < 1

    body, one, two = ball((0, 0, 0), (60, 36, 40)), ball((0, down, -16), (14, 13, 11)), ball((2, -down, 16), (16, 10, 12))
    channels = [body * (0.4 + 0.35 * one), body * (0.5 - 0.3 * two)]
    noisy = [(image + 0.02 * body * rng.standard_normal(SHAPE)).clip(0) * 1000 for image in channels]
    return [image.astype(np.float32) for image in noisy], (one + 2 * two).astype(np.int16)


def save(array: np.ndarray, path: Path, shift_mm: float = 0.0) -> Path:
    """Write (D, H, W) values as NIfTI."""
    affine = np.diag([*MM[::-1], 1.0])
    affine[0, 3] = shift_mm
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path
