"""Every format in every orientation, written here and read by another library: each voxel where it was."""

import struct
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import trimesh
from matplotlib.path import Path as MplPath

from qnet.dataloaders.outlines.formats import DICOM_SEG, FORMATS, RTSTRUCT, SEG_NRRD, STL
from qnet.dataloaders.outlines.rtstruct import contours_of
from qnet.dataloaders.outlines.writing import expect_formats, files_in, write_formats
from qnet.dataloaders.reading import affine_at, read_image
from qnet.util.base.classes import file_name
from qnet.util.base.errors import InputError
from tests import kinds
from tests.dataloaders.outlines.made import COLOURS, NAMES, PLACES, image_voxels, nifti, outlines, run, series, voxels_in


def true_voxels(value):
    return set(map(tuple, np.argwhere(value == outlines().T).tolist()))


@pytest.fixture(scope="module", params=PLACES)
def written(request, tmp_path_factory):
    """Outlines of a series in all formats: the folder and the affine of the scan."""
    folder, affine = tmp_path_factory.mktemp(request.param), PLACES[request.param]
    scan = series(folder, affine)
    write_formats(FORMATS, outlines(), read_image(scan), scan, NAMES, COLOURS, folder / "case.nii.gz")
    return folder, affine


def test_pynrrd_reads_segments_with_names_and_colours(written):
    folder, affine = written
    array, header = nrrd.read(folder / "case.seg.nrrd")
    assert header["space"] == "left-posterior-superior"
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.transpose(header["space directions"]), header["space origin"]
    for number, (value, name) in enumerate(NAMES.items()):
        assert header[f"Segment{number}_Name"] == name
        rgb = [round(float(part) * 255) for part in header[f"Segment{number}_Color"].split()]
        assert "#{:02x}{:02x}{:02x}".format(*rgb) == COLOURS[value]
        mask = array == int(header[f"Segment{number}_LabelValue"])
        assert voxels_in(mask, np.diag([-1, -1, 1, 1]) @ matrix, affine) == true_voxels(value)


def test_dcmqi_reads_the_dicom_segmentation(written, tmp_path):
    folder, affine = written
    if folder.name.startswith("tilted"):
        pytest.skip("dcmqi writes volumes with axes at right angles")
    run("segimage2itkimage", "--inputDICOM", folder / "case_seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nrrd")
    for number, value in enumerate(NAMES, 1):
        assert image_voxels(tmp_path / f"{number}.nrrd", affine) == true_voxels(value)
    told = (tmp_path / "meta.json").read_text(encoding="utf-8")
    assert "liver" in told and "ring" in told


def test_pydicom_reads_each_frame_of_the_segmentation_on_its_own_slice(written):
    folder, affine = written
    head, found = pydicom.dcmread(folder / "case_seg.dcm"), {number: set() for number in range(1, len(NAMES) + 1)}
    sources = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, (folder / "series").iterdir())}
    frames = np.unpackbits(np.frombuffer(head.PixelData, np.uint8), bitorder="little")
    frames = frames[:int(head.NumberOfFrames) * head.Rows * head.Columns].reshape(-1, head.Rows, head.Columns)
    for frame, groups in zip(frames, head.PerFrameFunctionalGroupsSequence, strict=True):
        source = sources[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        lps = np.diag([-1, -1, 1, 1]) @ affine
        z = np.rint((np.linalg.inv(lps) @ [*map(float, source.ImagePositionPatient), 1])[2])
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[number] |= {(x, y, int(z)) for y, x in np.argwhere(frame).tolist()}
    for segment, (value, name) in zip(head.SegmentSequence, NAMES.items(), strict=True):
        assert segment.SegmentLabel == name and found[segment.SegmentNumber] == true_voxels(value)
    assert head.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4.1"


def test_plastimatch_reads_the_structures(written, tmp_path):
    folder, affine = written
    if folder.name.startswith("tilted"):
        pytest.skip("plastimatch takes volumes with axes at right angles")
    run("plastimatch", "convert", "--input", folder / "case_rtstruct.dcm", "--referenced-ct", folder / "series",
        "--output-prefix", tmp_path, "--prefix-format", "nrrd")
    found = {tuple(sorted(image_voxels(path, affine))) for path in tmp_path.rglob("*.nrrd")}
    assert found == {tuple(sorted(true_voxels(value))) for value in NAMES}


def test_matplotlib_finds_the_centres_of_the_pixels_in_the_contours_of_the_slices_that_they_name(written):
    folder, affine = written
    head = pydicom.dcmread(folder / "case_rtstruct.dcm")
    sources = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, (folder / "series").iterdir())}
    lps = np.diag([-1, -1, 1, 1]) @ affine
    centres = np.moveaxis(np.indices(outlines().shape[:0:-1]), 0, -1).reshape(-1, 2)
    for roi, of_roi, (value, name) in zip(head.StructureSetROISequence, head.ROIContourSequence, NAMES.items(), strict=True):
        assert roi.ROIName == name and "#{:02x}{:02x}{:02x}".format(*of_roi.ROIDisplayColor) == COLOURS[value]
        found = set()
        for contour in of_roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            source = sources[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            in_slice = (points - np.array(source.ImagePositionPatient, float)) @ np.linalg.inv(lps[:3, :3]).T
            assert np.abs(in_slice[:, 2]).max() < 1e-4
            z = int(np.rint((np.linalg.inv(lps) @ [*map(float, source.ImagePositionPatient), 1])[2]))
            found |= {(x, y, z) for x, y in centres[MplPath(in_slice[:, :2]).contains_points(centres)].tolist()}
        assert found == true_voxels(value)
    assert head.Modality == "RTSTRUCT" and head.SOPClassUID.name == "RT Structure Set Storage"


def test_trimesh_finds_the_centres_of_the_voxels_in_the_surfaces(written):
    folder, affine = written
    lps = np.diag([-1, -1, 1, 1]) @ affine
    index = np.moveaxis(np.indices(outlines().shape[::-1]), 0, -1).reshape(-1, 3)
    for value, name in NAMES.items():
        mesh = trimesh.load_mesh(folder / f"case_{file_name(name)}.stl")
        assert mesh.is_watertight and mesh.volume > 0
        inside = mesh.contains(index @ lps[:3, :3].T + lps[:3, 3] + 1e-3)
        assert set(map(tuple, index[inside].tolist())) == true_voxels(value)


@pytest.mark.parametrize("place", PLACES)
def test_the_formats_without_dicom_are_written_for_a_nifti_too(place, tmp_path):
    scan = nifti(tmp_path, PLACES[place])
    write_formats([SEG_NRRD], outlines(), read_image(scan), scan, NAMES, COLOURS, tmp_path / "case.nii.gz")
    array, header = nrrd.read(tmp_path / "case.seg.nrrd")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.transpose(header["space directions"]), header["space origin"]
    assert voxels_in(array == 7, np.diag([-1, -1, 1, 1]) @ matrix, nibabel.load(scan).affine) == true_voxels(7)


def test_contours_have_the_area_of_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((9, 8)) < rng.random()
        areas = [abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2 for x, y in (points.T for points in contours_of(mask))]
        assert sum(areas) == mask.sum()


def test_an_empty_class_is_named_and_has_no_voxels(tmp_path):
    scan, names, colours = series(tmp_path, PLACES["axial"]), {1: "liver", 4: "spleen"}, {1: "#ff0000", 4: "#00ff00"}
    only_liver = np.where(outlines() == 1, 1, 0).astype(np.uint8)
    write_formats(FORMATS, only_liver, read_image(scan), scan, names, colours, tmp_path / "case.nii.gz")
    head = pydicom.dcmread(tmp_path / "case_rtstruct.dcm")
    assert [one.ROIName for one in head.StructureSetROISequence] == ["liver", "spleen"]
    assert "ContourSequence" not in head.ROIContourSequence[1]
    assert len(pydicom.dcmread(tmp_path / "case_seg.dcm").SegmentSequence) == 2
    assert struct.unpack_from("<I", (tmp_path / "case_spleen.stl").read_bytes(), 80) == (0,)


def test_formats_that_refer_to_a_series_are_refused_for_others_before_any_work(tmp_path):
    scan = nifti(tmp_path, PLACES["axial"])
    for one in (DICOM_SEG, RTSTRUCT):
        with pytest.raises(InputError, match=f"--format: {one} refers to the files of a DICOM series, but .*scan.nii.gz is none"):
            expect_formats([one], [scan], ["liver"], "--format")
    with pytest.raises(InputError, match="--format: stl has a file for each class, got 'a b' and 'a_b'"):
        expect_formats([STL], [scan], ["a b", "a_b"], "--format")
    with pytest.raises(InputError, match="--format: got 'png', allowed: nifti"):
        expect_formats(["png"], [scan], [], "--format")


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = r"--format dicom-seg: .*highdicom.* pip install 'qnet-few-shot-segmentation\[formats\]'"
    with pytest.raises(InputError, match=said):
        expect_formats([DICOM_SEG], [series(tmp_path, PLACES["axial"])], [], "--format")


def test_names_of_files():
    paths = files_in(FORMATS, Path("out/case 1.nii.gz"), ["L/R kidney"])
    assert [path.name for path in paths] == ["case 1.seg.nrrd", "case 1_seg.dcm", "case 1_rtstruct.dcm",
                                             "case 1_L%2FR_kidney.stl"]
    assert {path.parent for path in paths} == {Path("out")}


def test_outlines_refer_to_the_frames_of_a_file_that_holds_a_whole_series(tmp_path):
    scan, shape = kinds.frames(tmp_path / "scan"), kinds.SHAPE
    labels = np.zeros(shape[::-1], np.uint8)
    labels[2:5, 3:9, 4:20], labels[9, 10, 11] = 1, 2
    names = {1: "liver", 2: "dot"}
    write_formats([DICOM_SEG, RTSTRUCT], labels, read_image(scan), scan, names, COLOURS, tmp_path / "case.nii.gz")
    (source,) = map(pydicom.dcmread, scan.iterdir())
    places = [groups.PlanePositionSequence[0].ImagePositionPatient for groups in source.PerFrameFunctionalGroupsSequence]
    affine = affine_at(scan)
    for groups in pydicom.dcmread(tmp_path / "case_seg.dcm").PerFrameFunctionalGroupsSequence:
        frame = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert groups.PlanePositionSequence[0].ImagePositionPatient == places[frame - 1]
    for of_roi in pydicom.dcmread(tmp_path / "case_rtstruct.dcm").ROIContourSequence:
        for contour in of_roi.ContourSequence:
            frame = contour.ContourImageSequence[0].ReferencedFrameNumber
            assert contour.ContourData[2] == pytest.approx(places[frame - 1][2], abs=1e-4)
    run("segimage2itkimage", "--inputDICOM", tmp_path / "case_seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nrrd")
    for value in (1, 2):
        assert image_voxels(tmp_path / f"{value}.nrrd", affine) == set(map(tuple, np.argwhere(value == labels.T).tolist()))
