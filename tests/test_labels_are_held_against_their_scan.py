"""A file of labels that declares another size than its scan is refused by its header, in every program, before it is unpacked."""

import gzip

import nibabel
import numpy as np
import pytest

from qnet.data.preparation.inspect_case import inspect_case
from qnet.data.preparation.raw import RawCase, read_nifti_pair
from qnet.dataloaders.datasets import Case
from qnet.dataloaders.volumes import expect_same_shape, read_label_of
from qnet.util.base.errors import InputError
from qnet.util.label.on_scan import read_labels
from qnet.util.predict.scans import read_support
from qnet.util.taskfile.task_file import create
from tests.dataloaders.test_volumes import spec

SHAPE, DECLARED = (8, 7, 6), (500, 400, 6)


@pytest.fixture
def pair(tmp_path):
    """A scan, and labels whose compressed values end at once. Whoever unpacks them says so, and nothing of their size."""
    image, labels = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(336, dtype=np.int16).reshape(SHAPE), np.eye(4)), image)
    head = nibabel.Nifti1Image(np.zeros(DECLARED, np.uint8), np.eye(4)).to_bytes()[:352]
    labels.write_bytes(gzip.compress(head + np.random.default_rng(0).bytes(2000)))
    return image, labels


READERS = {
    "predict, segment.sh": lambda image, labels: read_support(image, labels, None),
    "prepare.py": lambda image, labels: read_nifti_pair(RawCase("x", image, labels)),
    "page": read_labels,
    "task file": lambda image, labels: create(image.with_name("x.task"), [(image, labels)], None),
    "data set": lambda image, labels: read_label_of(case_of(image, labels), spec(), np.zeros(SHAPE[::-1])),
    "supervoxels": lambda image, labels: expect_same_shape(case_of(image, labels), np.zeros(SHAPE[::-1]), labels)}


def case_of(image, labels):
    return Case("x", image, labels, labels, labels)


@pytest.mark.parametrize("reader", READERS)
def test_the_size_that_labels_declare_is_held_against_the_scan_before_they_are_unpacked(reader, pair):
    sizes = r"(size \(x, y, z\) = \(500, 400, 6\)|shape \(D, H, W\) = \(6, 400, 500\))"
    with pytest.raises(InputError, match=rf"labels.nii.gz: {sizes}, but .*image.nii.gz has \((8, 7, 6|6, 7, 8)\)"):
        READERS[reader](*pair)


def test_check_py_names_the_size_of_labels_and_of_supervoxels(pair):
    problems = inspect_case(case_of(*pair), spec()).problems
    assert len(problems) == 2 and all("shape (D, H, W) = (6, 400, 500), but" in line for line in problems)
