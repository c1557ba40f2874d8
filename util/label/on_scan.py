"""Outlines from files, on the grid of a scan as the page has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.itk import labels_on
from qnet.dataloaders.nifti import read_nifti
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.segments import Outlines, in_terms_of
from qnet.dataloaders.reading import stored_labels


def read_labels(image: Path, labels: Path) -> np.ndarray:
    """Return the (D, H, W) int16 label map of a scan.

    Raises:
        InputError: the file is damaged, or does not fit the scan.
    """
    grid = _grid_of(image)
    return sitk.GetArrayFromImage(labels_on(grid, stored_labels(labels, grid, image), image, labels))


def read_outlines(image: Path, labels: Path, scan: Path, known: Mapping[int, str]) -> Outlines:
    """Return the outlines of a scan, from any kind of file, on the grid of the page's image of it.

    Args:
        scan: the path of the scan itself, which may be a DICOM series.
        known: the names of classes.
    Raises:
        InputError: as `stored_outlines`.
    """
    grid = _grid_of(image)
    stored = stored_outlines(labels, grid, scan)
    return in_terms_of(known, replace(stored, labels=labels_on(grid, stored.labels, scan, labels)), labels)


@lru_cache(maxsize=2)       # of the scan that is drawn on, stroke by stroke
def _grid_of(image: Path) -> sitk.Image:
    """Return an empty image on the grid of a scan."""
    scan = read_nifti(image)
    grid = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    grid.CopyInformation(scan)
    return grid
