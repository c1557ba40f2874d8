"""Prepared volumes: made once, made again when a source changes, read by the slice, and never half."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from qnet.dataloaders.store import Slices, Store
from qnet.util.base.checksums import sha256
from qnet.util.base.files import partial_name


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
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "sums.jsonl"}


def test_slices_are_those_of_the_array(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    slices = Slices(tmp_path / "a.npy", 5)
    assert len(slices) == 5 and type(slices[2]) is np.ndarray
    np.testing.assert_array_equal(np.stack(list(slices)), array)
    with pytest.raises(IndexError):
        slices[5]


def test_a_start_after_a_kill_makes_only_what_is_missing(tmp_path, source):
    made = []

    def make(name):
        made.append(name)
        if made == ["1", "2", "3"]:
            raise KeyboardInterrupt
        return Maker()()

    def make_all():
        store = Store(tmp_path / "store")
        return [store.get(name, [source], {}, lambda name=name: make(name)) for name in "1234"]

    with pytest.raises(KeyboardInterrupt):
        make_all()
    assert len(make_all()) == 4 and made == ["1", "2", "3", "3", "4"]
    lines = (tmp_path / "store/sums.jsonl").read_text(encoding="utf-8").split()
    assert len(lines) > 0 and sum(str(source) in line for line in lines) == 1       # nor is the source read again


def test_what_killed_processes_left_is_removed_and_what_others_are_writing_stays(tmp_path, source, monkeypatch):
    old, young = (partial_name(tmp_path / f"store/{n}_ab") for n in (1, 2))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "image.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    Store(tmp_path / "store")
    assert old.is_dir()             # the main process removes it
    monkeypatch.setenv("RANK", "0")
    Store(tmp_path / "store")
    assert not old.exists() and young.is_dir()
