"""Augmentation of an episode's slices. Parameters are drawn once. Their application involves no chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

cv2.setNumThreads(0)   # the loader has several workers instead

MAX_ROTATION_DEG, MAX_SHIFT_PX, MAX_SHEAR_DEG, ZOOM = 5.0, 5.0, 5.0, (0.9, 1.2)
ELASTIC_SIGMA_PX, ELASTIC_KERNEL_PX, ELASTIC_STRENGTH_PX = 5.0, 21, 10.0
GAMMA, GAMMA_EPS = (0.5, 1.5), 1e-5


def gamma_transform(image: np.ndarray, gamma: float) -> np.ndarray:
    """Return range·((x − min + 1e-5)/range)^γ + min, where range is max − min + 1e-5 of the image (any shape), as float32."""
    low = image.min()
    span = image.max() - low + GAMMA_EPS
    scaled = np.subtract(image, low, dtype=np.float32)
    scaled += GAMMA_EPS
    scaled /= span
    cv2.pow(scaled, gamma, dst=scaled)
    scaled *= span
    scaled += low
    return scaled


def affine_matrix(rotation_deg: float, shift_x_px: float, shift_y_px: float, shear_deg: float, zoom: float,
                  size: tuple[int, int]) -> np.ndarray:
    """Return the 3×3 matrix (float32, as published) that takes an input point (x, y, 1) to its output point.

    The order is rotation about the centre (W/2, H/2), shift, shear about the corner, zoom about the centre. `size` is (H, W).
    """
    def centred(matrix: np.ndarray) -> np.ndarray:
        y, x = size[0] / 2, size[1] / 2
        there, back = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]), np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
        return there @ matrix @ back

    angle, shear = -np.deg2rad(rotation_deg), np.deg2rad(shear_deg)
    rotate = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    shift = np.array([[1, 0, shift_x_px], [0, 1, shift_y_px], [0, 0, 1]])
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    return (centred(np.diag([zoom, zoom, 1.0])) @ slant @ shift @ centred(rotate)).astype(np.float32)


def affine_source_points(matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the input point of each output pixel, x and y, each (H, W), in steps of 1/32 pixel.

    The steps and their fixed-point sums are those of warpAffine in OpenCV 4, which the published code used.

    Args:
        matrix: 3×3, from input to output.
        size: (H, W).
    """
    (a, b, c), (d, e, f) = cv2.invertAffineTransform(matrix[:2].astype(np.float64))
    columns, rows = np.arange(size[1]), np.arange(size[0])[:, None]

    def fixed_point(values: np.ndarray) -> np.ndarray:
        return np.rint(values * 1024).astype(np.int32)

    def points(of_row: np.ndarray, of_column: np.ndarray) -> np.ndarray:
        steps = (fixed_point(of_row) + 16 + fixed_point(of_column)) >> 5
        return np.multiply(steps, np.float32(1 / 32), dtype=np.float32, casting="unsafe")

    return points(b * rows + c, a * columns), points(e * rows + f, d * columns)


def uniform_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniform noise in ±1 (float32) in 65,536 steps. Each 64-bit draw gives four values, as drawing is expensive."""
    n = int(np.prod(shape))
    noise: np.ndarray = rng.bit_generator.random_raw(-(-n // 4)).view(np.int16)[:n].astype(np.float32)
    noise += 0.5
    noise /= 2**15
    return noise.reshape(shape)


def elastic_source_points(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the input point of each output pixel, x and y, each (H, W), from (2, H, W) noise in ±1, x before y."""
    def points(start: np.ndarray, field: np.ndarray) -> np.ndarray:
        shift: np.ndarray = cv2.GaussianBlur(field, (ELASTIC_KERNEL_PX, ELASTIC_KERNEL_PX), ELASTIC_SIGMA_PX)
        shift *= ELASTIC_STRENGTH_PX
        shift += start
        return shift

    _, height, width = noise.shape
    rows, columns = np.indices((height, width), dtype=np.float32, sparse=True)
    noise = noise.astype(np.float32, copy=False)
    return points(columns, noise[0]), points(rows, noise[1])


@dataclass(frozen=True)
class Geometry:
    """One draw of the geometric augmentation: affine (zero border), then elastic (reflecting border), both bilinear."""

    matrix: np.ndarray   # 3×3, as `affine_matrix` gives it
    noise: np.ndarray    # (2, H, W) in ±1

    @classmethod
    def sample(cls, rng: np.random.Generator, size: tuple[int, int]) -> Geometry:
        """Draw the parameters for slices of size (H, W)."""
        rotation, shift_x, shift_y, shear = rng.uniform(-1, 1, 4) * (
            MAX_ROTATION_DEG, MAX_SHIFT_PX, MAX_SHIFT_PX, MAX_SHEAR_DEG)
        matrix = affine_matrix(rotation, shift_x, shift_y, shear, rng.uniform(*ZOOM), size)
        return cls(matrix, uniform_noise(rng, (2, *size)))

    @cached_property
    def _source_points(self) -> list[tuple[tuple[np.ndarray, np.ndarray], int]]:
        _, height, width = self.noise.shape
        return [(affine_source_points(self.matrix, (height, width)), cv2.BORDER_CONSTANT),
                (elastic_source_points(self.noise), cv2.BORDER_REFLECT)]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Warp an (H, W) image. The result is float32."""
        image = image.astype(np.float32, copy=False)
        for (x, y), border in self._source_points:
            image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=border)
        return image

    def apply_to_mask(self, mask: np.ndarray) -> np.ndarray:
        """Warp an (H, W) bool mask and round it to float32 0 and 1. Only the part that the mask can reach is computed."""
        affine, elastic = self._reach(mask)
        warped, out = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
        if warped[affine].size:
            ((x, y), zero), ((u, v), reflecting) = self._source_points
            warped[affine] = cv2.remap(mask.astype(np.float32), x[affine], y[affine], cv2.INTER_LINEAR, borderMode=zero)
            out[elastic] = np.round(cv2.remap(warped, u[elastic], v[elastic], cv2.INTER_LINEAR, borderMode=reflecting))
        return out

    def _reach(self, mask: np.ndarray) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns that a mask's pixels can reach by the affine transform, and by both transforms.

        Interpolation reaches less than 1 pixel, points are rounded by less than 1 pixel, and blurred noise stays in ±1.
        """
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        corners = np.array([[x, y, 1] for x in (left - 1, left + width) for y in (top - 1, top + height)]) @ self.matrix[:2].T
        low, high = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 2

        def window(margin: int) -> tuple[slice, slice]:
            rows, columns = (slice(max(0, low[k] - margin), max(0, high[k] + margin)) for k in (1, 0))
            return rows, columns

        return window(0), window(math.ceil(ELASTIC_STRENGTH_PX) + 1)
