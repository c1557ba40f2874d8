"""Processes that change one file at a time lose nothing of each other."""

import json
import multiprocessing

from util.base.locks import alone


def add(folder, name):
    for number in range(20):
        with alone(folder):
            content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            (folder / "record.json").write_text(json.dumps([*content, f"{name}{number}"]), encoding="utf-8")


def test_nothing_is_lost_of_what_several_processes_add(tmp_path):
    (tmp_path / "record.json").write_text("[]", encoding="utf-8")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=add, args=(tmp_path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))) == sorted(
        f"{name}{number}" for name in "abcd" for number in range(20))
