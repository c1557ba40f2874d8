"""NIfTI files: axes, geometry, whole files."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.dataloaders.nifti import read_array, read_nifti, save, write_like
from qnet.util.base.files import LIST
from tests.toy import write


def test_axes_are_slice_row_column(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write(tmp_path / "a.nii.gz", array)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (4, 3, 2)
    assert np.array_equal(read_array(tmp_path / "a.nii.gz"), array)


def test_written_like_an_oblique_reference(tmp_path):
    affine = np.array([[1.2, 0.3, 0.1, -80], [-0.3, 1.2, 0.4, 12], [-0.1, -0.5, 7.0, 33], [0, 0, 0, 1]])
    write(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), affine)
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3] = 1
    write_like(tmp_path / "image.nii.gz", mask, tmp_path / "out/mask.nii.gz")
    file = nibabel.load(tmp_path / "out/mask.nii.gz")
    assert np.allclose(file.affine, affine, atol=1e-5) and file.get_data_dtype() == np.uint8
    assert np.array_equal(read_array(tmp_path / "out/mask.nii.gz"), mask)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mask.nii.gz", LIST}
    with pytest.raises(ValueError, match=r"expected shape \(3, 4, 5\), got \(3, 4, 4\)"):
        write_like(tmp_path / "image.nii.gz", mask[:, :, :4], tmp_path / "out/other.nii.gz")


def test_spacing_is_the_decimal_that_was_written(tmp_path):
    volume = sitk.Image(4, 4, 4, sitk.sitkInt16)
    volume.SetSpacing((1.36, 1.89, 7.7))
    sitk.WriteImage(volume, tmp_path / "image.nii.gz")
    assert read_nifti(tmp_path / "image.nii.gz").GetSpacing() == (1.36, 1.89, 7.7)


def test_save_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fails(image, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(nibabel, "save", fails)
    with pytest.raises(RuntimeError, match="disk full"):
        save(sitk.Image(2, 2, 1, sitk.sitkFloat64), tmp_path / "image_1.nii.gz")
    assert list(tmp_path.iterdir()) == []
