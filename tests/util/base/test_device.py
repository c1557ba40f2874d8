"""The device of the option `device`: found without a change to the process, which is set up apart."""

import os

import pytest
import torch

from qnet.util.base.device import resolve_device, set_up_process
from qnet.util.options.config import base_config
from qnet.util.training.as_trained import complete


def settings():
    return {"deterministic": torch.are_deterministic_algorithms_enabled(), "cudnn": torch.backends.cudnn.deterministic,
            "benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cuda.matmul.allow_tf32,
            "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG")}


@pytest.fixture
def untouched(monkeypatch):
    """Settings that no program makes; set back after the test."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = False, False, False
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "mine")
    yield settings()
    cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


def test_to_look_for_the_device_sets_nothing(untouched):
    assert resolve_device("auto").type in ("cpu", "cuda") and resolve_device("cpu") == torch.device("cpu")
    complete({**base_config(), "device": "cpu", "deterministic": True})
    assert settings() == untouched


def test_a_process_is_set_up(untouched):
    set_up_process(torch.device("cpu"))
    assert settings() == {**untouched, "benchmark": True, "tf32": True}
    set_up_process(torch.device("cpu"), deterministic=True)
    assert settings() == {"deterministic": True, "cudnn": True, "benchmark": False, "tf32": True, "workspace": ":4096:8"}
