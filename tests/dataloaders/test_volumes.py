"""Label maps and images of a data set."""

import numpy as np
import pytest

from qnet.dataloaders.volumes import normalise, read_label
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec
from tests.toy import write


def spec(name="CHAOST2"):
    return dataset_spec(name, base_config()["datasets"][name])


def test_labels_of_cmr_are_mapped_and_label_values_are_taken_as_they_are(tmp_path):
    stored = np.array([[[0, 200], [500, 600]]], np.float64)
    write(tmp_path / "l.nii.gz", stored)
    assert read_label(tmp_path / "l.nii.gz", spec("CMR")).tolist() == [[[0, 1], [2, 3]]]
    write(tmp_path / "l.nii.gz", np.array([[[0, 1], [2, 3]]], np.int16))
    assert read_label(tmp_path / "l.nii.gz", spec("CMR")).tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (0.5, "0.5"), (-1, "-1")])
def test_unknown_label_value(tmp_path, value, shown):
    write(tmp_path / "l.nii.gz", np.full((1, 2, 2), value, np.float32))
    with pytest.raises(InputError, match=rf"l.nii.gz: holds the value {shown}, allowed for CMR: \[0, 200, 500, 600\]"):
        read_label(tmp_path / "l.nii.gz", spec("CMR"))


def test_normalise_by_hand():
    assert np.allclose(normalise(np.array([[[1.0, 3.0]]], np.float32)), [[[-1.0, 1.0]]])
