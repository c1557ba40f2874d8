"""What the programs print and exit with when a file or an option is wrong: one line, never a traceback."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from qnet.data import check, prepare
from qnet.data.supervoxels import generate_supervoxels
from qnet.scripts import compare, val
from qnet.util.options.config import CONFIG_DIR
from qnet.util.run.experiment import make_experiment, run_commandline
from tests import damage as d
from tests.programs import entry_point, run
from tests.runs import write_evaluation, write_run

DATA = "chaos_MR_T2_normalized"


def two_of_one_name(path):
    for name in ("2.nii", "2.nii.gz"):
        (path / "queries").mkdir(exist_ok=True)
        shutil.copy(path.parent / "data" / DATA / "image_2.nii.gz", path / "queries" / name)


SCORING = {"reload_model_path": "@w.pth", "supp_idx": 0}
PREDICTING = {"reload_model_path": "@w.pth", "support_image": f"@{DATA}/image_1.nii.gz",
              "support_label": f"@{DATA}/label_1.nii.gz", "query": f"@{DATA}/image_2.nii.gz", "output": "@out"}

# train.py and test.py: program, its options (@ is the folder of the data), the file that is spoilt, how, and what is said
SACRED = [
    ("train", {}, f"{DATA}/image_12.nii.gz", d.huge, "image_12.nii.gz: expected at most 1073741824 voxels"),
    ("train", {}, f"{DATA}/image_12.nii.gz", d.truncated, "image_12.nii.gz: cannot be read as NIfTI"),
    ("train", {}, "supervoxels_5000", shutil.rmtree, "supervoxels_5000/superpix-MIDDLE_3.nii.gz: no such file"),
    ("train", {}, "supervoxels_5000/superpix-MIDDLE_12.nii.gz", d.negative, "superpix-MIDDLE_12.nii.gz: holds the value -1"),
    ("train", {"pseudo_labels": "superpixels"}, "superpixels_400/superpix-MIDDLE_12.nii.gz", d.a_folder, "is a folder"),
    ("train", {"use_gt": True, "test_label": [1]}, f"{DATA}/label_12.nii.gz", d.nan, "label_12.nii.gz: holds the value nan"),
    ("train", {"exclude_label": [1]}, f"{DATA}/label_12.nii.gz", d.elsewhere, "label_12.nii.gz: its header puts it up to 86"),
    ("train", {"exclude_label": [1, 2, 3, 4]}, "", d.nothing, "no training volume (of 3) has a supervoxel"),
    ("train", {"path.CHAOST2.data_dir": "@nowhere"}, "", d.nothing, "path.CHAOST2.data_dir: no folder"),
    ("train", {"resume": "@w.pth"}, "w.pth", d.truncated, "w.pth: cannot be read as weights"),
    ("train", {"reload_model_path": "@w.pth"}, "w.pth", d.changed(model=d.with_nan), "holds NaN, infinity or no real numbers"),
    ("train", {"resume": "@w.pth", "seed": 5}, "", d.nothing, "was trained with seed=2021, now it is 5"),
    ("train", {"reload_model_path": "@w.pth"}, "w.pth", d.runs_code, "w.pth: cannot be read as weights"),
    ("train", {"pretrained": "@w.pth"}, "w.pth", d.a_folder, "w.pth: is a folder, expected a file"),
    ("train", {"pretrained": "coco"}, "", d.nothing, "pretrained: got 'coco', allowed for encoder 'small': 'none'"),
    ("train", {"eval_fold": 5}, "", d.nothing, "eval_fold: got 5, allowed: 0 to 4"),
    ("train", {"device": "cuda:9"}, "", d.nothing, "device: got 'cuda:9'"),
    ("test", SCORING, f"{DATA}/image_1.nii.gz", d.constant, "image_1.nii.gz: every voxel has the value 1"),
    ("test", SCORING, f"{DATA}/label_1.nii.gz", d.missing, "label_1.nii.gz: no such file"),
    ("test", SCORING, f"{DATA}/label_2.nii.gz", d.elsewhere, "label_2.nii.gz: its header puts it up to 86.6 mm away"),
    ("test", SCORING, f"{DATA}/label_2.nii.gz", d.background, "test_label: fold 0 has no support and query that both"),
    ("test", SCORING, "w.pth", d.zip_bomb, "w.pth: cannot be read as weights"),
    ("test", {**SCORING, "reload_model_path": None}, "", d.nothing, "reload_model_path: got null"),
    ("test", {**SCORING, "supp_idx": 2}, "", d.nothing, "supp_idx: got 2, allowed for fold 0: 0 to 1, or 'all'"),
    ("test", {**SCORING, "encoder": "resnet50"}, "", d.nothing, "it was trained with model=qnet, encoder=small"),
    ("predict", PREDICTING, f"{DATA}/image_1.nii.gz", d.a_loop, "image_1.nii.gz: cannot be read (Too many levels of"),
    ("predict", PREDICTING, f"{DATA}/label_1.nii.gz", d.elsewhere, "label_1.nii.gz: lies up to 86.6 mm away from"),
    ("predict", PREDICTING, "w.pth", d.changed(config='{"model": "vnet"}'), "model: got 'vnet', allowed: one of"),
    ("predict", {**PREDICTING, "query": "@queries"}, "", two_of_one_name, "2.nii, 2.nii.gz would all be written to"),
    ("predict", {**PREDICTING, "query": None}, "", d.nothing, "query, output: got null"),
    ("predict", {**PREDICTING, "support_image": []}, "", d.nothing, "support_image: got [], allowed: null or"),
    ("report", {}, "", d.nothing, "run: got null, allowed: the run folder of an evaluation"),
    ("report", {"run": "@nowhere"}, "", d.nothing, "run: "),
]

# words behind `train.py with`, and what is said
COMMAND_LINES = [
    (["nosuchconfig"], "with nosuchconfig: neither key=value nor a named config; known: adnet, adnet3d, alpnet, "),
    (["other.json5"], "with other.json5: neither key=value nor a named config"),
    (["evil.pickle"], "with evil.pickle: neither key=value nor a named config"),
    (["exclude_rule={1,2}"], "exclude_rule: got {1,2}, allowed: text, a number, true"),
    (["query=b'x'"], "query: got b'x', allowed: text"),
    (["alpha=[0.9"], "alpha: got '[0.9', allowed: two numbers"),
    (["seed="], "seed: got '', allowed: a whole number"),
    (["chaost2_setting1", "optim.lrr=1"], "unknown option optim.lrr; did you mean lr?; allowed here: lr, momentum, weight_decay"),
    (["path.log_dir=/dev/null/x"], "path.log_dir: /dev/null/x/QNet_train_CHAOST2_cv0 cannot be made (Not a directory)"),
]

# words behind `test.py`, and what is said
UNKNOWN_COMMANDS = [
    (["predct", "with", "query=x"], "predct: is no command; did you mean predict?; allowed: main, predict, "),
    (["tsk", "create"], "tsk: is no command; did you mean task?; allowed: "),
    (["wth", "demo"], "wth: is no command; did you mean with?; allowed: "),
    (["query=x"], "query=x: is no command; allowed: main, predict, print_config, print_dependencies, print_named_configs, "
                  "report, save_config, task, or with query=x"),
    (["help", "predct"], "predct: is no command; did you mean predict?"),
    (["predict", "query=x"], "predict query=x: cannot be understood; allowed: COMMAND with KEY=VALUE"),
    (["predict", "with"], "predict with: cannot be understood; allowed: COMMAND with KEY=VALUE"),
    (["--hlp"], "--hlp: cannot be understood; allowed: COMMAND with KEY=VALUE"),
]

# commands, and their arguments; maps have tests of their own, and threads start sooner than processes
CHECK = (check.main, ["CHAOST2", "--data-dir", "{data}", "--sheet", "{data}/sheet.png"])
CUT = (partial(generate_supervoxels.main, pool=ThreadPoolExecutor),
       ["CHAOST2", "--data-dir", "{data}", "--min-size", "77", "--jobs", "1"])
PREPARE = (partial(prepare.main, make_maps=lambda *_: True),
           ["nifti", "--source", f"{{data}}/{DATA}", "--target", "{data}/MINE", "--spacing", "4", "4", "8", "--size", "32",
            "--jobs", "1"])
COMPARE = (compare.main, ["{data}/runs", "--output", "{data}/comparison"])

# commands with arguments: command, the file that is spoilt, how, exit status, and a line of what is printed
ARGUMENTS = [
    (CHECK, f"{DATA}/image_2.nii.gz", d.truncated, 1, "image_2.nii.gz: cannot be read as NIfTI"),
    (CHECK, f"{DATA}/label_2.nii.gz", d.elsewhere, 1, "label_2.nii.gz: geometry differs from"),
    (CHECK, "supervoxels_5000/superpix-MIDDLE_2.nii.gz", d.many, 1, "holds the value 1e+06, allowed for supervoxels"),
    (CHECK, DATA, shutil.rmtree, 2, "path.CHAOST2.data_dir: no file chaos_MR_T2_normalized/image_*.nii.gz below"),
    (CUT, f"{DATA}/image_2.nii.gz", d.huge_but_packed, 1, "error: case 2: "),
    (CUT, f"{DATA}/image_2.nii.gz", d.nan, 1, "error: case 2: "),
    (CUT, DATA, shutil.rmtree, 2, "path.CHAOST2.data_dir: no file"),
    (PREPARE, f"{DATA}/image_2.nii.gz", d.a_folder, 1, "error: case 2: "),
    (PREPARE, f"{DATA}/label_2.nii.gz", d.elsewhere, 1, "error: case 2: "),
    (PREPARE, f"{DATA}/label_2.nii.gz", d.many, 1, "label_2.nii.gz: holds 1e+06, allowed in labels"),
    (PREPARE, DATA, shutil.rmtree, 2, "--source: no folder"),
    (COMPARE, "runs/q/config.json", d.truncated, 2, "config.json: not valid JSON"),
    (COMPARE, "runs/q/scores.csv", d.missing, 2, "no finished evaluation (no scores.csv) in it"),
    (COMPARE, "comparison", lambda path: path.touch(), 2, "File exists"),
]

# scripts/val.py: its options, what is spoilt in the folder of the trainings, and what is said
VAL = [
    ([], shutil.rmtree, "no snapshot of chaost2_setting1, fold 0; train it first"),
    (["model=vnet"], d.nothing, "model: got 'vnet', allowed: one of 'qnet'"),
    (["vnet"], d.nothing, "config 'vnet': no such file in configs/"),
    ([], lambda folder: d.truncated(folder / "1/snapshots/3.pth"), "3.pth: cannot be read as weights"),
    ([], lambda folder: d.a_list(folder.parent / "QNet_test_CHAOST2_cv0/1/results.json"), "results.json: holds a list"),
    ([], lambda folder: d.json_without("classes")(folder.parent / "QNet_test_CHAOST2_cv0/1/results.json"), "KeyError: 'classes'"),
]


@pytest.fixture
def data(toy_data, trained, tmp_path):
    """A copy of the toy data, with a snapshot beside it."""
    shutil.copytree(toy_data, tmp_path / "data")
    shutil.copy(trained / "snapshots/3.pth", tmp_path / "data/w.pth")
    return tmp_path / "data"


@pytest.mark.whole
@pytest.mark.parametrize(("program", "options", "spoilt", "damage", "message"), SACRED)
def test_sacred_programs(program, options, spoilt, damage, message, data, tmp_path):
    damage(data / spoilt)
    options = {key: value.replace("@", f"{data}/") if isinstance(value, str) else value for key, value in options.items()}

    def start():
        if program in ("train", "test"):
            root = options.pop("path.CHAOST2.data_dir", data)
            run(program, tmp_path / "runs", root, **options)
        else:
            entry_point("test").experiment.run(program, config_updates={"device": "cpu", "n_iters": 0, **options})

    with pytest.raises(SystemExit) as caught:
        start()
    said = caught.value.code      # a text: python prints it and exits with 1
    assert said.startswith("error: ") and message in said and "\n" not in said
    assert not (data / "canary").exists()


@pytest.mark.parametrize(("words", "message"), COMMAND_LINES)
def test_command_line(words, message, monkeypatch, handlers_stay):
    monkeypatch.setattr(sys, "argv", ["train.py", "with", *words])
    with pytest.raises(SystemExit) as caught:
        run_commandline(entry_point("train").experiment)
    assert caught.value.code.startswith(f"error: {message}") and "\n" not in caught.value.code


@pytest.mark.parametrize(("words", "message"), UNKNOWN_COMMANDS)
def test_unknown_command(words, message, monkeypatch, handlers_stay):
    monkeypatch.setattr(sys, "argv", ["test.py", *words])
    with pytest.raises(SystemExit) as caught:
        run_commandline(entry_point("test").experiment, others=["task"])
    assert caught.value.code.startswith(f"error: {message}") and "\n" not in caught.value.code


@pytest.mark.parametrize("damage", [d.a_folder, d.truncated, d.not_utf8, d.a_list], ids=lambda damage: damage.__name__)
def test_a_damaged_named_config_stops_every_program(damage, tmp_path):
    shutil.copy(CONFIG_DIR / "panet.json5", tmp_path)
    damage(tmp_path / "panet.json5")
    with pytest.raises(SystemExit, match=r"^error: .*panet.json5: [^\n]*$"):
        make_experiment("train", "", tmp_path)


@pytest.mark.parametrize(("program", "spoilt", "damage", "status", "message"), ARGUMENTS)
def test_programs_with_arguments(program, spoilt, damage, status, message, data, capfd):
    write_run(data / "runs/q")
    if program in (CUT, PREPARE):
        for number in (1, 3, 10, 12):
            (data / f"{DATA}/image_{number}.nii.gz").unlink()
    damage(data / spoilt)
    main, words = program
    assert main([word.format(data=data) for word in words]) == status
    out, err = capfd.readouterr()
    assert [line for line in (out + err).splitlines() if message in line], out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("options", "damage", "message"), VAL)
def test_val(options, damage, message, trained, toy_data, tmp_path):
    training = tmp_path / "runs/QNet_train_CHAOST2_cv0"
    (training / "1/snapshots").mkdir(parents=True)
    shutil.copy(trained / "snapshots/3.pth", training / "1/snapshots")
    scored = tmp_path / "runs/QNet_test_CHAOST2_cv0/1"
    scored.parent.mkdir()
    write_evaluation(scored, toy_data)
    damage(training)
    words = ["CHAOST2", "1", "--folds", "0", "--options", f"path.log_dir={tmp_path / 'runs'}", *options]
    with pytest.raises(SystemExit) as caught:
        val.main(words, call=lambda *_: None)
    assert caught.value.code.startswith("error: ") and message in caught.value.code and "\n" not in caught.value.code
