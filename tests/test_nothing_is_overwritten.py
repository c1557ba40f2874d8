"""Every program that writes, times the ways in which that could hit what is a user's: one line, and every file stays.

Part of the table of bad input (tests/bad_input/). What the guard takes for the same file: tests/util/base/test_files.py.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import SimpleITK as sitk

from qnet.data import check, phantom, prepare
from qnet.data.supervoxels import generate_supervoxels
from qnet.scripts import compare, demo
from qnet.scripts.checks import benchmark
from qnet.scripts.tables import compare_methods, label_pictures, report_pictures, results
from qnet.util.base.checksums import sha256
from qnet.util.base.files import write_text
from tests.data.raw_downloads import write_dicom
from tests.programs import entry_point, run
from tests.runs import write_evaluation, write_run

IMAGES = "chaos_MR_T2_normalized"
PREDICT = {"reload_model_path": "{data}/w.pth", "support_image": f"{{data}}/{IMAGES}/image_1.nii.gz",
           "support_label": f"{{data}}/{IMAGES}/label_1.nii.gz", "query": f"{{data}}/{IMAGES}/image_2.nii.gz",
           "output": "{data}/out"}
READ, LIES_IN, FOLDER = "is read, as", "which is read as a whole", "is a folder"
FOREIGN, NO_PART = "is there and was not made by this program", "is no part of the phantom"


@pytest.fixture
def data(toy_data, trained, tmp_path):
    """What a user has: scans with labels, a snapshot, evaluations, and files that were made elsewhere."""
    folder = tmp_path / "data"
    shutil.copytree(toy_data, folder)
    shutil.copy(trained / "snapshots/3.pth", folder / "w.pth")
    write_evaluation(folder / "run", folder)
    write_run(folder / "runs/q")
    (folder / "series").mkdir()
    scan = sitk.Cast(sitk.ReadImage(folder / f"{IMAGES}/image_3.nii.gz"), sitk.sitkUInt16)
    for z in range(scan.GetDepth()):
        write_dicom(folder / f"series/slice {z}", scan, z, z + 1)
    return folder


def everything(folder):
    """Each file with its check sum, each link with where it leads."""
    return {path: path.readlink() if path.is_symlink() else sha256(path) for path in folder.rglob("*")
            if path.is_symlink() or path.is_file()}


def foreign(*paths):
    """Files that nobody knows."""
    def arrange(data):
        for path in paths:
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            (data / path).write_text("a user's own", encoding="utf-8")
    return arrange


def a_folder(path):
    return lambda data: (data / path).mkdir(parents=True)


def hard_link(name, source):
    def arrange(data):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(data / source, data / name)
    return arrange


def soft_link(name, source):
    def arrange(data):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).symlink_to(data / source)
    return arrange


def corrected(path, other):
    """A file that this project wrote, and that was changed by hand since."""
    def arrange(data):
        write_text("as it was written", data / path)
        shutil.copy(data / other, data / path)
    return arrange


def nothing(data):
    pass


def masks_for_labels(data):
    for path in (data / IMAGES).glob("label_*"):
        path.rename(path.with_name(path.name.replace("label", "mask")))


def in_order(*steps):
    return lambda data: [step(data) for step in steps]


def recorded(n_sv):
    """A record says that the maps were made of other images."""
    return lambda data: (data / f"supervoxels_{n_sv}/supervoxels.json").write_text(
        json.dumps({str(case): {"image_sha256": "another"} for case in (1, 2, 3, 10, 12)}), encoding="utf-8")


SMALL_PHANTOM = ["--output", "{data}/PHANTOM", "--size", "32", "--slices", "10", "--cases"]


def make_phantom(data):
    assert phantom.main([word.format(data=data) for word in [*SMALL_PHANTOM, "1"]]) == 0


def predict(data, **options):
    options = {key: value.format(data=data) if isinstance(value, str) else value for key, value in {**PREDICT, **options}.items()}
    entry_point("test").experiment.run("predict", config_updates={"device": "cpu", "n_iters": 0, **options})


def report(data, **options):
    entry_point("test").experiment.run("report", config_updates={"run": str(data / "run"), **options})


def program(main, *words):
    """A program with a `main(arguments)` that returns the exit status."""
    return lambda data: main([word.format(data=data) for word in words])


def script(main, *words):
    """A program that reads sys.argv, and exits."""
    def start(data):
        sys.argv = ["script.py", *(word.format(data=data) for word in words)]
        main()
    return start


def predict_with(**options):
    return lambda data: predict(data, **options)


def start_demo(data):
    demo.main([], data / "demo_output")


PREPARE = (partial(prepare.main, make_maps=lambda *_: True), "nifti",
           "--label", "mask_{{case}}.nii.gz", "--spacing", "4", "4", "8", "--size", "32", "--jobs", "1")
OVERLAID = program(*PREPARE, "--source", f"{{data}}/{IMAGES}", "--target", "{data}/T")
CUT = program(generate_supervoxels.main, "CHAOST2", "--data-dir", "{data}", "--min-size", "77", "--jobs", "1")
SHEET = (check.main, "CHAOST2", "--data-dir", "{data}", "--sheet")
COMPARE = (compare.main, "{data}/runs", "--baseline", "none", "--output")
PICTURES = program(report_pictures.main, "{data}/run/report.html", "{data}/pictures")

CLASHES = {
    "predict: the query's folder": (predict_with(output=f"{{data}}/{IMAGES}"), nothing, READ),
    "predict: all queries' folder": (predict_with(query=f"{{data}}/{IMAGES}", output=f"{{data}}/{IMAGES}"), nothing, READ),
    "predict: it, in spite of overwrite": (predict_with(output=f"{{data}}/{IMAGES}", overwrite=True), nothing, READ),
    "predict: it, spelt otherwise": (predict_with(output=f"{{data}}/run/../{IMAGES}/."), nothing, READ),
    "predict: a link to it": (predict_with(output="{data}/link"), soft_link("link", IMAGES), READ),
    "predict: a link to the query": (predict_with(), soft_link("out/image_2.nii.gz", f"{IMAGES}/image_2.nii.gz"), READ),
    "predict: a hard link to it": (predict_with(), hard_link("out/image_2.nii.gz", f"{IMAGES}/image_2.nii.gz"), READ),
    "predict: a hard link, overwrite": (predict_with(overwrite=True),
                                        hard_link("out/image_2.nii.gz", f"{IMAGES}/image_2.nii.gz"), READ),
    "predict: the support's image": (predict_with(output=PREDICT["support_image"]), nothing, READ),
    "predict: the support's label": (predict_with(output=PREDICT["support_label"]), nothing, READ),
    "predict: the snapshot": (predict_with(output="{data}/x.nii.gz"), hard_link("x.nii.gz", "w.pth"), READ),
    "predict: the table is a support": (predict_with(), hard_link("out/cases.csv", f"{IMAGES}/label_1.nii.gz"), READ),
    "predict: within a DICOM folder": (predict_with(query="{data}/series", output="{data}/series/out"), nothing, LIES_IN),
    "predict: a file in a DICOM folder": (predict_with(query="{data}/series", output="{data}/series/x.nii"), nothing, LIES_IN),
    "predict: somebody's label map": (predict_with(), foreign("out/image_2.nii.gz"), FOREIGN),
    "predict: somebody's table": (predict_with(), foreign("out/cases.csv"), FOREIGN),
    "predict: somebody's probabilities": (predict_with(save_probs=True), foreign("out/image_2_liver_prob.nii.gz"), FOREIGN),
    "predict: somebody's uncertainty": (predict_with(save_probs=True), foreign("out/image_2_uncertainty.nii.gz"), FOREIGN),
    "predict: a label map corrected since": (predict_with(),
                                             corrected("out/image_2.nii.gz", f"{IMAGES}/label_2.nii.gz"), FOREIGN),
    "predict: one of many": (predict_with(query=f"{{data}}/{IMAGES}"), foreign("out/label_12.nii.gz"), FOREIGN),
    "predict: a folder": (predict_with(overwrite=True), a_folder("out/image_2.nii.gz"), FOLDER),
    "report: somebody's": (report, foreign("run/report.html"), FOREIGN),
    "report: the scores": (report, hard_link("run/report.html", "run/scores.csv"), READ),
    "report: a scan": (lambda data: report(data, overwrite=True),
                       soft_link("run/report.html", f"{IMAGES}/image_3.nii.gz"), READ),
    "report: a prediction": (report, hard_link("run/report.html", "run/predictions/2_liver_supp1.nii.gz"), READ),
    "prepare: over its source": (program(*PREPARE, "--source", "{data}/MINE/images", "--target", "{data}/MINE", "--overwrite"),
                                 in_order(masks_for_labels, a_folder("MINE"), lambda data: (data / IMAGES).rename(
                                     data / "MINE/images")), READ),
    "prepare: over it, by a link": (OVERLAID, in_order(masks_for_labels, soft_link("T/images", IMAGES)), READ),
    "prepare: over it, by a hard link": (OVERLAID, in_order(masks_for_labels, hard_link("T/images/image_2.nii.gz",
                                                                                        f"{IMAGES}/image_2.nii.gz")), READ),
    "prepare: over a label": (OVERLAID, in_order(masks_for_labels, hard_link("T/images/label_3.nii.gz",
                                                                            f"{IMAGES}/mask_3.nii.gz")), READ),
    "prepare: its record is a label": (OVERLAID, in_order(
        masks_for_labels, lambda data: (data / f"{IMAGES}/mask_3.nii.gz").write_text("{}", encoding="utf-8"),
        hard_link("T/images/preparation.json", f"{IMAGES}/mask_3.nii.gz")), READ),
    "prepare: within its source": (program(
        *PREPARE, "--source", "{data}", "--image", "images/image_{{case}}.nii.gz", "--label", "images/mask_{{case}}.nii.gz",
        "--target", "{data}"), in_order(masks_for_labels, lambda data: (data / IMAGES).rename(data / "images")), READ),
    "prepare: somebody's image": (OVERLAID, in_order(masks_for_labels, foreign("T/images/image_2.nii.gz")), FOREIGN),
    "prepare: somebody's classmap": (OVERLAID, in_order(masks_for_labels, foreign("T/images/classmap_100.json")), FOREIGN),
    "supervoxels: corrected since": (CUT, in_order(
        corrected("supervoxels_77/superpix-MIDDLE_2.nii.gz", "supervoxels_5000/superpix-MIDDLE_2.nii.gz"), recorded(77)),
                                     FOREIGN),
    "supervoxels: an image": (CUT, in_order(hard_link("supervoxels_77/superpix-MIDDLE_2.nii.gz", f"{IMAGES}/image_2.nii.gz"),
                                            recorded(77)), READ),
    "supervoxels: a dangling link": (CUT, in_order(soft_link("supervoxels_77/superpix-MIDDLE_2.nii.gz", "nowhere"),
                                                   recorded(77)), FOREIGN),
    "phantom: a file was added": (program(phantom.main, *SMALL_PHANTOM, "2", "--overwrite"),
                                  in_order(make_phantom, foreign("PHANTOM/notes.txt")), f"notes.txt {NO_PART}"),
    "phantom: a case was added": (program(phantom.main, *SMALL_PHANTOM, "2", "--overwrite"),
                                  in_order(make_phantom, foreign(f"PHANTOM/{IMAGES}/image_2.nii.gz")), NO_PART),
    "phantom: a label was corrected": (program(phantom.main, *SMALL_PHANTOM, "2", "--overwrite"),
                                       in_order(make_phantom, foreign(f"PHANTOM/{IMAGES}/label_1.nii.gz")), FOREIGN),
    "phantom: a link was added": (program(phantom.main, *SMALL_PHANTOM, "2", "--overwrite"),
                                  in_order(make_phantom, soft_link("PHANTOM/scans", IMAGES)), NO_PART),
    "phantom: somebody's folder": (program(phantom.main, *SMALL_PHANTOM[:1], "{data}/series", "--overwrite"), nothing,
                                   "holds no phantom data set"),
    "check: an image": (program(*SHEET, f"{{data}}/{IMAGES}/image_2.nii.gz", "--overwrite"), nothing, READ),
    "check: a map, by a link": (program(*SHEET, "{data}/sheet.png"),
                                soft_link("sheet.png", "supervoxels_5000/superpix-MIDDLE_2.nii.gz"), READ),
    "check: somebody's picture": (program(*SHEET, "{data}/sheet.png"), foreign("sheet.png"), FOREIGN),
    "compare: into a run": (program(*COMPARE, "{data}/runs/q"), nothing, LIES_IN),
    "compare: into a run, by a link": (program(*COMPARE, "{data}/link/new"), soft_link("link", "runs/q"), LIES_IN),
    "compare: somebody's table": (program(*COMPARE, "{data}/comparison"), foreign("comparison/comparison.csv"), FOREIGN),
    "compare_methods: somebody's table": (program(compare_methods.main, "demo", "--output", "{data}/comparison"),
                                          foreign("comparison/comparison.md"), FOREIGN),
    "demo: somebody's picture": (start_demo, foreign("demo_output/overview_liver.png"), FOREIGN),
    "demo: somebody's table": (start_demo, foreign("demo_output/table.txt"), FOREIGN),
    "label_pictures: somebody's": (program(label_pictures.main, "{data}", "{data}/pictures"),
                                   foreign("pictures/label_6_exported.png"), FOREIGN),
    "report_pictures: somebody's": (PICTURES, foreign("run/report.html", "pictures/report_plots.png"), FOREIGN),
    "report_pictures: the report": (PICTURES, in_order(foreign("run/report.html"), hard_link(
        "pictures/report_classes.png", "run/report.html")), READ),
    "benchmark: somebody's file": (script(benchmark.main, "--json", f"{{data}}/{IMAGES}/image_2.nii.gz"), nothing, FOREIGN),
    "results: somebody's table": (script(results.main, "--output", "{data}/R"), foreign("R/tables/by_fold.txt"), FOREIGN),
    "results: somebody's comparison": (script(results.main, "--output", "{data}/R"),
                                       foreign("R/tables/others/comparison.tex"), FOREIGN),
}


@pytest.mark.whole
@pytest.mark.parametrize("clash", CLASHES)
def test_refused_in_one_line_and_every_file_stays(clash, data, monkeypatch, capfd):
    start, arrange, message = CLASHES[clash]
    monkeypatch.setattr(sys, "argv", sys.argv)
    start_program = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: pytest.fail("work began")
                        if command[0] == sys.executable else start_program(command, **options))     # others: git
    arrange(data)
    before = everything(data)
    capfd.readouterr()
    try:
        status, said = start(data), capfd.readouterr().err
    except SystemExit as exit_:
        status, said = 1, f"{exit_.code}\n"
    said = "".join(line for line in said.splitlines(keepends=True) if not line.startswith("note: "))
    assert status in (1, 2) and said.startswith("error: ") and message in said and said.count("\n") == 1
    assert everything(data) == before


def test_a_training_never_writes_beside_the_snapshot_that_it_was_given(data, tmp_path):
    weights = data / "w.pth"
    folder = run("train", tmp_path / "runs", data, reload_model_path=str(weights), n_steps=1)
    weights.unlink()
    weights.symlink_to(folder / "snapshots/1.pth")
    before = everything(folder / "snapshots")
    with pytest.raises(SystemExit, match=r"^error: reload_model_path: .*/w.pth lies in .*/1, which this run writes to"):
        run("train", tmp_path / "runs", data, reload_model_path=str(weights), n_steps=2)
    assert everything(folder / "snapshots") == before


@pytest.mark.whole
def test_what_a_program_made_it_makes_again(data, capsys):
    """The guard is in nobody's way; predict, phantom.py and generate_supervoxels.py have such tests of their own."""
    for _ in range(2):
        report(data)
        assert program(*SHEET, "{data}/sheet.png")(data) == 0
        assert program(*COMPARE, "{data}/comparison")(data) == 0
    masks_for_labels(data)
    for path in (data / IMAGES).glob("*_1[02].*"):
        path.unlink()
    assert OVERLAID(data) == 0
    (data / "T/images/label_2.nii.gz").unlink()
    assert OVERLAID(data) == 0
    assert "error" not in capsys.readouterr().err
