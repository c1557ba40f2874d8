"""A case as it was downloaded, and reading one whose files are NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from dataloaders.itk import check_image, labels_on
from dataloaders.nifti import read_nifti


@dataclass(frozen=True)
class RawCase:
    """One scan of a download: files, or in CHAOS the folders of its DICOM slices and of its PNG masks.

    `label` is None for an own scan that nobody has outlined.
    """

    name: str
    image: Path
    label: Path | None


def read_nifti_pair(case: RawCase, *, trust_image_geometry: bool = False) -> tuple[sitk.Image, sitk.Image | None]:
    """Return a case's image and its labels, as whole numbers on the image's grid; None where the case has no label file.

    Args:
        case: its NIfTI files.
        trust_image_geometry: give the labels the image's geometry whatever their own file says.
    Raises:
        InputError: as `read_nifti`; an image with values that are not finite, or all equal; labels that are not whole
            numbers, or whose size or place in the patient is not the image's.
    """
    image = check_image(read_nifti(case.image), case.image)
    if case.label is None:
        return image, None
    return image, labels_on(image, read_nifti(case.label), case.image, case.label, trust_image_geometry=trust_image_geometry)
