"""Prepared volumes: made once, made again when a source changes, read by the slice, and never half."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from dataloaders.store import Slices, Store, Sums
from util.base.checksums import sha256


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"one")
    return path


class Maker:
    """Makes an array, and counts how often."""

    def __init__(self):
        self.n = 0

    def __call__(self):
        self.n += 1
        return {"image": np.arange(24, dtype=np.float32).reshape(4, 2, 3)}


def test_a_volume_is_made_once_for_each_source_and_setting(tmp_path, source):
    make, folder = Maker(), tmp_path / "store"
    first = Store(folder).get("1", [source], {"a": 1}, make)
    assert Store(folder).get("1", [source], {"a": 1}, make) == first and make.n == 1
    assert Store(folder).get("1", [source], {"a": 2}, make) != first and make.n == 2
    source.write_bytes(b"two")
    assert Store(folder).get("1", [source], {"a": 1}, make) == first and make.n == 3
    os.utime(source)      # another time, and the same content
    Store(folder).get("1", [source], {"a": 1}, make)
    assert make.n == 3 and json.loads((first / "record.json").read_text(encoding="utf-8"))["sums"] == [sha256(source)]


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "image.npy").unlink(), lambda folder: (folder / "image.npy").write_bytes(b""),
    lambda folder: (folder / "record.json").write_bytes(b"{"), lambda folder: (folder / "record.json").write_bytes(b'{"a": 1}'),
])
def test_a_damaged_volume_is_made_again(tmp_path, source, damage):
    make, store = Maker(), Store(tmp_path / "store")
    folder = store.get("1", [source], {}, make)
    damage(folder)
    assert store.get("1", [source], {}, make) == folder and make.n == 2
    np.testing.assert_array_equal(np.load(folder / "image.npy"), make()["image"])


def test_nothing_half_made_is_left(tmp_path, source):
    def fails():
        raise MemoryError

    store = Store(tmp_path / "store")
    with pytest.raises(MemoryError):
        store.get("1", [source], {}, fails)
    assert list((tmp_path / "store").glob("*")) == []
    folder = store.get("1", [source], {}, Maker())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_slices_are_those_of_the_array(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    slices = Slices(tmp_path / "a.npy", 5)
    assert len(slices) == 5 and type(slices[2]) is np.ndarray
    np.testing.assert_array_equal(np.stack(list(slices)), array)
    with pytest.raises(IndexError):
        slices[5]


def test_sums_of_unchanged_files_are_not_computed_again(tmp_path, source):
    sums = Sums(tmp_path / "sums.json")
    assert sums.of(source) == sha256(source)
    sums.save()
    kept = json.loads((tmp_path / "sums.json").read_text(encoding="utf-8"))
    (key, entry), = kept.items()
    (tmp_path / "sums.json").write_text(json.dumps({key: [*entry[:-1], "as kept"]}), encoding="utf-8")
    assert Sums(tmp_path / "sums.json").of(source) == "as kept"
    source.write_bytes(b"other")
    assert Sums(tmp_path / "sums.json").of(source) == sha256(source)
    (tmp_path / "sums.json").write_bytes(b"[1")
    assert Sums(tmp_path / "sums.json").of(source) == sha256(source)
