"""Damaged and hostile files of outlines, and of scans in the newer kinds of file: each is refused in one line, without harm."""

import gzip
import re
import resource
import time

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from qnet.dataloaders.outlines.formats import DICOM_SEG, RTSTRUCT, SEG_NRRD
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.writing import files_in, write_formats
from qnet.dataloaders.reading import check_header, read_image
from qnet.util.base.errors import InputError
from tests.dataloaders.outlines.made import COLOURS, NAMES, PLACES, nifti, outlines, series
from tests.kinds import frames

MOST_S, MOST_MB = 10, 400


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A series, and its outlines in all formats."""
    folder = tmp_path_factory.mktemp("sound")
    scan = series(folder, PLACES["axial"])
    image = read_image(scan)
    write_formats([SEG_NRRD, DICOM_SEG, RTSTRUCT], outlines(), image, scan, NAMES, COLOURS, folder / "case.nii.gz")
    return folder, scan, image


def refused(read, words):
    """Expect one line that has these words, soon and without a lot of memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        read()
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert time.monotonic() - began < MOST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MB * 1024


# ---- .seg.nrrd ----

def line(pattern, replacement):
    """Change lines of the header."""
    def change(content):
        head, _, values = content.partition(b"\n\n")
        return re.sub(pattern, replacement, head, flags=re.MULTILINE) + b"\n\n" + values
    return change


SEGMENTS = {
    "cut": (lambda content: content[:-60], "ends too early"),
    "no end of the header": (lambda content: content.partition(b"\n\n")[0], "its header has no end"),
    "a flipped byte": (lambda content: content[:-30] + bytes([content[-30] ^ 1]) + content[-29:], "cannot be read"),
    "vast": (line(rb"^sizes: .*", b"sizes: 30000 30000 30000"), "expected at most"),
    "vast in a small file": (line(rb"^sizes: .*", b"sizes: 1000 1000 900"), "takes 900000000 bytes"),
    "a layer that is not there": (line(rb"Segment1_Layer:=0", b"Segment1_Layer:=3"), "got the layer '3' of a segment"),
    "a value that is none": (line(rb"Segment1_LabelValue:=2", b"Segment1_LabelValue:=1e9"), "got the label value '1e9'"),
    "a colour that is none": (line(rb"Segment0_Color:=.*", b"Segment0_Color:=nan 0 0"), "got the colour 'nan 0 0'"),
    "a name with escapes": (line(rb"Segment0_Name:=.*", b"Segment0_Name:=a\x1b[2J"), "got the name 'a\\x1b[2J', allowed"),
    "two names alike": (line(rb"Segment0_Name:=.*", b"Segment0_Name:=ring"), "got the names 'ring' and 'ring'"),
    "elsewhere": (line(rb"^space origin: .*", b"space origin: (531,-57,-36)"), "voxels lie outside of"),
    "between the voxels": (line(rb"^space origin: .*", b"space origin: (-66,-57,-36)"), "lies on other voxels than"),
    "no space": (line(rb"^space directions: .*", b"space directions: (0,0,0) (0,0,0) (0,0,0)"), ""),
    "another file of values": (line(rb"^encoding: ", b"data file: /etc/passwd\nencoding: "), "has its values in another file"),
    "all empty": (line(rb"LabelValue:=\d", b"LabelValue:=9"), "holds no outline; its segments 'liver'"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_segments_of_slicer(kind, sound, tmp_path):
    folder, scan, image = sound
    change, words = SEGMENTS[kind]
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(change((folder / "case.seg.nrrd").read_bytes()))
    refused(lambda: stored_outlines(path, image, scan), words)


# ---- DICOM ----

def values(**changed):
    def change(head):
        for name, value in changed.items():
            setattr(head, name, value)
    return change


def first_frame(sequence, name, value):
    def change(head):
        setattr(head.PerFrameFunctionalGroupsSequence[0][sequence][0], name, value)
    return change


def first_contour(name, value):
    def change(head):
        setattr(head.ROIContourSequence[0].ContourSequence[0], name, value)
    return change


def moved(head):
    data = head.ROIContourSequence[0].ContourSequence[0].ContourData
    head.ROIContourSequence[0].ContourSequence[0].ContourData = [float(v) + (4 if k % 3 == 2 else 0) for k, v in enumerate(data)]


def across(head):
    data = head.ROIContourSequence[0].ContourSequence[0].ContourData
    head.ROIContourSequence[0].ContourSequence[0].ContourData = [float(v) + (9 if k == 2 else 0) for k, v in enumerate(data)]


def without(*names):
    def change(head):
        for name in names:
            del head[name]
    return change


def renamed(head):
    head.StructureSetROISequence[0].ROIName = "x" * 64 + "y" * 60


def twice(head):
    head.StructureSetROISequence[0].ROIName = "ring"


SEGMENTATIONS = {
    "no frames": (without("PerFrameFunctionalGroupsSequence"), "cannot be read as a DICOM segmentation"),
    "no segments": (without("SegmentSequence"), "cannot be read as a DICOM segmentation"),
    "no pixels": (without("PixelData"), "cannot be read as a DICOM segmentation"),
    "few pixels": (values(PixelData=b"\1\0"), "cannot be read as"),
    "vast": (values(Rows=60000, Columns=60000), "pixels do not fit into"),
    "vast number of frames": (values(NumberOfFrames=2**31 - 1), "pixels do not fit into"),
    "more frames than there are": (values(NumberOfFrames=2), "cannot be read as a DICOM segmentation"),
    "a place that is none": (first_frame("PlanePositionSequence", "ImagePositionPatient", ["nan", "0", "0"]), ""),
    "elsewhere": (first_frame("PlanePositionSequence", "ImagePositionPatient", [-69, -57, 900]), "voxels lie outside of"),
    "between the voxels": (first_frame("PlanePositionSequence", "ImagePositionPatient", [-66, -57, -36]), "lies on other voxels"),
    "a segment that is not described": (first_frame("SegmentIdentificationSequence", "ReferencedSegmentNumber", 77), ""),
    "another kind": (values(SegmentationType="PICTURE"), "cannot be read as a DICOM segmentation"),
    "another series": (lambda head: setattr(head.ReferencedSeriesSequence[0], "SeriesInstanceUID", "9.9"), "of the series 9.9"),
}
STRUCTURES = {
    "points that are none": (first_contour("ContourData", ["nan"] * 12), "points that are NaN or infinite"),
    "far away": (first_contour("ContourData", [1e30, 0, 0, 0, 1e30, 0, 0, 0, 0]), ""),
    "not in threes": (first_contour("ContourData", [1, 2, 3, 4]), "cannot be read as structures of radiotherapy"),
    "no points": (first_contour("ContourData", None), "cannot be read as structures of radiotherapy"),
    "between the planes": (moved, "a contour lies 0.44 voxels beside a plane"),
    "across the planes": (across, "a contour lies across a plane"),
    "no contours": (without("ROIContourSequence"), "holds no outline"),
    "no structures": (without("StructureSetROISequence"), "holds no outline"),
    "a name too long": (renamed, "got the name 'xxxx"),
    "two names alike": (twice, "got the names 'ring' and 'ring'"),
    "a colour that is none": (lambda head: setattr(head.ROIContourSequence[0], "ROIDisplayColor", [1, 2]), "cannot be read as"),
    "another series": (lambda head: setattr(head.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
                                            .RTReferencedSeriesSequence[0], "SeriesInstanceUID", "9.9"), "of the series 9.9"),
}


@pytest.mark.parametrize(("file", "kind"), [*(("case_seg.dcm", kind) for kind in SEGMENTATIONS),
                                            *(("case_rtstruct.dcm", kind) for kind in STRUCTURES)])
def test_outlines_in_dicom(file, kind, sound, tmp_path):
    folder, scan, image = sound
    change, words = (SEGMENTATIONS if file == "case_seg.dcm" else STRUCTURES)[kind]
    head = pydicom.dcmread(folder / file)
    change(head)
    head.save_as(tmp_path / file)
    refused(lambda: stored_outlines(tmp_path / file, image, scan), words)


# ---- scans: MGH, frames in one file ----

def header(at, content):
    return lambda whole: whole[:at] + content + whole[at + len(content):]


def number(value, kind=">i4"):
    return np.array(value, kind).tobytes()


VOLUMES = {
    "empty": (lambda whole: b"", "its header has 0 bytes"),
    "short": (lambda whole: whole[:200], "its header has 200 bytes"),
    "cut": (lambda whole: whole[:-300], "bytes, the file has"),
    "another version": (header(0, number(9)), "cannot be read as MGH"),
    "vast": (header(4, number([30000] * 3)), "expected at most"),
    "negative": (header(4, number(-4)), "with 3 axes, got shape"),
    "several volumes": (header(16, number(5)), "with 3 axes, got shape"),
    "no axis": (header(4, number(0)), "with 3 axes"),
    "unknown type": (header(20, number(77)), "cannot be read as MGH"),
    "no place": (header(28, number(0, ">i2")), "no place in space"),
    "size of 0": (header(30, number(0, ">f4")), "no place in space"),
    "nan": (header(78, number(np.nan, ">f4")), "no place in space"),
    "flat": (header(42, number([1, 0, 0, 1, 0, 0, 0, 0, 1], ">f4")), "no place in space"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", VOLUMES)
def test_mgh(kind, packed, tmp_path):
    change, words = VOLUMES[kind]
    array = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    content = change(nibabel.MGHImage(array, np.diag([2.0, 3, 4, 1])).to_bytes()[:284 + array.nbytes])
    path = tmp_path / f"scan.{'mgz' if packed else 'mgh'}"
    path.write_bytes(gzip.compress(content) if packed else content)
    refused(lambda: read_image(path), "" if packed and kind == "cut" else words)


def test_mgz_that_was_cut_or_has_another_check_sum(tmp_path):
    nibabel.save(nibabel.MGHImage(np.random.default_rng(0).random((8, 9, 10)).astype(np.float32), np.eye(4)), tmp_path / "a.mgz")
    content = (tmp_path / "a.mgz").read_bytes()
    for altered in (content[:-40], content[:-6] + b"\0" + content[-5:]):
        (tmp_path / "b.mgz").write_bytes(altered)
        refused(lambda: read_image(tmp_path / "b.mgz"), "cannot be read as MGH")


FRAMES = {
    "no groups": (without("PerFrameFunctionalGroupsSequence"), "frames that do not say where they lie"),
    "fewer groups": (lambda head: head.PerFrameFunctionalGroupsSequence.pop(), "frames that do not say where they lie"),
    "no place": (lambda head: head.PerFrameFunctionalGroupsSequence[3].pop("PlanePositionSequence"), "has no ImagePosition"),
    "no spacing": (lambda head: [one.pop("PixelMeasuresSequence", None) for one in
                                 (head.SharedFunctionalGroupsSequence[0], *head.PerFrameFunctionalGroupsSequence)],
                   "has no PixelSpacing"),
    "one frame elsewhere": (first_frame("PlanePositionSequence", "ImagePositionPatient", [0, 0, 500]), "not evenly stacked"),
    "twice at one place": (lambda head: head.PerFrameFunctionalGroupsSequence.__setitem__(
        1, head.PerFrameFunctionalGroupsSequence[0]), "not evenly stacked"),
    "nan": (first_frame("PlanePositionSequence", "ImagePositionPatient", ["nan", 0, 0]), "no place in the patient"),
    "vast": (values(Rows=60000), "pixels do not fit into"),
    "vast number of frames": (values(NumberOfFrames=2**31 - 1), "do not fit"),
    "few pixels": (lambda head: setattr(head, "PixelData", head.PixelData[:5000]), ""),
    "colour": (values(SamplesPerPixel=3), ""), "bits that are none": (values(BitsAllocated=13), ""),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_in_one_file(kind, tmp_path):
    change, words = FRAMES[kind]
    (path,) = frames(tmp_path / "scan").iterdir()
    assert check_header(path) == read_image(path).GetSize()
    head = pydicom.dcmread(path)
    change(head)
    head.save_as(path)
    refused(lambda: read_image(tmp_path / "scan"), words)


# ---- scans: NRRD, MetaImage ----

def text(pattern, replacement):
    """Change lines of a header in text, wherever it ends."""
    return lambda whole: re.sub(pattern, replacement, whole, count=1, flags=re.MULTILINE)


NRRD = {
    "empty": (lambda whole: b"", "does not begin as one"),
    "another kind": (lambda whole: b"NIFTI" + whole, "does not begin as one"),
    "cut": (lambda whole: whole[:-60], "ends too early"),
    "a flipped byte": (lambda whole: whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], "cannot be read"),
    "vast": (text(rb"^sizes: .*", b"sizes: 30000 30000 30000"), "expected at most"),
    "vast in a small file": (text(rb"^sizes: .*", b"sizes: 1000 1000 900"), "bytes"),
    "negative": (text(rb"^sizes: .*", b"sizes: -8 9 10"), "cannot be read"),
    "no axis": (text(rb"^sizes: .*", b"sizes: 0 9 10"), "cannot be read"),
    "two axes": (text(rb"^sizes: .*", b"sizes: 90 8"), "cannot be read"),
    "no size of voxels": (text(rb"^space directions: .*\n", b""), "does not say how large its voxels are"),
    "flat": (text(rb"^space directions: .*", b"space directions: (1,0,0) (1,0,0) (0,0,1)"), ""),
    "nan": (text(rb"^space origin: .*", b"space origin: (nan,0,0)"), "cannot be read"),
    "inches": (text(rb"^space origin: ", b'space units: "in" "in" "in"\nspace origin: '), "has lengths in in, allowed: mm"),
    "values elsewhere": (text(rb"^encoding: ", b"data file: /etc/passwd\nencoding: "), "one file in the same folder"),
    "a long line": (text(rb"^space origin: ", b"content: " + b"x" * 5000 + b"\nspace origin: "), "its header is damaged"),
    "unknown type": (text(rb"^type: .*", b"type: block"), "cannot be read"),
}
META = {
    "empty": (lambda whole: b"", ""),
    "another kind": (lambda whole: b"NRRD0004\n" + whole[40:], ""),
    "cut": (lambda whole: whole[:-60], ""),
    "a flipped byte": (lambda whole: whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], "cannot be read"),
    "vast": (text(rb"^DimSize = .*", b"DimSize = 30000 30000 30000"), "expected at most"),
    "vast in a small file": (text(rb"^DimSize = .*", b"DimSize = 1000 1000 900"), "bytes"),
    "negative": (text(rb"^DimSize = .*", b"DimSize = -8 9 10"), ""),
    "no axis": (text(rb"^DimSize = .*", b"DimSize = 0 9 10"), ""),
    "two axes": (text(rb"^NDims = .*", b"NDims = 2"), ""),
    "no size of voxels": (text(rb"^ElementSpacing = .*\n", b""), "does not say how large its voxels are"),
    "flat": (text(rb"^TransformMatrix = .*", b"TransformMatrix = 1 0 0 1 0 0 0 0 1"), ""),
    "nan": (text(rb"^Offset = .*", b"Offset = nan 0 0"), "no place in space, offset 'nan 0 0'"),
    "no number": (text(rb"^Offset = .*", b"Offset = here 0 0"), "no place in space, offset 'here 0 0'"),
    "too few numbers": (text(rb"^Offset = .*", b"Offset = 4 5"), "no place in space, offset '4 5'"),
    "size of 0": (text(rb"^ElementSpacing = .*", b"ElementSpacing = 0 1 1"), ""),
    "values elsewhere": (text(rb"^ElementDataFile = .*", b"ElementDataFile = /etc/passwd"), "one file in the same folder"),
    "a long line": (text(rb"^DimSize = ", b"Comment = " + b"x" * 5000 + b"\nDimSize = "), "its header is damaged"),
    "unknown type": (text(rb"^ElementType = .*", b"ElementType = MET_OTHER"), ""),
}


@pytest.mark.parametrize(("ending", "kind"), [*(("nrrd", kind) for kind in NRRD), *(("mha", kind) for kind in META)])
def test_scans_with_a_header_in_text(ending, kind, tmp_path):
    change, words = (NRRD if ending == "nrrd" else META)[kind]
    path = tmp_path / f"scan.{ending}"
    array = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), path, useCompression=True)
    assert read_image(path).GetSize() == (10, 9, 8)
    altered = change(path.read_bytes())
    assert altered != path.read_bytes()
    path.write_bytes(altered)
    refused(lambda: read_image(path), words)


# ---- tables of names ----

LONG = "x" * 101
SPOILT = {
    "snap line": ('1 1 2 3 1 1 1 "liver"\n2 nothing\n', ".txt", "line 2: got '2 nothing'"),
    "snap colour": ('1 1 2 999 1 1 1 "liver"\n', ".label", "got the colour '1 2 999'"),
    "twice": ('1 1 2 3 1 1 1 "liver"\n1 1 2 3 1 1 1 "spleen"\n', ".txt", "names 1 twice"),
    "long name": (f'1 1 2 3 1 1 1 "{LONG}"\n', ".txt", "got the name 'xxx"),
    "escape": ('1 1 2 3 1 1 1 "a\x1b[2J"\n', ".txt", "got the name 'a\\x1b[2J'"),
    "alike": ('1 1 2 3 1 1 1 "a b"\n2 1 2 3 1 1 1 "a_b"\n', ".txt", "got the names 'a b' and 'a_b'"),
    "table colour": ("1 liver 1 2 300 255\n", ".ctbl", "got the colour '1 2 300'"),
    "tsv colour": ("index\tname\tcolor\n1\tliver\tred\n", ".tsv", "got the colour 'red'"),
    "csv colour": ("LabelValue,Name,Color_R,Color_G,Color_B\n1,liver,1,2,x\n", ".csv", "got the colour '1 2 x'"),
    "vast": ("#" * 2**20 + "x\n", ".txt", "allowed in a table of names: 1048576"),
    "no text": ("\udcff\udcfe", ".txt", "cannot be read as a table of names"),
    "vast field": ("index\tname\n1\t" + "y" * 200_000 + "\n", ".tsv", "cannot be read as a table of names"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_tables_of_names(kind, tmp_path):
    text, ending, words = SPOILT[kind]
    scan = nifti(tmp_path, PLACES["axial"])
    labels = sitk.GetImageFromArray(outlines())
    labels.CopyInformation(read_image(scan))
    sitk.WriteImage(labels, tmp_path / "labels.nii.gz")
    (tmp_path / f"labels{ending}").write_text(text, encoding="utf-8", errors="surrogateescape")
    refused(lambda: stored_outlines(tmp_path / "labels.nii.gz", read_image(scan), scan), words)


def test_files_in_the_formats_are_named_alike_for_all(sound):
    folder, _, _ = sound
    assert all(path.exists() for path in files_in([SEG_NRRD, DICOM_SEG, RTSTRUCT], folder / "case.nii.gz", []))
