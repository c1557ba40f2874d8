"""The check of two processes: rows and ratios of commands, files that differ, steps alone and beside another; slow: real data."""

import sys
import time
from pathlib import Path

import pytest

from qnet.scripts.checks.two_processes import (
    COMMANDS_HEADER,
    STAGES_HEADER,
    Command,
    main,
    measure_command,
    measure_stages,
    of_processes,
)
from qnet.util.base.errors import InputError

SHARED = Path(__file__).resolve().parents[4] / "shared"
PROGRAM = """
import pathlib, sys, time
folder, content, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if not folder.exists():
    time.sleep(seconds)
    folder.mkdir()
    (folder / "map.txt").write_text(content, encoding="utf-8")
"""


def command(written="map.txt", small=None, **forms):
    python = [sys.executable, "-c", PROGRAM]
    return Command({name: (python, words) for name, words in forms.items()}, lambda folder: [str(folder)], written, small)


def test_a_command_is_timed_with_and_without_what_it_takes_once_more(tmp_path):
    (one, two), same = measure_command("toy", command(one=["a", "0.6"], two=["a", "0.2"]), 1, tmp_path)
    assert same and one[:2] == ["toy", "one"] and two[:2] == ["toy", "two"] and len(one) == len(two) == len(COMMANDS_HEADER)
    assert one[3] == one[5] == "1.00" and float(one[2]) >= 0.6 > float(two[2]) >= 0.2 > float(two[4]) >= 0
    assert 2 < float(two[5]) < 4 and float(two[3]) < float(two[5])


def test_files_that_differ_or_are_missing_are_told(tmp_path):
    assert not measure_command("toy", command(one=["a", "0"], two=["b", "0"]), 1, tmp_path)[1]
    assert not measure_command("none", command("other.txt", one=["a", "0"]), 1, tmp_path)[1]


def test_a_small_job_has_words_of_its_own(tmp_path):
    def words(folder):
        assert folder.parent.is_dir()
        return [str(folder)]

    (row,), same = measure_command("toy", command(small=words, one=["a", "0.3"]), 1, tmp_path)
    assert same and float(row[4]) >= 0.3 and (tmp_path / "toy_0_0/small/map.txt").is_file()


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(InputError, match=r"(?s)fast: ended with status 1.*could not convert"):
        measure_command("toy", command(one=["a", "fast"]), 1, tmp_path)


def naps(data_dir, folder):
    return {"short": lambda: time.sleep(0.01), "long": lambda: time.sleep(0.05)}


@pytest.mark.whole
def test_steps_are_timed_in_processes_that_do_them_together(warm, tmp_path):
    taken = of_processes(2, tmp_path, naps)
    assert list(taken) == ["short", "long"] and 0.01 <= taken["short"] < 0.05 <= taken["long"] < 0.2


def test_steps_alone_and_beside_another_are_medians_of_the_rounds(tmp_path, monkeypatch):
    given = iter([1.0, 2.0, 3.0, 3.0, 2.0, 9.0])      # alone and beside another, in turn
    monkeypatch.setattr("qnet.scripts.checks.two_processes.of_processes", lambda n, *_: {"step": next(given)})
    header, _, row = [[cell.strip() for cell in line.strip("|").split("|")] for line in measure_stages(tmp_path, 3).splitlines()]
    assert header == STAGES_HEADER and row == ["step", "2", "3", "1.50"]


def no_case(data_dir, folder):
    raise InputError(f"{data_dir}: no case")


@pytest.mark.slow
def test_steps_that_cannot_be_made_end_all_processes(tmp_path):
    with pytest.raises(InputError, match="no case"):
        of_processes(2, tmp_path, no_case)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared (real data) is absent")
def test_the_whole_of_it(capsys):
    assert main(["--data-dir", str(SHARED / "data/CHAOST2"), "--rounds", "1", "--scans", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[-7:]] == ["supervoxels"] * 3 + ["predict"] * 2 + ["evaluate"] * 2
    assert sum("predict: " in line for line in lines) == 2
