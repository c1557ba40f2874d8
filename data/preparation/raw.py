"""A case as downloaded, and reading one with NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from qnet.dataloaders.itk import PlaceError, check_image, labels_on
from qnet.dataloaders.reading import read_image, stored_labels
from qnet.dataloaders.resampling import straightened
from qnet.util.base.errors import InputError


@dataclass(frozen=True)
class RawCase:
    """One scan of a download: its files, or in CHAOS the folders of its DICOM slices and PNG masks.

    `label` is None for a user's own scan that nobody has outlined.
    """

    name: str
    image: Path
    label: Path | None


def read_nifti_pair(case: RawCase, *, trust_image_geometry: bool = False) -> tuple[sitk.Image, sitk.Image | None]:
    """Return a case's image and its labels, as whole numbers on the image's grid. None if the case has no label file.

    The axes of the grid are at right angles: a sheared scan, as of a tilted gantry, is resampled.

    Args:
        case: its NIfTI files.
        trust_image_geometry: ignore the labels' own geometry.
    Raises:
        InputError: as `read_image`, `check_image` and `labels_on`.
    """
    image = check_image(read_image(case.image), case.image)
    if case.label is None:
        return straightened(image, None)
    try:
        stored = stored_labels(case.label, image, case.image)
        labels = labels_on(image, stored, case.image, case.label, trust_image_geometry=trust_image_geometry)
    except PlaceError as error:
        remedy = "leave out --trust-image-geometry" if trust_image_geometry else (
            "if only its header is wrong, --trust-image-geometry ignores it")
        raise InputError(f"{error}; {remedy}") from None
    return straightened(image, labels)
