"""What scripts/segment.sh --train trains on, and that it does."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.scripts.own_training import FEWEST, grid_of, train_on
from qnet.scripts.segment import main
from qnet.util.base.errors import InputError
from qnet.util.training.snapshots import read_snapshot

IMAGES = "chaos_MR_T2_normalized"


def image(size, spacing_mm):
    made = sitk.Image(size, sitk.sitkFloat32)
    made.SetSpacing(spacing_mm)
    return made


def test_the_grid_holds_every_scan_and_is_no_finer_than_the_scans():
    images = [image((100, 80, 20), (2, 2, 5)), image((90, 90, 30), (2, 2, 7)), image((50, 50, 9), (3, 3, 7))]
    spacing_mm, size_px = grid_of(images)
    assert spacing_mm == (2, 2, 7) and size_px == 112      # 200 mm in 100 pixels, the next multiple of 16
    spacing_mm, size_px = grid_of([image((1024, 1024, 20), (0.5, 0.5, 1))])
    assert spacing_mm == (2, 2, 1) and size_px == 256


def scans(toy_data, folder, numbers):
    folder.mkdir()
    for number in numbers:
        sitk.WriteImage(sitk.ReadImage(toy_data / IMAGES / f"image_{number}.nii.gz"), folder / f"scan {number}.nii.gz")
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_trained_without_labels_on_scans_that_can_be_read(toy_data, tmp_path, capsys):
    paths = scans(toy_data, tmp_path / "scans", (1, 2, 3, 10))
    (tmp_path / "scans/broken.nii.gz").write_bytes(b"no scan")
    found = [tmp_path / "scans/broken.nii.gz", *paths]
    snapshot, config = train_on(found, paths[1], tmp_path / "training", n_steps=2)
    said = capsys.readouterr().out
    assert "not trained on: " in said and "training on 2 of the 4 scans, without labels: about 1 min" in said
    read = read_snapshot(snapshot)
    assert read.step == 2 and read.config["datasets"]["OWN"] == config["datasets"]["OWN"]
    assert read.config["exclude_label"] is None and not read.config["use_gt"]
    np.testing.assert_allclose(config["datasets"]["OWN"]["grid"]["spacing_mm"], (2, 2, 7.7), rtol=1e-6)
    again, _ = train_on(found, paths[1], tmp_path / "training", n_steps=2)
    assert again == snapshot


def test_too_few_scans(toy_data, tmp_path):
    paths = scans(toy_data, tmp_path / "scans", (1, 2))
    with pytest.raises(InputError, match=f"--train: 2 scans can be read, allowed: at least {FEWEST}"):
        train_on(paths, paths[0], tmp_path / "training")


@pytest.mark.slow
def test_the_command_with_training(toy_data, tmp_path):
    scans(toy_data, tmp_path / "scans", (1, 2, 3, 10, 12))
    labels = toy_data / IMAGES / "label_1.nii.gz"
    assert main(["--scans", str(tmp_path / "scans"), "--outlined", f"scan 1={labels}", "--output", str(tmp_path / "out"),
                 "--train"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"scan {number}.nii.gz" for number in (2, 3, 10, 12)}
