"""Two processes on the CPU train and evaluate together."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.episodes import EpisodeDataset, load_training_volumes
from qnet.dataloaders.folds import fold_positions, supports_of_queries
from qnet.dataloaders.store import Store
from qnet.util.base.device import resolve_device
from qnet.util.base.distributed import ANOTHER_TELLS_S, cores_per_process, first_tells, main_does, parallel, share
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST
from qnet.util.base.root import ROOT
from qnet.util.base.signals import Interrupted
from qnet.util.options.config import load_config
from qnet.util.options.sections import ModelOptions, dataset_spec
from qnet.util.run.experiment import one_line_errors
from qnet.util.training.building import build_model
from qnet.util.training.snapshots import read_snapshot
from tests.programs import run
from tests.settings import EPISODES, TRAINING_VOLUMES
from tests.util.base.two_processes import EVALUATIONS, counted, predict_all, weights


@pytest.fixture(scope="module")
def together(toy_data, trained, warm_python, tmp_path_factory):
    """Folders of a training of two steps, of a disturbed one and of evaluations, and what each process printed."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [warm_python, "-m", "tests.util.base.two_processes", str(toy_data), str(folder),
               str(trained / "snapshots/3.pth"), str(port)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}      # as many as here, so that sums are rounded alike
    status = subprocess.run(command, cwd=ROOT, env=os.environ | threads).returncode
    printed = [tuple((folder / f"{name}{number}").read_text(encoding="utf-8") for name in ("out", "err")) for number in range(2)]
    assert status == 0, printed
    return SimpleNamespace(folder=folder, train=folder / "QNet_train_CHAOST2_cv0/1",
                           disturbed=folder / "disturbed/QNet_train_CHAOST2_cv0/1", printed=printed)


def shares(together, name):
    """What each process wrote down."""
    return [json.loads((together.folder / f"{name}{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.whole
def test_one_process_writes_and_prints(together):
    assert [path.name for path in together.train.parent.iterdir() if path.name.isdecimal()] == ["1"]
    assert sorted(path.name for path in (together.train / "snapshots").glob("*.pth")) == ["1.pth", "2.pth"]
    assert (together.train / "loss_curve.png").is_file()
    assert "training volumes of CHAOST2" in together.printed[0][0] and "training: 100%" in together.printed[0][1]
    assert together.printed[1][0] == "" and together.printed[1][1].strip().startswith("SIGTERM: finishing this step")
    assert len(together.printed[1][1].strip().splitlines()) == 1


@pytest.mark.whole
def test_a_step_takes_the_mean_gradient_of_an_episode_per_process(together, toy_data, tmp_path):
    snapshots = [read_snapshot(together.train / f"snapshots/{step}.pth") for step in (1, 2)]
    config = snapshots[0].config
    spec = dataset_spec("CHAOST2", config["datasets"]["CHAOST2"])
    cases = find_cases(spec, toy_data, config["n_sv"], config["n_sp"])
    held_out = fold_positions(len(cases), spec.n_folds, 0)
    volumes = load_training_volumes([case for k, case in enumerate(cases) if k not in held_out], spec,
                                    Store(tmp_path / "store"), **TRAINING_VOLUMES)
    episodes = EpisodeDataset(volumes, 4, config["seed"], **{**EPISODES, "min_size": config["min_size"]})
    model = build_model(ModelOptions.of(config)).train()
    losses = []
    for index in range(2):      # gradients add up
        batch = type(episodes[index])(*(tensor[None] for tensor in episodes[index]))
        of_episode = model(batch)
        (sum(of_episode.values()) / 2).backward()
        losses.append(torch.stack([of_episode[name] for name in model.loss_names]).detach())
    torch.optim.SGD(model.parameters(), **config["optim"]).step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(snapshots[0].model[name], parameter, rtol=0, atol=1e-6), name
    assert torch.allclose(snapshots[1].history[0], torch.stack(losses).mean(dim=0), atol=1e-5)


@pytest.mark.whole
def test_both_processes_hold_the_same_weights(together):
    first, second = (torch.load(together.folder / f"rank{rank}.pth") for rank in range(2))
    saved = [read_snapshot(together.train / "snapshots/2.pth").model,
             read_snapshot(together.disturbed / "snapshots/3.pth").model]
    assert len(first) == len(second) == 2
    for of_first, of_second, of_snapshot in zip(first, second, saved, strict=True):
        for name, value in of_first.items():
            assert torch.equal(value, of_second[name]) and torch.equal(value, of_snapshot[name]), name


@pytest.mark.whole
def test_what_happens_to_one_process_all_of_them_heed(together):
    assert [path.name for path in (together.disturbed / "snapshots").glob("*.pth")] == ["3.pth"]
    assert [(together.folder / f"exit_status{rank}").read_text(encoding="utf-8") for rank in range(2)] == ["143", "143"]
    assert json.loads((together.disturbed / "run.json").read_text(encoding="utf-8"))["status"] == "INTERRUPTED"
    stopped = read_snapshot(together.disturbed / "snapshots/3.pth")
    assert stopped.history.isnan().all(dim=1).tolist() == [False, True, False]
    assert len(stopped.refused) == 1 and stopped.refused[0].count("case ") == 2


@pytest.mark.whole
def test_one_process_goes_on_from_the_step_that_two_reached(together, toy_data):
    run("train", together.folder, toy_data, resume="auto", n_steps=3)
    before = read_snapshot(together.train / "snapshots/2.pth")
    after = max(together.folder.glob("QNet_train*/*/snapshots/3.pth"))
    assert torch.equal(read_snapshot(after).history[:2], before.history)


@pytest.mark.whole
@pytest.mark.parametrize(("name", "n_files"), [("whole", 2 + 2 + 3 * 4), ("protocol", 2 + 1 + 4), ("stones", 2 + 1 + 4 + 2)])
def test_an_evaluation_is_that_of_one_process_and_no_work_is_done_twice(name, n_files, together, trained, toy_data, tmp_path):
    options = EVALUATIONS[name] | weights(EVALUATIONS[name], str(trained / "snapshots/3.pth"))
    with counted() as once:
        alone = run("test", tmp_path, toy_data, test_label=[1, 4], **options)
    folder, = (together.folder / name).glob("*/1")
    found, wanted = ({str(path.relative_to(of)): path.read_bytes() for pattern in ("*.csv", "*.png", "results.json", "*/*.nii.gz")
                      for path in of.glob(pattern)} for of in (folder, alone))
    assert [file for file in wanted if found.get(file) != wanted[file]] == []
    assert found.keys() == wanted.keys() and len(found) == n_files + 1
    first, second = shares(together, name)
    assert first and second and sorted(first + second) == sorted(once)
    assert max(Counter(once).values()) == (2 if name == "stones" else 1)      # two supports: there, and back


@pytest.mark.whole
def test_predict_is_that_of_one_process_and_no_work_is_done_twice(together, toy_data, tmp_path):
    with counted() as once:
        ended = predict_all(toy_data, tmp_path)
    folders = together.folder / "predicted/out", tmp_path / "out"
    found, wanted = ({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
                      if path.is_file() and path.name != LIST} for folder in folders)
    assert [file for file in wanted if found.get(file) != wanted[file] and file != "report.html"] == []
    assert found.keys() == wanted.keys() == {"cases.csv", "report.html", *(
        f"{folder}image_{k}.nii.gz" for k in (2, 3, 10) for folder in ("", "warped_supports/"))}
    (first, of_first), (second, of_second) = shares(together, "predict")
    assert sorted(first + second) == sorted(once)
    assert [[line for line in lines if line.endswith(".gz")] for lines in (first, second)] == [
        ["broken.nii.gz", "image_2.nii.gz"], ["image_10.nii.gz", "image_3.nii.gz"]]
    assert ended.startswith("error: query broken.nii.gz: ") and "\n" not in ended
    assert of_first.partition(":")[0] == "error" and of_first.count("\n") == 0 and of_second == "None"


@pytest.mark.whole
def test_predict_again_makes_what_failed_and_tells_an_error_once(together):
    assert [[name for name in lines if name.endswith(".gz")] for lines, _ in shares(together, "predict_again")] == [
        ["broken.nii.gz"], []]
    (lines, error), (lines_of_other, status) = shares(together, "predict_nothing")
    assert error.startswith("error: query, output: got null") and status == "2" and lines == lines_of_other == []


# ---- without a second process ----

@pytest.mark.parametrize("n_processes", [1, 2, 3, 7])
def test_every_query_of_every_support_is_evaluated_once_and_by_one_process(n_processes):
    pairs = [(3, [0, 5, 9]), (5, [0, 3, 9])]
    shares = [supports_of_queries(pairs)[rank::n_processes] for rank in range(n_processes)]
    done = sorted((support, query) for share in shares for query, supports in share for support in supports)
    assert done == sorted((support, query) for support, queries in pairs for query in queries)
    owners = [{query for query, _ in share} for share in shares]
    assert sum(map(len, owners)) == 4 == sum(map(len, shares))
    assert n_processes > 1 or shares == [[(0, [3, 5]), (3, [5]), (5, [3]), (9, [3, 5])]]


@pytest.mark.parametrize(("rank", "mine"), [("0", "adg"), ("1", "be"), ("2", "cf")])
def test_each_item_belongs_to_one_process(rank, mine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", rank)
    assert share("abcdefg") == mine


@pytest.mark.parametrize(("n_cores", "n_processes", "expected"), [(8, None, 8), (8, "3", 2), (2, "4", 1)])
def test_the_processes_of_a_machine_share_its_cores(n_cores, n_processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(n_cores), raising=False)
    if n_processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", n_processes)
    assert cores_per_process() == expected


@pytest.fixture
def waited(monkeypatch):
    """Seconds that this process, the second of a machine, waited for the first."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def refuse(message):
    print(message, file=sys.stderr)
    raise SystemExit(2)


@pytest.mark.parametrize(("local_rank", "expected"), [("0", []), ("1", [ANOTHER_TELLS_S])])
def test_the_first_process_of_a_machine_tells_what_is_wrong_and_the_others_do_if_it_has_not_ended_them(
        local_rank, expected, waited, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as ended, first_tells():
        refuse("error: --jobs")
    assert ended.value.code == 2 and capsys.readouterr().err == "error: --jobs\n" and waited == expected
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise InputError("n_steps: got 0")
    assert ended.value.code == "error: n_steps: got 0" and waited == 2 * expected


def test_a_process_that_is_ended_while_it_waits_for_the_first_says_nothing(waited, monkeypatch, capsys):
    def end(seconds):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("time.sleep", end)
    with pytest.raises(SystemExit) as ended, first_tells():
        refuse("error: --jobs")
    assert ended.value.code == 143 and capsys.readouterr().err == ""


def test_a_command_that_is_right_or_asks_for_help_waits_for_nobody(waited, capsys):
    with first_tells(), one_line_errors():
        pass
    with pytest.raises(SystemExit), first_tells():
        raise SystemExit(0)
    assert waited == []


def test_one_process_does_the_work_of_the_main_one():
    assert main_does(lambda: 7) == 7 == share([7])[0]
    with pytest.raises(InputError, match="wrong"):
        main_does(lambda: expect_never("wrong"))


def expect_never(message):
    raise InputError(message)


@pytest.fixture
def one_of_two(monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("name", "n_gpus", "expected"), [
    ("auto", 2, "cuda:1"), ("cuda", 2, "cuda:1"), ("cpu", 2, "cpu"), ("auto", 0, "cpu"),
    ("auto", 1, "device: got 'cuda:1', but 1 CUDA devices are visible"), ("cuda:0", 2, "device: got 'cuda:0' for 2 processes")])
def test_each_process_takes_the_gpu_of_its_number(name, n_gpus, expected, one_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    if expected.startswith("device:"):
        with pytest.raises(InputError, match=expected):
            resolve_device(name)
    else:
        assert resolve_device(name) == torch.device(expected)


def test_sync_batchnorm_is_refused_on_the_cpu(one_of_two):
    with pytest.raises(InputError, match="sync_batchnorm: got true for 2 processes on the CPU"):
        parallel(torch.nn.Linear(1, 1), sync_batchnorm=True)


@pytest.mark.parametrize("predicts_anything", [True, False])
@pytest.mark.parametrize("options", [
    {"model": "qnet"}, {"model": "qnet", "encoder_paths": "fine"}, {"model": "qnet", "encoder_paths": "coarse"},
    {"model": "qnet", "threshold": "learned"}, {"model": "qnet", "threshold": "learned", "encoder_paths": "fine"},
    {"model": "qnet", "threshold": "learned", "encoder_paths": "coarse"},
    {"model": "adnet"}, {"model": "alpnet"}, {"model": "panet"}])
def test_every_trained_parameter_gets_a_gradient(options, predicts_anything):
    """Else DistributedDataParallel, which waits for all of them, would stop at the second step."""
    model = build_model(ModelOptions.of({**load_config(), "encoder": "small", **options})).train()
    with torch.no_grad():       # a threshold above, or below, all scores; and a support with, or without foreground
        for name, parameter in model.named_parameters():
            if name in ("t", "encoder.reduce1d.bias"):
                parameter.fill_(50.0 if predicts_anything else -50.0)
    masks = torch.zeros(1, 1, 32, 32)
    if predicts_anything:
        masks[..., 8:24, 8:24] = 1
    images = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    losses = model(Episode(images[:1], masks, images[1], masks[0]))
    sum(losses.values()).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert missing == []
