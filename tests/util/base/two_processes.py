"""Two processes that work together, for test_distributed.py:

    python -m tests.util.base.two_processes DATA FOLDER SNAPSHOT PORT
"""

import importlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from qnet.models.registration import PreparedScan
from qnet.util.base.distributed import leave, rank
from qnet.util.base.signals import Interrupted
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.predict.predictor import Predictor
from tests.programs import entry_point, predict, run_experiment


def main(data: Path, folder: Path, snapshot: str) -> None:
    program, built = entry_point("train"), []
    build_model = program.build_model
    program.build_model = lambda config: built.append(build_model(config)) or built[-1]
    run_experiment("train", folder, data, n_steps=2, save_snapshot_every=1)
    program.build_model = lambda config: built.append(disturb(build_model(config))) or built[-1]
    try:
        run_experiment("train", folder / "disturbed", data, n_steps=9)
    except Interrupted as error:
        (folder / f"exit_status{rank()}").write_text(str(error.exit_status), encoding="utf-8")
    torch.save([dict(model.named_parameters()) for model in built], folder / f"rank{rank()}.pth")
    with counted() as counts:
        for name, options in EVALUATIONS.items():
            run_experiment("test", folder / name, data, test_label=[1, 4], **options | weights(options, snapshot))
            (folder / f"{name}{rank()}.json").write_text(json.dumps(counts), encoding="utf-8")
            counts.clear()
    for name, options in PREDICTIONS.items():
        with counted() as counts:
            ended = predict_all(data, folder / "predicted", **options)
        (folder / f"{name}{rank()}.json").write_text(json.dumps([counts, str(ended)]), encoding="utf-8")
    leave()


SMALL = {"affine": False, "finest": 3.0, "n_steps": 1, "stones": 2}     # for toy volumes

# by the name of a folder; two of the five cases are supports and queries
EVALUATIONS: dict[str, dict[str, Any]] = {
    "whole": {"supp_idx": "all"},
    "protocol": {"supp_idx": "all", "whole_volume": False, "eval_batch_size": 3},
    "stones": {"supp_idx": "all", "model": "registration", "whole_volume": False,
               "registration": SMALL}}


PREDICTIONS: dict[str, dict[str, Any]] = {"predict": {}, "predict_again": {}, "predict_nothing": {"query": None}}


def predict_all(data: Path, folder: Path, **options: Any) -> Any:
    """Segment toy cases 2, 3 and 10 from case 1, and a file that is no scan. Return the exit status, or None."""
    images, queries = data / "chaos_MR_T2_normalized", folder / f"queries{rank()}"
    queries.mkdir(parents=True, exist_ok=True)
    for number in (2, 3, 10):
        shutil.copy(images / f"image_{number}.nii.gz", queries)
    (queries / "broken.nii.gz").write_bytes(b"no scan")
    try:
        predict(model="guided", support_image=images / "image_1.nii.gz", support_label=images / "label_1.nii.gz",
                **{"query": folder / "queries0", "output": folder / "out", "registration": SMALL, **options})
    except SystemExit as error:
        return error.code
    return None


def weights(options: Mapping[str, Any], snapshot: str) -> dict[str, str]:
    """The option that names the snapshot, for a method that is trained."""
    return {} if "model" in options else {"reload_model_path": snapshot}


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yield a list that gets a line for every slice that is encoded, registration and scan that is segmented in this process."""
    lines: list[str] = []
    encode, segment = SliceEncoder._through_network, Predictor.segment
    register, zoom = PreparedScan.register, PreparedScan.zoom

    def encoded(encoder, volume, slices, bar):
        lines.extend(f"{volume.name} slice {z}" for z in slices)
        return encode(encoder, volume, slices, bar)

    def registered(query, support):
        lines.append(f"wide {query.image.sum():.3f} {support.image.sum():.3f}")
        return register(query, support)

    def zoomed(query, support, *found):
        lines.append(f"zoomed {query.image.sum():.3f} {support.image.sum():.3f}")
        return zoom(query, support, *found)

    def segmented(predictor, scan):
        lines.append(scan[0].name)
        return segment(predictor, scan)

    with mock.patch.object(SliceEncoder, "_through_network", encoded), mock.patch.object(PreparedScan, "register", registered), \
            mock.patch.object(PreparedScan, "zoom", zoomed), mock.patch.object(Predictor, "segment", segmented):
        yield lines


def disturb(model: nn.Module) -> nn.Module:
    """Let process 1 have a loss that is not a number in step 2, and a SIGTERM in step 3."""
    forward, steps = model.forward, itertools.count(1)

    def disturbed(episode):
        step, losses = next(steps), forward(episode)
        if rank() == 1 and step == 2:
            losses["query"] = losses["query"] * torch.nan
        if rank() == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    model.forward = disturbed
    return model


def ranked(number: int, data: Path, folder: Path, snapshot: str, port: str) -> None:
    """Be one of the processes that torchrun starts; what it prints goes to files."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port}
    for descriptor, name in ((1, "out"), (2, "err")):
        with (folder / f"{name}{number}").open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    main(data, folder, snapshot)


def fork_both(data: str, folder: str, snapshot: str, port: str) -> int:
    """Start both from this process, so that what they import is imported once. If one fails, end the other.

    train.py and test.py look at the rank when they are imported, so each process imports these.
    """
    for name in ("qnet.util.run.experiment", "qnet.util.engine.evaluate", "qnet.util.training.building",
                 "qnet.util.predict.outline", "monai.metrics", "matplotlib.pyplot", "torch._dynamo"):
        importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=ranked, args=(number, Path(data), Path(folder), snapshot, port)) for number in range(2)]
    for process in both:
        process.start()
    waiting = list(both)
    while waiting:
        wait([process.sentinel for process in waiting])
        waiting = [process for process in waiting if process.is_alive()]
        if any(process.exitcode for process in both):
            for process in waiting:
                process.kill()
    return max(abs(process.exitcode or 0) for process in both)


if __name__ == "__main__":
    sys.exit(fork_both(*sys.argv[1:]))
