"""A scan made ready for the page, in a process of its own: a copy as NIfTI if it is none, and a small picture for the list.

    python -m qnet.util.label.preparing < job.json

A job is {"scan": path, "copy": path or null, "picture": path}. The process ends when its standard input does, so it does not
outlive the server, which goes on answering meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.itk import check_image
from qnet.dataloaders.nifti import save
from qnet.dataloaders.reading import files_of, read_image
from qnet.util.base.checksums import digest
from qnet.util.base.errors import InputError
from qnet.util.base.root import module_command
from qnet.util.base.system import yield_to_others
from qnet.util.label.apart import do_job, failure_of

MODULE = "qnet.util.label.preparing"
PICTURE_PX = 64             # longer side
WINDOW = (1, 99.5)          # percentiles of the slice, dark and bright
THICK = 1.5                 # times the finest spacing: slices that are looked at across that axis
OPACITY = 0.6               # of the outlines


def prepare(scan: Path, copy: Path | None, picture: Path) -> None:
    """Write a scan as NIfTI to `copy`, if that is a path, and its picture, a PNG.

    Raises:
        InputError: the scan cannot be used.
        OSError: a file cannot be written.
    """
    image = check_image(read_image(scan), scan)
    if copy is not None:
        save(image, copy)
    picture.write_bytes(picture_of(image))


def prepare_apart(scan: Path, copy: Path | None, picture: Path) -> None:
    """Do as `prepare`, in another process.

    Raises:
        InputError: as there, or the process ended otherwise.
    """
    job = {"scan": str(scan), "copy": None if copy is None else str(copy), "picture": str(picture)}
    if (why := failure_of(module_command(MODULE), job, f"{scan}: could not be read, status")) is not None:
        raise InputError(why)


def picture_of(image: sitk.Image, labels: sitk.Image | None = None, colours: Mapping[int, str] | None = None) -> bytes:
    """Return a small picture of a scan, PNG: of the slice with most of its outlines, or of the middle one.

    The slice is axial, or lies across the axis of thick slices. The patient's right or front is on the left, and the front or
    the head above.

    Args:
        labels: on its grid.
        colours: of the values, as "#e69f00". Others are not shown.
    """
    turned = sitk.DICOMOrient(image, "LPS")
    spacing, shown = np.array(turned.GetSpacing()[::-1]), dict(colours or {})
    axis = int(spacing.argmax()) if spacing.max() > THICK * spacing.min() else 0
    held = None if labels is None else sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS"))
    others = tuple(one for one in range(3) if one != axis)
    n_held = np.zeros(1) if held is None else np.isin(held, list(shown)).sum(axis=others)
    number = int(n_held.argmax()) if n_held.any() else turned.GetSize()[2 - axis] // 2
    plane = np.take(sitk.GetArrayViewFromImage(turned), number, axis).astype(np.float32)
    low, high = np.percentile(plane, WINDOW)
    grey = ((plane - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)
    size = _size_px(grey.shape, spacing[list(others)])
    coloured = cv2.cvtColor(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    in_plane = np.zeros_like(grey) if held is None else np.take(held, number, axis)
    for value, colour in shown.items():
        mask = cv2.resize((in_plane == value).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        bgr = [int(colour[start:start + 2], 16) for start in (5, 3, 1)]
        coloured[mask] = ((1 - OPACITY) * coloured[mask] + OPACITY * np.array(bgr)).astype(np.uint8)
    upright = coloured if axis == 0 else coloured[::-1]
    return cv2.imencode(".png", upright, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _size_px(shape: tuple[int, ...], spacing_mm: np.ndarray) -> tuple[int, int]:
    """Return width and height of a picture of a plane (rows, columns)."""
    height, width = np.array(shape) * spacing_mm
    scale = PICTURE_PX / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def stamp_of(scan: Path) -> str:
    """Return a short text that changes when the files of a scan do, by their sizes and times.

    Raises:
        InputError, OSError: they cannot be found.
    """
    states = [(file.name, status.st_size, status.st_mtime_ns) for file in files_of(scan) if (status := file.stat())]
    return digest(states)[:16]


def main() -> int:
    """Run the process and return its exit status."""
    yield_to_others(5)      # the page comes first
    return do_job(lambda job: prepare(Path(job["scan"]), Path(job["copy"]) if job["copy"] else None, Path(job["picture"])))


if __name__ == "__main__":
    sys.exit(main())
