"""Scans and outlines as scanners and people leave them: a patient of ellipsoids, written with one oddity each."""

from __future__ import annotations

import gzip
import logging
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ORGANS = {1: ((60, 20, 15), (36, 40, 30)), 2: ((45, -50, -20), (20, 20, 24)),        # RAS+: centre and radii in mm
          3: ((-50, -50, -15), (20, 20, 24)), 4: ((-65, -10, 20), (25, 30, 26))}
BODY_MM = (125, 100, 200)
SHAPE, SPACING = (44, 36, 14), (6.0, 6.0, 9.0)
Affine = np.ndarray


def grid(spacing=SPACING, shape=SHAPE, axes="LAS", turn: np.ndarray | None = None) -> Affine:
    """The affine of a grid around the patient's middle, its axes in these directions."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ (np.array([directions[axis] for axis in axes], float).T * spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def rotation(axis: int, degrees: float) -> np.ndarray:
    a, turn = np.deg2rad(degrees), np.eye(3)
    i, k = [n for n in range(3) if n != axis]
    turn[[i, i, k, k], [i, k, i, k]] = [np.cos(a), -np.sin(a), np.sin(a), np.cos(a)]
    return turn


def patient(affine: Affine, shape=SHAPE, case=0) -> tuple[np.ndarray, np.ndarray]:
    """Image, float32, and labels (x, y, z) of a patient on a grid. Cases differ a little."""
    rng = np.random.default_rng(case)
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3] - rng.normal(0, 3, 3)
    image = np.where(((points / BODY_MM) ** 2).sum(axis=-1) < 1, 300.0, 5.0)
    labels = np.zeros(shape, np.uint8)
    for label, (centre, radii) in ORGANS.items():
        inside = (((points - centre) / radii) ** 2).sum(axis=-1) < 1
        labels[inside], image[inside] = label, 400 + 150 * label
    return np.abs(image + rng.normal(0, 12, shape)).astype(np.float32), labels


def save(array: np.ndarray, affine: Affine, path: Path, change: Callable[[Any], None] | None = None) -> Path:
    """Write NIfTI-1 with sform and qform; `change` alters the header and nothing else of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    if change is not None:
        header = nibabel.Nifti1Header(bytes(content[:348]))
        change(header)
        content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if path.name.lower().endswith(".gz") else bytes(content))
    return path


def write_slices(folder: Path, array: np.ndarray, affine: Affine, *, series="1", each: Callable[[int], dict] | None = None,
                 name="IM{:04d}.dcm", **options: Any) -> Path:
    """Write (x, y, z) stored numbers as a DICOM series. `each` gives more options for slice k: see `_slice`."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(array.shape[2]):
        more = {"values": array[:, :, k], **options, **(each(k) if each else {})}
        _slice(affine, k, series, **more).save_as(folder / name.format(k + 1), enforce_file_format=True)
    return folder


def _slice(affine: Affine, k: int, series: str, values: np.ndarray, *, slope=1.0, spacing=None, axes=None, colour=False,
           tags: dict | None = None) -> Dataset:
    head, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{k + 1}"
    head.file_meta, head.SOPClassUID, head.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    head.Modality, head.StudyInstanceUID, head.SeriesInstanceUID, head.InstanceNumber = "MR", "1.2.3", f"1.2.4.{series}", k + 1
    lps = np.diag([-1, -1, 1, 1]) @ affine
    x_mm, y_mm = np.linalg.norm(lps[:3, :2], axis=0)
    position = (lps @ [0, 0, k, 1])[:3]
    head.ImagePositionPatient = [f"{value:.9g}" for value in position]
    head.ImageOrientationPatient = [f"{value:.9g}" for value in axes or [*(lps[:3, 0] / x_mm), *(lps[:3, 1] / y_mm)]]
    head.PixelSpacing = spacing or [f"{y_mm:.9g}", f"{x_mm:.9g}"]
    stored = np.round(values).T.astype(np.uint16)
    head.Rows, head.Columns = stored.shape
    head.SamplesPerPixel, head.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    head.BitsAllocated = head.BitsStored = 8 if colour else 16
    head.HighBit, head.PixelRepresentation = head.BitsStored - 1, 0
    head.RescaleSlope, head.RescaleIntercept = f"{slope:.9g}", "0"
    if colour:
        head.PlanarConfiguration = 0
        stored = np.repeat((stored // 8).astype(np.uint8)[..., None], 3, axis=-1)
    head.PixelData = stored.tobytes()
    for key, value in (tags or {}).items():
        setattr(head, key, value)
    return head


# ---- kinds of scans: written into a folder under a name; the result is right, or the reason has these words ----

@dataclass(frozen=True)
class Kind:
    """How a scan is written, and what is said of it; None: it comes out right."""

    write: Callable[[Path], Path]       # of the path without an ending; returns the file or folder
    says: str | None = None
    page: str | None = "as the others"      # what the list of the labelling page says at once, where that is less


def nifti(change=None, affine: Affine | None = None, ending=".nii.gz", shape=SHAPE, dtype=np.int16) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        place = grid(shape=shape) if affine is None else affine
        return save(patient(place, shape, 1)[0].astype(dtype), place, base.with_name(base.name + ending), change)
    return write


def itk(ending: str) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        place = np.diag([-1, -1, 1, 1]) @ grid()
        image = sitk.GetImageFromArray(patient(grid(), SHAPE, 1)[0].astype(np.int16).T)
        image.SetSpacing(SPACING)
        image.SetDirection((place[:3, :3] / SPACING).ravel())
        image.SetOrigin(place[:3, 3])
        sitk.WriteImage(image, base.with_name(base.name + ending), ending in (".nrrd", ".mha"))
        return base.with_name(base.name + ending)
    return write


def mgz(ending: str) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        path = base.with_name(base.name + ending)
        nibabel.save(nibabel.MGHImage(patient(grid(), SHAPE, 1)[0].astype(np.int16), grid()), path)
        return path
    return write


def frames(base: Path) -> Path:
    """A series as one enhanced file, each frame with a slope of its own."""
    return in_one_file(pet(base))


def in_one_file(base: Path) -> Path:
    """Put the slices of a folder into one enhanced file, as highdicom makes it of them, and return the folder."""
    slices_ = [pydicom.dcmread(path) for path in sorted(base.iterdir())]
    for number, one in enumerate(slices_, 1):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.6.{number}"
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                     "AccessionNumber", "ReferringPhysicianName"):
            setattr(one, name, "")
        one.FrameOfReferenceUID, one.ImageType, one.SeriesNumber = "1.2.9", ["ORIGINAL", "PRIMARY"], 1
    logging.disable()       # of what such slices lack
    try:
        whole = LegacyConvertedEnhancedMRImage(slices_, "1.2.5", 3, "1.2.5.1", 1)
    finally:
        logging.disable(logging.NOTSET)
    for path in base.iterdir():
        path.unlink()
    whole.save_as(base / "frames.dcm")
    return base


def slices(tilt=0.0, below="", **options: Any) -> Callable[[Path], Path]:
    """A DICOM series; `tilt` in degrees shifts each slice against the one before."""
    def write(base: Path) -> Path:
        affine = grid(axes="LPS")
        affine[1, 2] = -np.tan(np.deg2rad(tilt)) * SPACING[2]
        affine[1, 3] -= affine[1, 2] * (SHAPE[2] - 1) / 2
        write_slices(base / below, patient(affine, SHAPE, 1)[0], affine, **options)
        return base
    return write


def pet(base: Path) -> Path:
    image = patient(grid(axes="LPS"), SHAPE, 1)[0]
    image[:, :, 0] = 0

    def each(k: int) -> dict:
        slope = image[:, :, k].max() / 30000 or 1.0
        return {"values": image[:, :, k] / slope, "slope": slope}
    return write_slices(base, image, grid(axes="LPS"), each=each)


def mixed_folder(base: Path) -> Path:
    """A series, its localizer, a report without pixels and a stray file."""
    slices()(base)
    small = patient(grid(shape=(20, 20, 3), axes="LPS"), (20, 20, 3))[0]
    write_slices(base, small, grid(shape=(20, 20, 3), axes="LPS"), series="2", name="loc{}.dcm",
                 tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    report = pydicom.dcmread(base / "loc1.dcm")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    report.save_as(base / "report.dcm")
    (base / "notes.txt").write_text("a note", encoding="utf-8")
    return base


def sform(affine: Affine, qform: Affine | None = None, code=2, qcode=0) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header.set_sform(affine, code)
        header.set_qform(affine if qform is None else qform, qcode, strip_shears=True)
    return change


def fields(**values: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        for key, value in values.items():
            header[key] = value
    return change


def sizes(x: float, y: float, z: float, **values: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header["pixdim"][1:4] = x, y, z
        fields(**values)(header)
    return change


def in_unit(factor: float, code: int) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        affine = np.diag([factor] * 3 + [1]) @ grid()
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        header["xyzt_units"] = code
    return change


def paired(ending: str) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        path = base.with_name(base.name + ending)
        nibabel.save(nibabel.Nifti1Pair(patient(grid(), SHAPE, 1)[0].astype(np.int16), grid()), path)
        return path
    return write


def nifti_2(base: Path) -> Path:
    path = base.with_name(base.name + ".nii.gz")
    nibabel.save(nibabel.Nifti2Image(patient(grid(), SHAPE, 1)[0].astype(np.int16), grid()), path)
    return path


def fourth_axis(base: Path) -> Path:
    return save(patient(grid(), SHAPE, 1)[0].astype(np.int16)[..., None], grid(), base.with_name(base.name + ".nii.gz"))


def one_bit(base: Path) -> Path:
    """One flipped bit that leaves the compressed stream readable."""
    path = nifti()(base)
    content = path.read_bytes()
    for at in range(len(content) // 2, len(content)):
        altered = bytearray(content)
        altered[at] ^= 1
        path.write_bytes(altered)
        try:
            nibabel.load(path).get_fdata()
        except Exception:       # most bits spoil the stream
            continue
        return path
    raise AssertionError("no such bit")


def of_type(dtype: Any) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        path = base.with_name(base.name + ".nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, dtype), grid()), path)
        return path
    return write


def analyze(base: Path) -> Path:
    path = base.with_name(base.name + ".img")
    nibabel.save(nibabel.AnalyzeImage(patient(grid(), SHAPE, 1)[0].astype(np.int16), None), path)
    return path


def damaged(write: Callable[[Path], Path], cut=500) -> Callable[[Path], Path]:
    def write_damaged(base: Path) -> Path:
        path = write(base)
        path.write_bytes(path.read_bytes()[:-cut])
        return path
    return write_damaged


def rewritten(change: Callable[[Dataset], None]) -> Callable[[Path], Path]:
    """A DICOM series with each file changed."""
    def write(base: Path) -> Path:
        slices()(base)
        for path in base.iterdir():
            head = pydicom.dcmread(path)
            change(head)
            head.save_as(path)
        return base
    return write


def deflated(head: Dataset) -> None:
    head.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"


def vast(head: Dataset) -> None:
    """A few bytes that say they hold 30000² pixels in a compressed way."""
    head.Rows = head.Columns = 30000
    _packed("1.2.840.10008.1.2.5", struct.pack("<16I", 1, 64, *[0] * 14) + b"\0" * 1000)(head)


def _packed(syntax: str, content: bytes) -> Callable[[Dataset], None]:
    def change(head: Dataset) -> None:
        head.file_meta.TransferSyntaxUID = syntax
        head.PixelData = pydicom.encaps.encapsulate([content])
        head["PixelData"].is_undefined_length = True
    return change


def _jpeg(marker: int) -> bytes:
    """The start of a JPEG or JPEG-LS image of 30000² pixels."""
    return b"\xff\xd8\xff\xfe\x00\x04ab" + struct.pack(">HHBHHB", marker, 11, 16, 30000, 30000, 1) + b"\x01\x11\x00" + bytes(500)


JPEG_2000 = (b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 41, 0, 30000, 30000, 0, 0, 30000, 30000, 0, 0, 1) + b"\x0f\x01\x01"
             b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01\xff\x5c\x00\x13\x40" + b"\x40" * 16
             + b"\xff\x90\x00\x0a" + bytes(7) + b"\x01\xff\x93" + bytes(300) + b"\xff\xd9")


def outlines(base: Path) -> Path:
    return save(patient(grid(), SHAPE, 1)[1], grid(), base.with_name(base.name + ".nii.gz"))


def text(ending: str) -> Callable[[Path], Path]:
    def write(base: Path) -> Path:
        path = base.with_name(base.name + ending)
        path.write_bytes(b"what is in here cannot be read")
        return path
    return write


def _sheared(cosine: float) -> Affine:
    affine = grid()
    affine[1, 2] = cosine * SPACING[2]
    affine[1, 3] -= affine[1, 2] * (SHAPE[2] - 1) / 2
    return affine


LONG_NAME = "long name " + "腹" * 75 + "x" * 5         # 247 bytes with its ending
NAME_TOO_LONG = "too long a name ".ljust(248, "x")
MIRRORED, MOVED = np.diag([-1.0, 1, 1, 1]) @ grid(), grid()
MOVED[:3, 3] += 80
KINDS = {
    "sound": Kind(nifti()),
    "qform mirrored": Kind(nifti(sform(grid(), MIRRORED, 2, 1))),
    "qform moved": Kind(nifti(sform(grid(), MOVED, 1, 2))),
    "qform turned": Kind(nifti(sform(grid(), grid(turn=rotation(2, 30)), 3, 4))),
    "qform alone": Kind(nifti(sform(MIRRORED, grid(), 0, 1))),
    "no form": Kind(nifti(fields(sform_code=0, qform_code=0))),
    "pixdim of 1 mm": Kind(nifti(sizes(1, 1, 1, qform_code=0))),
    "negative pixdim": Kind(nifti(sizes(-6, 6, 9))),
    "in microns": Kind(nifti(in_unit(1e3, 3))),
    "in metres": Kind(nifti(in_unit(1e-3, 1))),
    "sheared by a fiftieth": Kind(nifti(sform(_sheared(0.02)), _sheared(0.02))),
    "sheared by a third": Kind(nifti(sform(_sheared(0.3)), _sheared(0.3))),
    "turned by 35 degrees": Kind(nifti(affine=grid(turn=rotation(2, 35)))),
    "tipped by 30 degrees": Kind(nifti(affine=grid(turn=rotation(0, 30)))),
    "sagittal": Kind(nifti(affine=grid((6, 6, 6), (36, 22, 44), "PSL"), shape=(36, 22, 44))),
    "nifti 2": Kind(nifti_2),
    "a fourth axis of one": Kind(fourth_axis),
    LONG_NAME: Kind(nifti()),
    "capitals": Kind(nifti(ending=".NII.GZ")),
    "nrrd": Kind(itk(".nrrd")), "mha": Kind(itk(".mha")), "mhd": Kind(itk(".mhd")),
    "mgz": Kind(mgz(".mgz")), "mgh": Kind(mgz(".mgh")), "frames in one file": Kind(frames),
    "pair": Kind(paired(".img")), "gzipped pair": Kind(paired(".img.gz")),
    "slices far down": Kind(slices(below="study/series 2")),
    "slopes of their own": Kind(pet),
    "deflated slices": Kind(rewritten(deflated)),
    "tilted by 5 degrees": Kind(slices(tilt=5)), "tilted by 20 degrees": Kind(slices(tilt=20)),
    "spacing jitters": Kind(slices(each=lambda k: {"spacing": ["6", "6"] if k % 2 else ["6.0000007"] * 2})),
    "orientation jitters": Kind(slices(each=lambda k: {"axes": None if k % 2 else [1, 5e-5, 0, -5e-5, 1, 0]})),
    "a localizer beside": Kind(mixed_folder),
    "one flipped bit": Kind(one_bit, "its check sum is wrong", None),
    "cut short": Kind(damaged(nifti()), "cannot be read as NIfTI", None),
    "sheared too far": Kind(nifti(sform(_sheared(1.5)), _sheared(1.5)), "two of its axes meet at"),
    "no place": Kind(nifti(fields(srow_x=0, srow_y=0, srow_z=0, qform_code=0)), "no place in space"),
    "metres of millimetres": Kind(nifti(fields(xyzt_units=1)), "gives lengths in meters, by which it spans"),
    "colour": Kind(of_type(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), "expected whole or real numbers"),
    "complex": Kind(of_type(np.complex64), "expected whole or real numbers"),
    "colour slices": Kind(slices(each=lambda k: {"colour": True}), "is a colour image"),
    "analyze": Kind(analyze, "does not say where left and right are"),
    "short mha": Kind(damaged(itk(".mha")), "ends too early", None),
    "short mgz": Kind(damaged(mgz(".mgz")), "cannot be read as MGH", None),
    "short nrrd": Kind(damaged(itk(".nrrd")), "ends too early", None),
    "vast slices": Kind(rewritten(vast), "pixels do not fit into"),
    **{f"slices with a vast {name}": Kind(rewritten(_packed(syntax, content)), "the image in it has 30000 x 30000", None)
       for name, syntax, content in (("jpeg", "1.2.840.10008.1.2.4.70", _jpeg(0xFFC3)),
                                     ("jpeg ls", "1.2.840.10008.1.2.4.80", _jpeg(0xFFF7)),
                                     ("jpeg 2000", "1.2.840.10008.1.2.4.90", JPEG_2000))},
    NAME_TOO_LONG: Kind(nifti(), "its name has 248 bytes without the ending, allowed: 240"),
    "outlines": Kind(outlines, "these are outlines, not a scan", None),
    "unknown": Kind(text(".vtk"), "of no kind that can be read"),
    "archive": Kind(text(".zip"), "is an archive"),
}


def dice_by_label(path: Path, case=1) -> Iterator[float]:
    """The Dice of each label of a NIfTI file with the patient's organs, where nibabel says that its voxels lie."""
    file = nibabel.load(path)
    found = np.asanyarray(file.dataobj)
    affine = file.affine.copy()
    affine[:3] *= {"meter": 1e3, "micron": 1e-3}.get(file.header.get_xyzt_units()[0], 1)
    truth = patient(affine, found.shape, case)[1]
    for label in ORGANS:
        both = (found == label) & (truth == label)
        yield 2 * both.sum() / ((found == label).sum() + (truth == label).sum())
