"""Small synthetic downloads: a patient of four ellipsoids, scanned on any grid, in the files of each dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

CENTRES_MM = {1: (-60, -20, 15), 2: (-45, 50, -20), 3: (50, 50, -15), 4: (65, 10, 20)}    # patient (LPS): left is +x
RADII_MM = {1: (36, 40, 30), 2: (20, 20, 24), 3: (20, 20, 24), 4: (25, 30, 26)}
CHAOS_GREY = {1: 63, 2: 126, 3: 189, 4: 252}
BACKGROUND, STEP = 200, 600      # intensity: BACKGROUND + STEP · label, so 2600 at most, 12 bits
IDENTITY = np.eye(3)


def empty_scan(size=(80, 72, 16), spacing_mm=(3.0, 3.0, 8.0), direction=IDENTITY) -> sitk.Image:
    """An image whose middle is at the patient's origin."""
    image = sitk.Image(size, sitk.sitkInt16)
    image.SetSpacing(spacing_mm)
    image.SetDirection(np.ravel(direction))
    image.SetOrigin(-np.asarray(direction) @ ((np.array(size) - 1) / 2 * spacing_mm))
    return image


def organs(grid: sitk.Image, labels=(1, 2, 3, 4), shrink=1.0) -> np.ndarray:
    """Labels (D, H, W) of the patient's organs, each shrunk about its centre, at the voxels of a grid."""
    z, y, x = np.indices(grid.GetSize()[::-1])
    matrix = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    points = np.stack([x, y, z], axis=-1) @ matrix.T + grid.GetOrigin()
    label_map = np.zeros(x.shape, np.int16)
    for label in labels:
        label_map[(((points - CENTRES_MM[label]) / RADII_MM[label]) ** 2).sum(axis=-1) < shrink**2] = label
    return label_map


def as_image(array: np.ndarray, grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    return image


def scanned(grid: sitk.Image, labels=(1, 2, 3, 4), seed=0) -> tuple[sitk.Image, sitk.Image]:
    """Image (with a little noise) and labels of the patient on a grid."""
    label_map = organs(grid, labels)
    noise = np.random.default_rng(seed).integers(-3, 4, label_map.shape)
    return (as_image((BACKGROUND + STEP * label_map + noise).astype(np.int16), grid), as_image(label_map, grid))


def write_chaos(folder: Path, grid: sitk.Image, order, labels=(1, 2, 3, 4), slope=1, intercept=0, seed=0) -> None:
    """Write a case's T2SPIR folder; the i-th file, number i + 1, is slice order[i] of the grid."""
    image, label_map = scanned(grid, labels, seed)
    values = sitk.GetArrayFromImage(image) // slope * slope + intercept      # what the stored numbers stand for
    grey = np.zeros(values.shape, np.uint8)
    for label, level in CHAOS_GREY.items():
        grey[sitk.GetArrayViewFromImage(label_map) == label] = level
    (folder / "Ground").mkdir(parents=True)
    (folder / "DICOM_anon").mkdir()
    stored = as_image(values.astype(np.uint16 if intercept == 0 else np.int16), grid)
    for number, z in enumerate(order, 1):
        write_dicom(folder / "DICOM_anon" / f"IMG-0004-{number:05d}.dcm", stored, z, number, slope, intercept)
        sitk.WriteImage(sitk.GetImageFromArray(grey[z]), folder / "Ground" / f"IMG-0004-{number:05d}.png")


def write_dicom(path: Path, image: sitk.Image, z: int, number: int, slope=1, intercept=0, series="1.2.3.4") -> None:
    """Write one slice, with its place in the patient, as a 12-bit DICOM file."""
    slice_image = image[:, :, z]
    direction = np.reshape(image.GetDirection(), (3, 3))
    position = image.TransformIndexToPhysicalPoint((0, 0, z))
    tags = {"0008|0016": "1.2.840.10008.5.1.4.1.1.4", "0008|0018": f"{series}.{number}", "0008|0060": "MR",
            "0020|000d": "1.2.3", "0020|000e": series, "0020|0013": str(number),
            "0020|0032": "\\".join(f"{v:.10g}" for v in position),
            "0020|0037": "\\".join(f"{v:.10g}" for v in (*direction[:, 0], *direction[:, 1]))}
    if slope != 1 or intercept:
        tags |= {"0028|1052": str(intercept), "0028|1053": str(slope)}
    for key, value in tags.items():
        slice_image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(path)
    writer.Execute(slice_image)
    if not intercept:      # stored numbers are unsigned and below 4096: say 12 bits, the highest being bit 11
        bits = path.read_bytes()
        for tag, old, new in ((b"\x01\x01", 16, 12), (b"\x02\x01", 15, 11)):
            found = b"\x28\x00" + tag + b"\x02\x00\x00\x00" + bytes([old, 0])
            assert bits.count(found) == 1
            bits = bits.replace(found, found[:-2] + bytes([new, 0]))
        path.write_bytes(bits)


def write_nifti_pair(image_path: Path, label_path: Path, grid: sitk.Image, values=(1, 2, 3, 4), seed=0) -> None:
    """Write a scan and its labels, organ i stored as values[i - 1]."""
    image, label_map = scanned(grid, range(1, len(values) + 1), seed)
    stored = np.array([0, *values], np.int16)[sitk.GetArrayViewFromImage(label_map)]
    for path, volume in ((image_path, image), (label_path, as_image(stored, grid))):
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(volume, path)
