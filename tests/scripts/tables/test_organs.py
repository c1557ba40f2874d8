"""scripts/tables/organs.py on a folder of tiny sets: pairing, scores, what is kept, tables, pictures and the page."""

import csv
from pathlib import Path

import numpy as np
import pytest

from qnet.scripts.tables import organs
from qnet.scripts.tables.organ_sets.cases import NAMES, chaos_set, jobs_of, paired, sets_in
from qnet.scripts.tables.organ_sets.pictures import best_slice, draw
from qnet.scripts.tables.organ_sets.tables import all_sets, one_set, seconds_a_scan, trust
from qnet.util.base.errors import InputError
from tests.settings import STEPS
from tests.toy import toy_case, write, write_toy_data

COARSE = [f"registration.{key}={value}" for key, value in {**STEPS, "affine": "false"}.items()]


@pytest.fixture
def folder(tmp_path):
    """Two sets of toy cases, thinned out, of full size and of a tenth; the second's images and labels have other names."""
    for name, label_name, scale, numbers in (("large", "scan_{}", 1.0, (1, 2, 3)), ("small", "outlines-{}", 0.1, (1, 2))):
        for number in numbers:
            image, label_map = (volume[:, ::3, ::3] for volume in toy_case(number)[:2])
            affine = np.diag([-6.0 * scale, 6.0 * scale, 7.7 * scale, 1.0])
            write(tmp_path / f"sets/{name}/images/scan_{number}.nii.gz", image, affine)
            write(tmp_path / f"sets/{name}/labels/{label_name.format(number)}.nii.gz", label_map, affine)
    return tmp_path / "sets"


def rows_of(output):
    with (output / "organs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(name="liver", label=1, query="a", guided=0.5, confidence=0.5, registration=0.4, of_set="x", seconds=2.0):
    return {"set": of_set, "support": "s", "query": query, "label": label, "name": name, "registration": registration,
            "guided": guided, "confidence": confidence, "seconds": seconds, "preparation_s": 6.0, "memory_mb": 700.0}


@pytest.mark.whole
@pytest.mark.usefixtures("warm")
def test_sets_are_outlined_scored_kept_and_drawn(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")       # the two threads of --avx2 share two cores with other tests
    page, output = tmp_path / "page.md", tmp_path / "out"
    page.write_text(f"# Page\n\n{organs.BEGIN}\nold\n{organs.END}\n\nThe end.\n", encoding="utf-8")
    words = ["--data-dir", str(folder), "--output", str(output), "--stones", "1", "--avx2", "--options", *COARSE]
    assert organs.main([*words, "--picture-dir", str(tmp_path / "pictures"), "--page", str(page)]) == 0
    text, rows = capsys.readouterr().out, rows_of(output)
    assert list(dict.fromkeys((row["set"], row["support"], row["query"]) for row in rows)) == [
        ("large", "scan_1", "scan_2"), ("large", "scan_1", "scan_3"), ("small", "scan_1", "scan_2")]
    for found in rows:
        assert min(float(found["guided"]), float(found["registration"])) > 0.5 and 0 < float(found["confidence"]) <= 1
        assert found["border"] and float(found["wide_mm"]) > 0 and 0 <= float(found["agreement"]) <= 1
        assert "AVX2" in found["processor"] and float(found["memory_mb"]) > 100
    assert "| all together" in text and "**small**" in text and "label 4" in text
    written = page.read_text(encoding="utf-8")
    assert text.strip() in written and "old" not in written and written.endswith("The end.\n")
    assert "](pictures/organs_large.png)" in written
    assert (tmp_path / "pictures/organs_small.png").read_bytes().startswith(b"\x89PNG")

    (output / "label_maps/small/from scan_1/scan_2.nii.gz").unlink()
    before = {(row["set"], row["query"]): row["seconds"] for row in rows}
    assert organs.main(words) == 0
    after = {(row["set"], row["query"]): row["seconds"] for row in rows_of(output)}
    assert {key for key in after if after[key] != before[key]} == {("small", "scan_2")}


@pytest.mark.whole
@pytest.mark.usefixtures("warm")
def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_scored(folder, tmp_path, capsys):
    (folder / "large/images/scan_2.nii.gz").write_bytes(b"no scan")
    assert organs.main(["--data-dir", str(folder / "large"), "--output", str(tmp_path / "out"), "--stones", "0",
                        "--options", *COARSE]) == 1
    assert "error: large: scan_2: " in capsys.readouterr().err
    assert {row["query"] for row in rows_of(tmp_path / "out")} == {"scan_3"}


def test_images_and_labels_belong_together_by_name_else_by_order(folder):
    large, small = sets_in(folder)
    assert [(case.name, case.labels.name) for case in large.cases] == [(f"scan_{n}", f"scan_{n}.nii.gz") for n in (1, 2, 3)]
    assert [case.labels.name for case in small.cases] == ["outlines-1.nii.gz", "outlines-2.nii.gz"]
    assert [organ.name for organ in sets_in(folder, ["small"])] == ["small"] and sets_in(folder / "small")[0].name == "small"
    some = paired([Path("a2.nii"), Path("b.nii"), Path("c.nii")], [Path("b.nii"), Path("x.nii"), Path("y.nii")], Path())
    assert [case.labels.name for case in some] == ["x.nii", "b.nii", "y.nii"]


def test_what_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"--sets: none: no such set in .*; allowed: large, small"):
        sets_in(folder, ["none"])
    with pytest.raises(InputError, match=r"--data-dir: no set in .*; allowed: a folder with images/ and labels/"):
        sets_in(tmp_path / "nowhere")
    (folder / "small/labels/outlines-2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"small: 2 images and 1 labels; allowed: equally many"):
        sets_in(folder)
    with pytest.raises(InputError, match=r"--outlined: large has no case 4; allowed: 1 to 3"):
        jobs_of(sets_in(folder, ["large"])[0], [4], 6)
    with pytest.raises(InputError, match="--chaos: "):
        chaos_set(folder)


def test_the_number_of_stones_has_an_option_of_its_own(folder, capsys):
    with pytest.raises(SystemExit):
        organs.main(["--data-dir", str(folder), "--options", "registration.stones=0"])
    assert "'registration.stones=0', allowed: any other; --stones says" in capsys.readouterr().err


def test_each_outlined_case_has_the_others_as_queries_and_stones(folder):
    first, third = jobs_of(sets_in(folder, ["large"])[0], [1, 3], 1)
    assert [case.name for case in first.queries] == ["scan_2", "scan_3"] and [case.name for case in first.stones] == ["scan_2"]
    assert third.support.name == "scan_3" and [case.name for case in third.queries] == ["scan_1", "scan_2"]


def test_chaos_has_its_own_layout(tmp_path):
    chaos = chaos_set(write_toy_data(tmp_path))
    assert [case.name for case in chaos.cases] == ["1", "2", "3", "10", "12"] and chaos.cases[3].labels.name == "label_10.nii.gz"
    assert NAMES[chaos.name][1] == "liver"


def test_the_tables_hold_means_over_classes_and_over_sets():
    rows = [row(query="a", guided=0.4, confidence=0.3), row(query="b", guided=0.6, confidence=0.7),
            row("spleen", 2, "a", guided=0.8, confidence=0.9)]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in one_set(rows).splitlines()]
    assert lines[2:] == [["liver", "2", "0.400", "0.500", "0.100", "0.500"], ["spleen", "1", "0.400", "0.800", "0.400", "0.900"],
                         ["mean", "", "0.400", "0.650", "0.250", "0.700"]]
    assert trust(rows) == ["1.00", "0.100"] and trust(rows[:1])[0] == "–"
    assert seconds_a_scan(rows) == 2.0 + 6.0 / 2
    last = all_sets({"x": rows, "y": [row(of_set="y", guided=0.25)]}).splitlines()[-1].split("|")
    assert [cell.strip() for cell in last[1:-3]] == ["all together", "", "3", "", "0.400", "0.450", "0.600", "0.80", "0.138"]


def test_the_slice_with_most_labels_is_drawn(tmp_path):
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:5, 1:5, 2], labels[3, 3, 4], labels[2, 2, 4] = 1, 1, 2
    assert best_slice(labels, np.ones(3), [2]) == (2, 4) and best_slice(labels, np.array([1, 3.0, 1]))[0] == 1
    data = write_toy_data(tmp_path) / "chaos_MR_T2_normalized"
    panels = [("by hand", data / "image_1.nii.gz", None, data / "label_1.nii.gz"),
              ("found", data / "image_2.nii.gz", data / "label_1.nii.gz", data / "label_2.nii.gz")]
    draw(panels, {1: "liver"}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_the_comments_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match=r"--page: .*page.md has no lines"):
        organs.fill_page(tmp_path / "page.md", "text", {})
