"""Scans of any kind of file: what a header names and declares."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataloaders.finding import find_scans
from dataloaders.reading import affine_at, check_header, content_sha256, read_image
from util.base.errors import InputError


@pytest.mark.parametrize(("ending", "field"), [("mhd", "ElementDataFile ="), ("nhdr", "data file:")])
@pytest.mark.parametrize("name", ["", ".", "..", "../a.raw", "/etc/passwd", "LIST", "a%03d.raw", "missing.raw", "a\0b"])
def test_a_file_of_values_that_is_none_beside_it_is_refused_in_one_line(ending, field, name, tmp_path):
    path = tmp_path / f"scan.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.int16)), path)
    assert read_image(path).GetSize() == (5, 4, 3)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{f'{field} {name}' if line.startswith(field) else line}\n" for line in lines), encoding="utf-8")
    for reader in (read_image, check_header, affine_at):
        with pytest.raises(InputError) as caught:
            reader(path)
        assert "\n" not in str(caught.value)
    assert list(find_scans(tmp_path).names)[0] == path
    if name != "missing.raw":
        assert content_sha256(path)


def test_denormal_numbers_in_a_header_make_itk_print_nothing(tmp_path, capfd):
    affine = np.diag([2.0, 2, 5, 1])
    affine[0, 1] = -1e-310
    nibabel.save(nibabel.Nifti2Image(np.ones((3, 4, 5), np.int16), affine), tmp_path / "scan.nii")
    assert nibabel.load(tmp_path / "scan.nii").affine[0, 1] == -1e-310
    assert read_image(tmp_path / "scan.nii").GetSpacing() == (2, 2, 5)
    assert capfd.readouterr() == ("", "")
