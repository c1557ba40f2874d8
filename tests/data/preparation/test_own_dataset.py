"""The data set table's entry for a user's own files."""

import pytest

from qnet.data.preparation.own_dataset import config_text, describe_dataset
from qnet.data.preparation.raw import RawCase
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config, check_config, read_json5
from qnet.util.options.sections import dataset_spec
from tests.data.raw_downloads import empty_scan, write_nifti_pair

GRID = empty_scan((40, 36, 6), (6.0, 6.0, 20.0))


def own_dataset(tmp_path, values, names):
    raw = RawCase("a", tmp_path / "image_a.nii.gz", tmp_path / "label_a.nii.gz")
    write_nifti_pair(raw.image, raw.label, GRID, values)
    broken = RawCase("b", tmp_path / "image_b.nii.gz", tmp_path / "label_b.nii.gz")
    return describe_dataset("MINE", [raw, broken], names)


@pytest.mark.parametrize(("values", "names", "labels", "file_values"), [
    ((1, 7), {7: "spleen"}, {1: "label 1", 7: "spleen"}, {}),
    ((200, 500, 600), {500: "blood pool"}, {1: "label 200", 2: "blood pool", 3: "label 600"}, {200: 1, 500: 2, 600: 3}),
])
def test_the_entry_of_an_own_dataset_is_a_valid_config(tmp_path, values, names, labels, file_values):
    spec = own_dataset(tmp_path, values, names)
    assert (spec.labels, spec.file_values, spec.n_folds) == (labels, file_values, 2)
    file = tmp_path / "mine.json5"
    file.write_text(config_text(spec, "data/MINE", 800), encoding="utf-8")
    changes, config = read_json5(file), base_config()
    for section in ("path", "datasets"):
        config[section] |= changes.pop(section)
    check_config(config | changes)
    assert dataset_spec("MINE", config["datasets"]["MINE"]) == spec
    assert config["path"]["MINE"] == {"data_dir": "data/MINE"}


def test_names_for_values_that_no_file_has_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--names: 3 is in no label file, which hold \[1, 2\]"):
        own_dataset(tmp_path, (1, 2), {3: "liver"})


def test_own_labels_that_are_all_background_are_refused(tmp_path):
    with pytest.raises(InputError, match="no label file of MINE that can be read holds a value above 0"):
        own_dataset(tmp_path, (), {})
