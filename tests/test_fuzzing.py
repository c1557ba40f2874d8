"""A few hundred damaged inputs of each kind; scripts/checks/stress.py tries many more."""

import contextlib
import copy
import os

import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.options.config import check_config
from tests import fuzzing


@pytest.mark.whole
@pytest.mark.parametrize(("fuzz", "n"), [
    (fuzzing.fuzz_config, 400), (fuzzing.fuzz_nifti, 100), (fuzzing.fuzz_places, 200), (fuzzing.fuzz_dicom, 150),
    (fuzzing.fuzz_other, 150), (fuzzing.fuzz_outlines, 150),
    (fuzzing.fuzz_checkpoint, 100), (fuzzing.fuzz_session, 200), (fuzzing.fuzz_found, 100),
    (fuzzing.fuzz_options, 150), (fuzzing.fuzz_manifest, 400)],
    ids=lambda value: getattr(value, "__name__", str(value)))
def test_nothing_but_one_line_errors(fuzz, n):
    assert fuzz(n, seed=0) == []


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", fuzzing.OF_JSON, ids=lambda value: value.__name__)
def test_five_thousand_of_each_kind_of_json(fuzz):
    assert fuzz(5000, seed=1) == []


def test_what_a_reader_does_wrong_is_found():
    def careless(path):
        os.system(f"touch {path.with_name('canary')}")
        raise KeyError("x")

    def polite(path):
        os.system(f"touch {path.with_name('canary')}")
        raise InputError("x")

    assert any("KeyError" in line for line in fuzzing.fuzz_checkpoint(3, seed=0, read=careless))
    ran = fuzzing.fuzz_checkpoint(3, seed=0, read=polite)
    assert len(ran) == 3 and all("a pickle ran code" in line for line in ran)
    assert any("ZeroDivisionError" in line for line in fuzzing.fuzz_nifti(3, seed=0, readers=[lambda path: 1 / 0]))


def test_the_hostile_pickles_would_run_code_elsewhere(tmp_path):
    """Else their refusal would show nothing."""
    ran = 0
    for i in range(60):
        canary, rng = tmp_path / f"canary{i}", np.random.default_rng(i)
        (tmp_path / "w.pth").write_bytes(fuzzing._hostile_checkpoint(rng, canary))
        with contextlib.suppress(Exception):      # what damaged ones raise
            fuzzing.torch.load(tmp_path / "w.pth", weights_only=False)
        ran += canary.exists()
    assert ran > 30


def test_most_altered_configs_are_refused_and_not_all():
    refused = 0
    for i in range(200):
        try:
            check_config(fuzzing._alter_config(np.random.default_rng(i), copy.deepcopy(fuzzing.BASE)))
        except InputError:
            refused += 1
    assert 100 < refused < 195
