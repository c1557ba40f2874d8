"""Facts about files: found out once, and again when a file or a setting changes; damage to the list costs time alone."""

import os
import pickle

import pytest

from qnet.util.base.kept import Kept


class Length:
    """Finds out how long a file is, and counts how often."""

    def __init__(self):
        self.n = 0

    def __call__(self, path):
        self.n += 1
        return len(path.read_bytes())


@pytest.fixture
def length():
    return Length()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ä.nii"
    path.write_bytes(b"abc")
    return path


def test_a_file_that_did_not_change_is_not_read_again(tmp_path, file, length):
    kept = Kept(tmp_path / "list", length)
    assert not kept.knows(file) and kept.of(file) == kept.of(file) == 3 and length.n == 1
    assert not (tmp_path / "list").exists()         # before save, nothing is written
    kept.save()
    kept.save()
    assert Kept(tmp_path / "list", length).knows(file) and Kept(tmp_path / "list", length).of(file) == 3 and length.n == 1
    assert len((tmp_path / "list").read_text(encoding="ascii").strip().splitlines()) == 1

    os.utime(file, (1, 1))
    later = Kept(tmp_path / "list", length)
    assert not later.knows(file) and later.of(file) == 3 and length.n == 2
    file.write_bytes(b"abcd")
    assert later.of(file) == 4


def test_what_another_process_found_out_is_read(tmp_path, file, length):
    one, other = Kept(tmp_path / "list", length), Kept(tmp_path / "list", length)
    one.of(file)
    one.save()
    other.read()
    assert other.of(file) == 3 and length.n == 1


def test_other_settings_are_other_facts(tmp_path, file, length):
    for settings in ({"a": 1}, {"a": 2}, {"a": 1}):
        kept = Kept(tmp_path / "list", length, settings)
        kept.of(file)
        kept.save()
    assert length.n == 2


@pytest.mark.parametrize("damage", [b"", b"[1", b"[1]", b"\n1\n{}\n", b"\xff\xfe", b'{"settings": null, "file": "a"}'])
def test_a_damaged_list_costs_time_alone(tmp_path, file, length, damage):
    (tmp_path / "list").write_bytes(damage)
    kept = Kept(tmp_path / "list", length)
    assert kept.of(file) == 3 and length.n == 1
    kept.save()
    assert Kept(tmp_path / "list", length).knows(file)


def test_where_the_list_cannot_be_written_nothing_is_kept(tmp_path, file, length):
    kept = Kept(file / "list", length)
    assert kept.of(file) == 3
    kept.save()
    assert not Kept(file / "list", length).knows(file)


def test_errors_are_those_of_the_reader(tmp_path, length):
    kept = Kept(tmp_path / "list", length)
    for ask in (kept.of, kept.knows):
        with pytest.raises(FileNotFoundError):
            ask(tmp_path / "none")


def test_a_copy_for_a_pool_takes_no_facts_along(tmp_path, file):
    kept = Kept(tmp_path / "list", os.path.getsize)
    size = len(pickle.dumps(kept))
    kept.of(file)
    assert len(pickle.dumps(kept)) == size and pickle.loads(pickle.dumps(kept)).of(file) == 3
