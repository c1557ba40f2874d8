"""The table of docs/own_scans.md: what is copied, timed and scored; the segmenting itself has tests of its own."""

import os

import numpy as np
import pytest

from qnet.scripts.tables.own_scans import copy_scans, draw, main, scores_of, seconds_of, table
from qnet.util.base.errors import InputError
from tests.toy import write_toy_data


def test_cases_are_copied_in_the_order_of_their_numbers(tmp_path):
    data = write_toy_data(tmp_path / "data")
    assert copy_scans(data, tmp_path / "scans", 4) == ["1", "2", "3", "10"]
    assert (tmp_path / "scans/case 10.nii.gz").read_bytes() == (data / "chaos_MR_T2_normalized/image_10.nii.gz").read_bytes()
    with pytest.raises(InputError, match=r"--data-dir: 5 images in .*, allowed: .* at least 6"):
        copy_scans(data, tmp_path / "scans", 6)


def test_seconds_lie_between_one_file_and_the_next(tmp_path):
    for name, written in (("b", 105.0), ("a", 112.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (written, written))
    assert seconds_of([tmp_path / "a", tmp_path / "b"], 100.0) == [7.0, 5.0]


def test_dice_of_each_class_and_the_means(tmp_path):
    truth = write_toy_data(tmp_path) / "chaos_MR_T2_normalized/label_1.nii.gz"
    assert scores_of(truth, truth) == [1, 1, 1, 1]
    text = table(["2", "3"], np.array([[1, 1, 1, 1], [0.5, 0, 1, 0.5]]), [10, 20])
    assert text.splitlines()[-1].split() == ["mean", "75.0", "50.0", "100.0", "75.0", "75.0", "15"]


def test_the_picture_has_every_case(tmp_path):
    images = write_toy_data(tmp_path) / "chaos_MR_T2_normalized"
    draw(["1", "2"], {"2": images / "label_2.nii.gz"}, images, np.ones((1, 4)), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_there_is_not_timed_again(tmp_path):
    (tmp_path / "outlined").mkdir()
    with pytest.raises(SystemExit, match=r"^error: --output: .*outlined is there; allowed: a folder for a new run"):
        main(["--output", str(tmp_path), "--data-dir", str(tmp_path)])
