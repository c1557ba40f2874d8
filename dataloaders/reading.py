"""A scan of any kind of file as one volume: NIfTI, NRRD, MetaImage, MGH, DICOM. Which kind it is, its name and its files."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders import dicom, mgh, nifti
from qnet.dataloaders.dicom import is_dicom, problem_of, read_dicom, slices_of, stack
from qnet.dataloaders.geometry import FLIP, affine_of_image, expect_usable_axes, place
from qnet.dataloaders.itk import last_line, quiet
from qnet.dataloaders.nifti import GZIP_RATIO, MAX_VOXELS, read_nifti
from qnet.util.base.checksums import digest, sha256
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.inputs import expect_file

NIFTI = (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img")
ITK = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
MGH = (".mgz", ".mgh")
ENDINGS = (*NIFTI, *ITK, *MGH)      # in any case
MAX_LINE = 1000                 # letters of a line of a header; ITK's NRRD reader crashes on some longer ones
NUMBERS = ("offset", "position", "origin", "dimsize", "elementspacing", "elementsize")     # of MetaImage, one for each axis
HEADER_BYTES = 2**16            # of NRRD and MetaImage, at most
REAL = {sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64,
        sitk.sitkUInt64, sitk.sitkFloat32, sitk.sitkFloat64}
LAYERED = {sitk.sitkVectorInt8: sitk.sitkInt8, sitk.sitkVectorUInt8: sitk.sitkUInt8, sitk.sitkVectorInt16: sitk.sitkInt16,
           sitk.sitkVectorUInt16: sitk.sitkUInt16, sitk.sitkVectorInt32: sitk.sitkInt32, sitk.sitkVectorUInt32: sitk.sitkUInt32}


def ending_of(path: Path) -> str:
    """Return which of ENDINGS the name of a file has, in lower case; "" if none."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def is_nifti(path: Path) -> bool:
    """Return whether a path is named as one NIfTI file, .nii or .nii.gz in any case."""
    return ending_of(path) in (".nii", ".nii.gz")


def names_segments(path: Path) -> bool:
    """Return whether a path is an NRRD file that names segments, as 3D Slicer writes its `.seg.nrrd`."""
    if not path.name.lower().endswith(".nrrd") or not path.is_file():
        return False
    with path.open("rb") as file:
        return re.search(rb"^Segment\d+_\w+:=", file.read(HEADER_BYTES), re.MULTILINE) is not None


def is_slice(path: Path) -> bool:
    """Return whether a path is a DICOM file, which stands for its series."""
    return not ending_of(path) and path.is_file() and is_dicom(path)


def scan_name(path: Path) -> str:
    """Return the name of a file without its ending, or the name of a folder. Bytes that are no UTF-8 become letters."""
    ending = ending_of(path) or next((one for one in dicom.ENDINGS if path.name.lower().endswith(one) and not path.is_dir()), "")
    return in_utf8(path.name[:-len(ending)] if ending and path.name != ending else path.name)


def read_image(path: Path) -> sitk.Image:
    """Return a scan on its own grid, which may be sheared.

    Args:
        path: of a file with one of ENDINGS, a folder of DICOM slices, or one file of a DICOM series. Any other file is taken for
            NIfTI.
    Raises:
        InputError: it is missing, damaged, not one volume of real numbers, or its place in the patient is not known.
    """
    ending = ending_of(path)
    if path.is_dir():
        return read_dicom(path)
    if ending in ITK:
        return _read_itk(path, ITK[ending])
    if ending in MGH:
        return mgh.read_mgh(path)
    return read_dicom(path) if is_slice(path) else read_nifti(path)


def stored_labels(path: Path, image: sitk.Image, image_name: Path | str) -> sitk.Image:
    """Return the labels of an image as they are stored. Their size is held against it before any value is read.

    So no file of labels, however strongly it is compressed, takes more memory than its image lets expect.

    Raises:
        InputError: as `read_image`, or their size differs from the image's, in whatever order of axes.
    """
    size = check_header(path)
    if sorted(size) != sorted(image.GetSize()):
        raise InputError(f"{path}: size (x, y, z) = {size}, but {image_name} has {image.GetSize()}")
    return read_image(path)


def affine_at(path: Path) -> np.ndarray:
    """Return the affine of a scan, of which only headers are read.

    Raises:
        InputError: as `check_header`.
    """
    if (ending := ending_of(path)) in ITK:
        return _itk_header(path, ITK[ending])[2]
    if ending in MGH:
        return mgh.read_header(path)[1]
    if path.is_dir() or is_slice(path):
        return stack(slices_of(path), path).affine
    return nifti.read_affine(path)


def check_header(path: Path) -> tuple[int, int, int]:
    """Check what can be known of a scan without its values, and return its size (x, y, z).

    Raises:
        InputError: as `read_image`, but for values that are damaged.
    """
    ending = ending_of(path)
    if ending in ITK:
        return _itk_header(path, ITK[ending])[0].GetSize()[:3]
    if ending in MGH:
        n_x, n_y, n_z = map(int, mgh.read_header(path)[0].get_data_shape())
        return n_x, n_y, n_z
    if path.is_dir() or is_slice(path):
        slices = slices_of(path)
        if problem := problem_of(slices, path):
            raise InputError(problem if problem.startswith(str(path)) else f"{path}: {problem}")
        return (*slices[0].size, len(slices))
    header = nifti.read_header(path)
    expect_usable_axes(nifti.affine_of(header, path), path)
    return header.get_data_shape()


def files_of(path: Path) -> list[Path]:
    """Return all files that a scan is read from.

    Raises:
        OSError: the folder cannot be read.
        InputError: a file of DICOM slices cannot.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if ending_of(path) in MGH:
        return [path]
    if ending_of(path) in ITK:
        values = _values_file(path, _text_header(path)) if path.is_file() else None
        return [path] if values is None or values == path else [path, values]
    return sorted({one.path for one in slices_of(path)}) if is_slice(path) else list(dict.fromkeys(nifti.files_of(path)))


def content_sha256(path: Path) -> str:
    """Return one checksum of all that a scan is read from: of the file, or of names and contents of its files.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        files = files_of(path)
    except InputError:
        files = [path]
    base = path if path.is_dir() else path.parent
    return sha256(files[0]) if files == [path] else digest([(str(file.relative_to(base)), sha256(file)) for file in files])


def _text_header(path: Path) -> str:
    """Return the text that an NRRD or MetaImage file begins with."""
    with expect_file(path).open("rb") as file:
        head = file.read(HEADER_BYTES)
    if ending_of(path) in (".nrrd", ".nhdr"):
        return re.split(rb"\r?\n\r?\n", head)[0].decode("latin-1")
    found = re.search(rb"ElementDataFile[ \t]*=[^\n]*(\n|$)", head)
    return (head[:found.end()] if found else head[:4096]).decode("latin-1")


def _fields(text: str) -> dict[str, str]:
    """Return the fields of a header by name in lower case: "name: value" of NRRD, "Name = value" of MetaImage."""
    pairs = (re.match(r"\s*([A-Za-z][A-Za-z ]*?)\s*(?::=?|=)\s*(.*)", line) for line in text.splitlines())
    return {pair[1].lower(): pair[2].strip() for pair in pairs if pair}


def _values_file(path: Path, text: str) -> Path | None:
    """Return the file that holds the values: the same one or one beside it; None if the header names others."""
    fields = _fields(text)
    name = fields.get("data file", fields.get("datafile", fields.get("elementdatafile", "LOCAL")))
    if name.upper() == "LOCAL":
        return path
    plain = Path(name).name == name and name not in ("", "..") and not {"%", "\0"} & {*name}
    return path.with_name(name) if plain and not name.upper().startswith("LIST") else None


def nrrd_layers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the (D, H, W, layers) whole numbers of an NRRD file that may hold several a voxel, and its matrix to mm (LPS).

    Raises:
        InputError: as `read_image`.
    """
    image, affine = _itk_image(path, ITK[".nrrd"], layers=True)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: holds values of type {array.dtype}, allowed in segmentations: whole numbers")
    return array.reshape(*array.shape[:3], -1), FLIP @ affine


def _checked_fields(path: Path, reader_name: str) -> tuple[dict[str, str], Path]:
    """Return what the header of an NRRD or MetaImage file says, and the file of its values."""
    text = _text_header(path)
    if max(map(len, text.split("\n"))) > MAX_LINE or "\0" in text:
        raise InputError(f"{path}: cannot be read (its header is damaged)")
    fields, values = _fields(text), _values_file(path, text)
    if not text.startswith("NRRD") and reader_name == "NrrdImageIO":
        raise InputError(f"{path}: cannot be read as NRRD (it does not begin as one)")
    if values is None:
        raise InputError(f"{path}: names other than one file beside it for its values; allowed: one file in the same folder")
    if not {"space directions", "spacings", "elementspacing", "elementsize"} & set(fields):
        raise InputError(f"{path}: does not say how large its voxels are")
    for name in NUMBERS if reader_name == "MetaImageIO" else ():
        if name in fields and not _are_numbers(fields[name].split(), fields.get("ndims", "")):
            raise InputError(f"{path}: its header gives the voxels no place in space, {name} {fields[name][:60]!r}")
    if other := [unit for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")) if unit not in ("mm", "")]:
        raise InputError(f"{path}: has lengths in {other[0]}, allowed: mm")
    return fields, values


def _are_numbers(parts: list[str], n_axes: str) -> bool:
    """Return whether these are as many finite numbers as there are axes. ITK takes 0 for what is none."""
    try:
        return str(len(parts)) == n_axes and bool(np.isfinite([float(part) for part in parts]).all())
    except ValueError:
        return False


def _itk_header(path: Path, reader_name: str, *, layers: bool = False) -> tuple[sitk.ImageFileReader, Path, np.ndarray]:
    """Return a reader that knows size and place of an NRRD or MetaImage file, the file of its values, and its affine.

    Args:
        layers: a voxel may hold several numbers.
    """
    fields, values = _checked_fields(path, reader_name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO(reader_name)
    try:
        with quiet():
            reader.ReadImageInformation()
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({last_line(error)})") from None
    size = reader.GetSize()
    if len(size) < 3 or any(n != 1 for n in size[3:]) or min(size) < 1:
        raise InputError(f"{path}: expected a volume with 3 axes, got size {size}")
    n_numbers, one_number = reader.GetNumberOfComponents(), reader.GetPixelID()
    if layers and one_number in LAYERED:
        one_number = LAYERED[one_number]
    elif n_numbers != 1 or one_number not in REAL:
        raise InputError(f"{path}: expected one real number a voxel, got {reader.GetNumberOfComponents()} of type "
                         f"{sitk.GetPixelIDValueAsString(reader.GetPixelID())}")
    if math.prod(size) * n_numbers > MAX_VOXELS:
        raise InputError(f"{path}: expected at most {MAX_VOXELS} voxels, got size {size}"
                         + (f" with {n_numbers} numbers a voxel" if n_numbers > 1 else ""))
    packed = fields.get("encoding", "raw").lower() != "raw" or fields.get("compresseddata", "").lower().startswith("t")
    n_bytes, in_file = math.prod(size) * n_numbers * _bytes_of(one_number), expect_file(values).stat().st_size
    if n_bytes > in_file * (GZIP_RATIO if packed else 1):
        raise InputError(f"{path}: cannot be read (size {size} takes {n_bytes} bytes, {values.name} has {in_file})")
    return reader, values, _affine_of(path, reader)


def _affine_of(path: Path, reader: sitk.ImageFileReader) -> np.ndarray:
    """Return the affine of a file whose header was read."""
    image = sitk.Image([1] * reader.GetDimension(), sitk.sitkUInt8)
    for name in ("Origin", "Spacing", "Direction"):
        values_of = getattr(reader, f"Get{name}")()
        if not np.isfinite(values_of).all():
            raise InputError(f"{path}: its header gives the voxels no place in space, {name.lower()} {values_of}")
        try:
            getattr(image, f"Set{name}")(values_of)
        except RuntimeError:
            raise InputError(f"{path}: its header gives the voxels no place in space, {name.lower()} {values_of}") from None
    affine = affine_of_image(_three_axes(image))
    if not 1e-9 < np.linalg.norm(affine[:3, :3], axis=0).min() <= np.abs(affine).max() < 1e15:
        raise InputError(f"{path}: its header gives the voxels no place in space, affine {affine[:3].round(3).tolist()}")
    expect_usable_axes(affine, path)
    return affine


def _bytes_of(pixel_type: int) -> int:
    return sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], pixel_type)).itemsize


def _three_axes(image: sitk.Image) -> sitk.Image:
    return image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)] if image.GetDimension() > 3 else image


def _read_itk(path: Path, reader_name: str) -> sitk.Image:
    return place(*_itk_image(path, reader_name))


def _itk_image(path: Path, reader_name: str, layers: bool = False) -> tuple[sitk.Image, np.ndarray]:
    """Return an image as ITK reads it, without axes beyond the third, and its matrix to mm. InputError: it cannot be read."""
    reader, values, affine = _itk_header(path, reader_name, layers=layers)
    _expect_check_sum(path, values)
    try:
        with quiet():
            return _three_axes(reader.Execute()), affine
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({last_line(error)})") from None


def _expect_check_sum(path: Path, values: Path) -> None:
    """Raise InputError if compressed values do not have the check sum that they end with. ITK does not look at it."""
    text = _text_header(path)
    fields = _fields(text)
    kind = fields.get("encoding", "raw").lower()
    if kind not in ("gzip", "gz") and not fields.get("compresseddata", "").lower().startswith("t"):
        return
    unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32)      # gzip or zlib
    try:
        with values.open("rb") as file:
            if values == path:
                head = file.read(HEADER_BYTES)
                end = re.search(rb"\r?\n\r?\n", head) if path.name.lower().endswith(".nrrd") else None
                file.seek(end.end() if end else len(text.encode("latin-1")))
            while (block := file.read(2**20)) and not unpacked.eof:
                while block and not unpacked.eof:
                    unpacked.decompress(block, 2**22)
                    block = unpacked.unconsumed_tail
    except zlib.error as error:
        raise InputError(f"{path}: cannot be read (it was damaged after it was written: {nifti.one_line(error)})") from None
    if not unpacked.eof:
        raise InputError(f"{path}: cannot be read (it ends too early)")
