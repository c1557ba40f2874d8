"""The pixels of a slice or a frame of a DICOM file. GDCM decodes them, from a plain copy with correct lengths."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, ImplicitVRLittleEndian, RLELossless

from qnet.dataloaders.dicom_frames import MR_IMAGE, frame_alone
from qnet.dataloaders.itk import last_line, quiet
from qnet.util.base.errors import InputError

PIXEL_GROUP, PIXEL_TAGS = 0x0028, (0x00080016, 0x00080060, 0x7FE00010)     # what pixels depend on: class, modality, pixels
SIZE_MARKERS = {0xFFF7, *range(0xFFC0, 0xFFD0)} - {0xFFC4, 0xFFC8, 0xFFCC}       # of JPEG-LS and JPEG


@quiet()
def read_pixels(path: Path, frame: int | None, size: tuple[int, int], copy: Path,
                 read: Callable[..., pydicom.Dataset]) -> np.ndarray:
    """Return the (H, W) values of a slice.

    Args:
        frame: its number in a file with several.
        read: pydicom.dcmread.
        copy: path of a copy that is written for GDCM, which would allocate any size that a damaged file names.
    """
    _write_plain_copy(path, frame, copy, read)
    reader = sitk.ImageFileReader()
    reader.SetFileName(copy)
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
        if reader.GetSize() not in (size, (*size, 1)) or reader.GetNumberOfComponents() != 1:
            raise InputError(f"{path}: cannot be read as DICOM (it holds {reader.GetNumberOfComponents()} times "
                             f"{reader.GetSize()} values)")
        array = sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read as DICOM ({last_line(error)})") from None
    return array.reshape(size[::-1])


def _write_plain_copy(path: Path, frame: int | None, copy: Path, read: Callable[..., pydicom.Dataset]) -> None:
    """Write those elements of a DICOM file on which its pixels depend, with correct lengths."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = read(path, force=True)
            if not head.get("PixelData"):
                raise ValueError("it has no pixels")
            if frame is not None:
                head = frame_alone(head, frame)
            n_bytes = math.prod(int(head.get(name, 1) or 1) for name in ("Rows", "Columns")) * int(head.BitsAllocated) // 8
            syntax = UID(str(getattr(head, "file_meta", {}).get("TransferSyntaxUID", ImplicitVRLittleEndian)))
            if not syntax.is_compressed and len(head.PixelData) < n_bytes:
                raise ValueError(f"{n_bytes} bytes of pixels are declared, it has {len(head.PixelData)}")
            coded = _coded_size(head.PixelData) if syntax.is_encapsulated and syntax != RLELossless else None
            if coded not in (None, (int(head.Columns), int(head.Rows))):
                raise ValueError(f"{head.Columns} x {head.Rows} pixels are declared, the image in it has {coded[0]} x {coded[1]}")
            tags = [tag for tag in list(head.keys()) if tag.group == PIXEL_GROUP or tag in PIXEL_TAGS]
            plain = pydicom.Dataset({tag: head[tag] for tag in tags if head[tag].VR != "SQ"})
            plain.file_meta = pydicom.dataset.FileMetaDataset()
            plain.file_meta.TransferSyntaxUID = syntax
            plain.file_meta.MediaStorageSOPClassUID = UID(str(plain.get("SOPClassUID", MR_IMAGE)))
            plain.file_meta.MediaStorageSOPInstanceUID = plain.SOPInstanceUID = UID("1.2.3")
            plain.SOPClassUID = plain.file_meta.MediaStorageSOPClassUID
            plain.save_as(copy, enforce_file_format=True, **_encoding(syntax))
    except Exception as error:      # pydicom raises whatever a damaged file leads to
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as DICOM ({what})") from None


def _coded_size(packed: bytes) -> tuple[int, int] | None:
    """Return the width and height that a JPEG, JPEG-LS or JPEG 2000 image in a DICOM file begins with; None if there is none.

    Libraries allocate that size, whatever the DICOM header says.
    """
    stream = b"".join(generate_fragments(packed))
    if (at := stream.find(b"\xff\x4f\xff\x51")) >= 0:        # JPEG 2000: corners of the image
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
        return right - left, bottom - top
    at = stream.find(b"\xff\xd8") + 2
    while 2 <= at < len(stream) - 9:
        marker, length, _, height, width = struct.unpack_from(">HHBHH", stream, at)
        if marker in SIZE_MARKERS:
            return width, height
        at += 1 if marker == 0xFFFF else 2 + length
    return None


def _encoding(syntax: UID) -> dict[str, bool]:
    return {} if syntax.is_transfer_syntax and not syntax.is_private else {"implicit_vr": False, "little_endian": True}
