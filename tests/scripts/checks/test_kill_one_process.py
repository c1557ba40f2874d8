"""torchrun starts a training again that lost a process."""

import pytest

from qnet.scripts.checks.kill_one_process import kill_one_process
from tests.programs import TINY


@pytest.mark.slow
def test_a_killed_process_changes_nothing(toy_data, tmp_path):
    options = {**TINY, "path.CHAOST2.data_dir": toy_data}
    kill_one_process([f"{key}={value}" for key, value in options.items()], tmp_path)
