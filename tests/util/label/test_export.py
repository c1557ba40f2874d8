"""The export in other formats: the same voxels with names and colours, as `segment` writes them; and what it says of others."""

from contextlib import closing

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.dataloaders.outlines.formats import DICOM_SEG, FORMATS, RTSTRUCT, SEG_NRRD
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.writing import files_in
from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from qnet.util.label.export import export
from qnet.util.label.session import Session
from tests.dataloaders.outlines.made import COLOURS, NAMES, PLACES, image_voxels, nifti, outlines, series
from tests.labelling import drawing, write_scans
from tests.labelling import nifti as label_map_of

pytestmark = pytest.mark.usefixtures("warm")

CLASSES = [{"value": value, "name": name, "colour": COLOURS[value]} for value, name in NAMES.items()]


def draw(session, name):
    """Draw the outlines on the page's image of a scan."""
    image = nibabel.load(session.image_file(name))
    session.set_classes(CLASSES)
    session.draw(name, nibabel.Nifti1Image(outlines().T, image.affine).to_bytes(), session.saved(name))


@pytest.mark.whole
@pytest.mark.parametrize("place", ["sagittal", "mirrored", "tilted"])       # all: tests/dataloaders/outlines
def test_all_formats_of_a_series_have_the_same_voxels_names_and_colours(place, tmp_path):
    scan = series(tmp_path, PLACES[place])
    with closing(Session(tmp_path)) as session:
        draw(session, "series")
        folder, files, problems = export(session, FORMATS)
        assert problems == [] and len(files) == 9 and all((folder / file).is_file() for file in files)
    label_map = sitk.GetArrayFromImage(read_image(folder / "series.nii.gz"))
    assert (label_map == outlines()).all()
    for path in files_in([SEG_NRRD, DICOM_SEG, RTSTRUCT], folder / "series.nii.gz", NAMES.values()):
        read = stored_outlines(path, read_image(scan), scan)
        values = {value: read.names[value] for value in read.names}
        for value, name in NAMES.items():
            (own,) = (one for one, text in values.items() if text == name)
            assert ((sitk.GetArrayFromImage(read.labels) == own) == (label_map == value)).all(), (path, name)
            assert read.colours[own] == COLOURS[value]


def test_a_scan_that_is_no_series_goes_out_as_what_needs_none(tmp_path):
    nifti(tmp_path, PLACES["oblique"])
    with closing(Session(tmp_path)) as session:
        draw(session, "scan")
        with pytest.raises(InputError, match=r"formats: rtstruct refers to .* a DICOM series, but .*scan.nii.gz is none"):
            export(session, ["seg.nrrd", "rtstruct"])
        with pytest.raises(InputError, match=r"formats: got 'tiff', allowed: nifti, seg.nrrd"):
            export(session, ["tiff"])
        assert session.export_folder.is_empty()
        folder, files, problems = export(session, ["seg.nrrd"])
        assert (files, problems) == (["scan.nii.gz", "scan.seg.nrrd", "cases.csv"], [])
        assert image_voxels(folder / "scan.seg.nrrd", PLACES["oblique"]) == set(map(tuple, np.argwhere(outlines().T).tolist()))
        written = export(session)
        assert written.files == ["scan.nii.gz", "cases.csv"]
        assert written.problems == ["scan.seg.nrrd: is of an earlier export"] and (folder / "scan.seg.nrrd").is_file()


def test_a_scan_that_a_format_cannot_hold_is_told_and_the_others_are_written(tmp_path):
    write_scans(tmp_path, [1])
    scan = nifti(tmp_path, PLACES["axial"])
    with closing(Session(tmp_path)) as session:
        draw(session, "scan")
        session.draw("a_1", label_map_of(drawing()), 0)
        content = scan.read_bytes()
        scan.write_bytes(content[:len(content) // 2])
        _, files, problems = export(session, ["seg.nrrd"])
        assert "a_1.seg.nrrd" in files and "scan.seg.nrrd" not in files
        assert len(problems) == 1 and problems[0].startswith("scan: seg.nrrd: ") and "\n" not in problems[0]


@pytest.mark.whole
def test_a_folder_of_both_kinds_goes_out_as_each_scan_can(tmp_path):
    write_scans(tmp_path, [1])
    series(tmp_path, PLACES["axial"])
    with closing(Session(tmp_path)) as session:
        draw(session, "series")
        session.draw("a_1", label_map_of(drawing()), 0)
        _, files, problems = export(session, ["rtstruct", "seg.nrrd"])
    assert {"series_rtstruct.dcm", "series.seg.nrrd", "a_1.seg.nrrd"} < {*files}
    assert problems == ["a_1: is no DICOM series, so rtstruct cannot be written"]


def test_two_scans_are_not_written_to_one_file(tmp_path):
    write_scans(tmp_path, [1, 2])
    (tmp_path / "a_2.nii.gz").rename(tmp_path / "a_1_left.nii.gz")
    with closing(Session(tmp_path)) as session:
        session.set_classes([{"value": 1, "name": "left_kidney", "colour": "#000000"},
                             {"value": 2, "name": "kidney", "colour": "#ffffff"}])
        for name in ("a_1", "a_1_left"):
            session.draw(name, label_map_of(drawing()), 0)
        with pytest.raises(InputError, match=r"a_1_left_kidney.stl: two scans would be written to this file"):
            export(session, ["stl"])
        assert session.export_folder.is_empty()
