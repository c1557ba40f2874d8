"""The stress script finds what is wrong, and with patience that nothing is."""

import shutil

import pytest
import torch

from qnet.scripts.checks import stress
from tests.programs import run


def test_differences_are_found(toy_data, tmp_path):
    run("train", tmp_path / "whole", toy_data, n_steps=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "other")
    assert list(stress.differences(tmp_path / "whole", tmp_path / "other", n_steps=1)) == []
    path = tmp_path / "other" / stress.RUNS / "1/snapshots/1.pth"
    content = torch.load(path, weights_only=True)
    content["model"]["encoder.reduce1.weight"][0, 0] += 1e-7
    content["history"][0, 0] += 1e-6
    torch.save(content, path)
    assert list(stress.differences(tmp_path / "whole", tmp_path / "other", n_steps=1)) == [
        "tensor encoder.reduce1.weight differs", "losses differ"]
    path.write_bytes(path.read_bytes()[:-9])
    assert list(stress.differences(tmp_path / "whole", tmp_path / "other", n_steps=1)) == ["last snapshots 1 and None"]


def test_a_failure_is_the_exit_status(capsys):
    parts = {"fails": lambda shared: [f"seed {shared.seed} lost something"], "holds": lambda shared: []}
    assert stress.main(["fails", "--seed", "3"], parts) == stress.main(["--seed", "3"], parts) == 1
    assert "fails: FAILED" in (printed := capsys.readouterr().out) and "seed 3 lost something" in printed
    assert stress.main(["holds"], parts) == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", ["kills", "full_disk"])
def test_nothing_is_lost(part):
    assert stress.main([part, "--quick"]) == 0
