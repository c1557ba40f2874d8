"""Outlines that other programs wrote: every voxel where it was, with names and colours; what is said of others."""

import json
import warnings

import highdicom
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from qnet.dataloaders.outlines.formats import DICOM_SEG, FORMATS, NIFTI, RTSTRUCT, SEG_NRRD
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.segments import Outlines, in_terms_of
from qnet.dataloaders.outlines.writing import files_in, write_formats
from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from tests.dataloaders.outlines.made import COLOURS, NAMES, PLACES, SHAPE, nifti, outlines, run, series

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def array_of(found):
    return sitk.GetArrayFromImage(found.labels)


@pytest.mark.parametrize("place", PLACES)
def test_what_was_written_is_read_with_names_and_colours(place, tmp_path):
    scan = series(tmp_path, PLACES[place])
    image = read_image(scan)
    write_formats(FORMATS, outlines(), image, scan, NAMES, COLOURS, tmp_path / "case.nii.gz")
    for one in (SEG_NRRD, DICOM_SEG, RTSTRUCT):
        found = stored_outlines(files_in([one], tmp_path / "case.nii.gz", NAMES.values())[0], image, scan)
        values = dict(zip(NAMES, NAMES if one == SEG_NRRD else range(1, 5), strict=True))      # DICOM numbers from 1 on
        for value, number in values.items():
            np.testing.assert_array_equal(array_of(found) == number, outlines() == value, err_msg=one)
        assert found.names == {values[value]: name for value, name in NAMES.items()}
        assert found.colours == {values[value]: colour for value, colour in COLOURS.items()} and found.told == ()


def write_segments(path, layers, affine, segments, keys=(), **header):
    """Write layers (x, y, z, layer) with pynrrd as 3D Slicer does. `segments` has (name, layer, value) of each."""
    lps = LPS @ affine
    directions = lps[:3, :3].T.tolist()
    several = layers.shape[3] > 1
    facts = {"space": "left-posterior-superior", "space origin": lps[:3, 3], "encoding": "gzip",
             "kinds": [*(["list"] if several else []), *["domain"] * 3],
             "space directions": np.array([*([[np.nan] * 3] if several else []), *directions])}
    for number, (name, layer, value) in enumerate(segments):
        facts |= {f"Segment{number}_ID": f"S{number}", f"Segment{number}_Name": name, f"Segment{number}_Layer": str(layer),
                  f"Segment{number}_LabelValue": str(value), f"Segment{number}_Color": "0.5 0.25 1"}
    nrrd.write(str(path), np.moveaxis(layers, 3, 0) if several else layers[..., 0], {**facts, **dict(keys), **header})
    return path


def test_layers_that_overlap_are_decided_by_size_and_told(tmp_path):
    scan, layers = nifti(tmp_path, PLACES["oblique"]), np.zeros((*SHAPE, 2), np.uint8)
    layers[2:12, 2:12, 2:8, 0], layers[8:14, 8:14, 4:6, 1], layers[16:20, 2:5, 1:3, 1] = 1, 1, 2
    long_line = {"Segmentation_ConversionParameters": "Smoothing factor|-0.5|Determines how smooth it is.&" * 100}
    segments = [("body", 0, 1), ("tumour", 1, 1), ("cyst", 1, 2)]
    path = write_segments(tmp_path / "a.seg.nrrd", layers, PLACES["oblique"], segments, long_line)
    found = stored_outlines(path, read_image(scan), scan)
    expected = np.where(layers[..., 1] == 1, 2, np.where(layers[..., 1] == 2, 3, layers[..., 0]))
    np.testing.assert_array_equal(array_of(found).T, expected)
    assert found.names == {1: "body", 2: "tumour", 3: "cyst"} and found.colours[2] == "#8040ff"
    assert found.told == (f"{path}: body and tumour share 32 voxels, which are taken as tumour: a voxel of several segments goes "
                          "to the smallest",)


def test_segments_on_a_part_of_the_scan_are_put_where_they_lie(tmp_path):
    affine, labels = PLACES["oblique"], outlines().T
    scan, low = nifti(tmp_path, affine), (2, 3, 1)
    cropped = affine.copy()
    cropped[:3, 3] = (affine @ [*low, 1])[:3]
    part = labels[low[0]:14, low[1]:18, low[2]:7, None]
    path = write_segments(tmp_path / "part.seg.nrrd", part, cropped, [("liver", 0, 1), ("ring", 0, 7)])
    found = stored_outlines(path, read_image(scan), scan)
    np.testing.assert_array_equal(array_of(found) == 7, outlines() == 7)
    np.testing.assert_array_equal(array_of(found) == 1, outlines() == 1)
    flipped = affine @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    path = write_segments(tmp_path / "turned.seg.nrrd", labels[::-1].transpose(0, 2, 1)[..., None], flipped, [("ring", 0, 7)])
    np.testing.assert_array_equal(array_of(stored_outlines(path, read_image(scan), scan)) == 7, outlines() == 7)


@pytest.mark.parametrize("place", ["axial", "sagittal", "coronal", "oblique", "mirrored"])
def test_a_segmentation_that_dcmqi_wrote(place, tmp_path):
    scan = series(tmp_path, PLACES[place])
    image = read_image(scan)
    stored = sitk.GetImageFromArray((outlines() == 7).astype(np.uint8))
    stored.CopyInformation(image)
    sitk.WriteImage(stored, tmp_path / "ring.nrrd")
    code = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    (tmp_path / "meta.json").write_text(json.dumps({
        "ContentCreatorName": "Reader1", "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1", "SeriesDescription": "s",
        "SeriesNumber": "300", "InstanceNumber": "1", "BodyPartExamined": "ABDOMEN",
        "segmentAttributes": [[{"labelID": 1, "SegmentLabel": "ring", "SegmentDescription": "ring",
                                "SegmentAlgorithmType": "MANUAL", "SegmentedPropertyCategoryCodeSequence": code,
                                "SegmentedPropertyTypeCodeSequence": code,
                                "recommendedDisplayRGBValue": [18, 52, 86]}]]}), encoding="utf-8")
    run("itkimage2segimage", "--inputImageList", tmp_path / "ring.nrrd", "--inputDICOMDirectory", scan, "--outputDICOM",
        tmp_path / "seg.dcm", "--inputMetadata", tmp_path / "meta.json")
    found = stored_outlines(tmp_path / "seg.dcm", image, scan)
    np.testing.assert_array_equal(array_of(found) == 1, outlines() == 7)
    assert found.names == {1: "ring"} and found.colours == {1: "#123456"}


@pytest.mark.parametrize("place", ["axial", "oblique", "mirrored"])
def test_structures_that_plastimatch_wrote(place, tmp_path):
    scan = series(tmp_path, PLACES[place])
    image = read_image(scan)
    stored = sitk.GetImageFromArray((outlines() == 1).astype(np.uint8))
    stored.CopyInformation(image)
    sitk.WriteImage(stored, tmp_path / "liver.nrrd")
    run("plastimatch", "convert", "--input-ss-img", tmp_path / "liver.nrrd", "--referenced-ct", scan,
        "--output-dicom", tmp_path / "o")
    [path] = [path for path in (tmp_path / "o").iterdir() if pydicom.dcmread(path).Modality == "RTSTRUCT"]
    np.testing.assert_array_equal(array_of(stored_outlines(path, image, scan)) > 0, outlines() == 1)


def dicom_segmentation(scan, path, array, **options):
    """Write (D, H, W, segments) masks with highdicom."""
    sources = [pydicom.dcmread(file) for file in sorted(scan.iterdir())]
    for one in sources:
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                     "AccessionNumber", "ReferringPhysicianName"):
            setattr(one, name, "")
        one.FrameOfReferenceUID, one.SliceThickness = "1.2.9", 9
    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [highdicom.seg.SegmentDescription(number, f"part {number}", tissue, tissue, "MANUAL")
                 for number in range(1, array.shape[3] + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        highdicom.seg.Segmentation(sources, array, **{"segmentation_type": "BINARY", **options}, segment_descriptions=described,
                                   series_instance_uid="1.2.77", series_number=7, sop_instance_uid="1.2.77.1", instance_number=1,
                                   manufacturer="m", manufacturer_model_name="m", software_versions="1",
                                   device_serial_number="1").save_as(path)
    return path


def test_segments_of_dicom_that_overlap_and_fractions(tmp_path):
    scan = series(tmp_path, PLACES["oblique"])
    image, masks = read_image(scan), np.zeros((*SHAPE[::-1], 2), np.uint8)
    masks[2:8, 2:12, 2:12, 0], masks[4:6, 8:14, 8:14, 1] = 1, 1
    found = stored_outlines(dicom_segmentation(scan, tmp_path / "two.dcm", masks), image, scan)
    np.testing.assert_array_equal(array_of(found), np.where(masks[..., 1], 2, masks[..., 0]))
    assert "part 1 and part 2 share 32 voxels, which are taken as part 2" in found.told[0]
    fractions = np.zeros((*SHAPE[::-1], 1))
    fractions[3, 4, 5:10, 0] = 0.2, 0.4, 0.6, 0.8, 1.0
    path = dicom_segmentation(scan, tmp_path / "part.dcm", fractions, segmentation_type="FRACTIONAL")
    assert np.argwhere(array_of(stored_outlines(path, image, scan))).tolist() == [[3, 4, 7], [3, 4, 8], [3, 4, 9]]
    labels = outlines()
    labels[labels == 7] = 4
    by_map = dicom_segmentation(scan, tmp_path / "map.dcm", np.stack([labels == n for n in range(1, 5)], 3).astype(np.uint8),
                                segmentation_type="LABELMAP")
    np.testing.assert_array_equal(array_of(stored_outlines(by_map, image, scan)), labels)


def test_outlines_of_another_series_are_refused(tmp_path):
    scan = series(tmp_path, PLACES["axial"])
    write_formats(FORMATS, outlines(), read_image(scan), scan, NAMES, COLOURS, tmp_path / "case.nii.gz")
    for file in scan.iterdir():
        head = pydicom.dcmread(file)
        head.SeriesInstanceUID = "1.2.4.99"
        head.save_as(file)
    for name in ("case_seg.dcm", "case_rtstruct.dcm"):
        with pytest.raises(InputError, match=r"its outlines are of the series 1\.2\.4\.1, but .*series is 1\.2\.4\.99; allowed"):
            stored_outlines(tmp_path / name, read_image(scan), scan)


def test_structures_on_a_nifti_of_the_series_lie_where_they_did(tmp_path):
    scan = series(tmp_path, PLACES["tilted"])
    write_formats([RTSTRUCT, DICOM_SEG], outlines(), read_image(scan), scan, NAMES, COLOURS, tmp_path / "case.nii.gz")
    converted = nifti(tmp_path, PLACES["tilted"])
    for name in ("case_rtstruct.dcm", "case_seg.dcm"):
        found = stored_outlines(tmp_path / name, read_image(converted), converted)
        np.testing.assert_array_equal(array_of(found) == 4, outlines() == 7)


TABLES = {
    "snap.txt": '# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "Clear Label"\n'
                '    1   230  159    0        1  1  1    "liver"\n    7   255  255  255        1  1  1    "the ring"\n',
    "slicer.ctbl": "# Color table file /home/a.ctbl\n# 3 values\n0 Background 0 0 0 0\n1 liver 230 159 0 255\n"
                   "7 the_ring 255 255 255 255\n",
    "freesurfer.txt": "#No. Label Name:  R G B A\n0   Unknown  0 0 0 0\n1 liver 230 159 0 0\n7 the_ring 255 255 255 0\n"
                      "2000 other 1 2 3 0\n",
    "bids.tsv": "index\tname\tcolor\tmapping\n0\tBackground\tn/a\tn/a\n1\tliver\t#E69F00\t1\n7\tthe ring\t#ffffff\t2\n"
                "9\tgone\tn/a\tn/a\n",
    "slicer.csv": "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n1,liver,230,159,0,255\n7,the ring,255,255,255,255\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_names_beside_a_label_map(table, tmp_path):
    scan, labels = nifti(tmp_path, PLACES["axial"]), tmp_path / "labels.nii.gz"
    stored = np.where(np.isin(outlines(), (1, 7)), outlines(), 0)
    write_formats([NIFTI], stored, read_image(scan), scan, {}, {}, labels)
    image = sitk.GetImageFromArray(stored)
    image.CopyInformation(read_image(scan))
    sitk.WriteImage(image, labels)
    assert stored_outlines(labels, read_image(scan), scan).names == {}
    labels.with_name(f"labels.{table.rpartition('.')[2]}").write_text(TABLES[table], encoding="utf-8")
    found = stored_outlines(labels, read_image(scan), scan)
    assert {name.replace("_", " ") for name in found.names.values()} == {"liver", "the ring"} and set(found.names) == {1, 7}
    assert found.colours == {1: "#e69f00", 7: "#ffffff"} and found.told == ()


def test_notes_beside_a_label_map_are_told_and_two_tables_are_refused(tmp_path):
    scan, labels = nifti(tmp_path, PLACES["axial"]), tmp_path / "labels.mha"
    image = sitk.GetImageFromArray(outlines())
    image.CopyInformation(read_image(scan))
    sitk.WriteImage(image, labels)
    (tmp_path / "labels.txt").write_text("outlined on Monday\n", encoding="utf-8")
    [told] = stored_outlines(labels, read_image(scan), scan).told
    assert told == f"{tmp_path / 'labels.txt'}: is no table of names in a form that is known, and is left out"
    (tmp_path / "labels.ctbl").write_text(TABLES["slicer.ctbl"], encoding="utf-8")
    assert stored_outlines(labels, read_image(scan), scan).names[1] == "liver"
    (tmp_path / "labels.tsv").write_text(TABLES["bids.tsv"], encoding="utf-8")
    with pytest.raises(InputError, match=r"labels.ctbl and labels.tsv both name its values; allowed: one table"):
        stored_outlines(labels, read_image(scan), scan)


def of_values(array, **names):
    return Outlines(sitk.GetImageFromArray(np.array([[array]], np.int16)), {int(key[1:]): name for key, name in names.items()})


def test_classes_of_one_name_have_one_value_in_all_outlines():
    known = {1: "liver", 2: "spleen"}
    moved = in_terms_of(known, of_values([0, 1, 2, 3], v1="spleen", v2="liver", v3="bone"), "b")
    assert array_of(moved).ravel().tolist() == [0, 2, 1, 3] and moved.names == {2: "spleen", 1: "liver", 3: "bone"}
    new = in_terms_of(known, of_values([0, 1, 3], v1="bone"), "b")
    assert array_of(new).ravel().tolist() == [0, 4, 3] and new.names == {4: "bone"}
    same = of_values([0, 1, 2])
    assert in_terms_of(known, same, "b") is same
    with pytest.raises(InputError, match="b: its label 1 has no name, and 1 is liver in other outlines"):
        in_terms_of(known, of_values([0, 1, 2], v2="liver"), "b")
