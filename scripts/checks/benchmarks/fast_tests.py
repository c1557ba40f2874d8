"""How long the quick tests take."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys

from qnet.scripts.checks.benchmarks.bench import Bench, Measured, Result
from qnet.util.base.root import ROOT

NEEDED = ("pytest", "xdist")
# as scripts/run_tests.sh --fast
ARGUMENTS = ("--numprocesses", "auto", "--dist", "worksteal", "-m", "not slow and not whole")
SMALL = "tests/models/test_mind.py"     # with --quick


def measure(bench: Bench) -> Measured:
    """Run the quick tests as scripts/run_tests.sh --fast does, in the environment of this process and without the linter."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return Measured({}, [f"left out: tests; {', '.join(missing)} not installed (requirements-dev.txt)"])
    command = [sys.executable, "-m", "pytest", *ARGUMENTS, *([SMALL] if bench.quick else [])]
    # none of the variables of a pytest that this process may run in
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNDEFAULTENCODING": "1"}
    done, seconds = bench.timed(functools.partial(subprocess.run, command, cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                                                  stderr=subprocess.STDOUT, encoding="utf-8", check=False))
    return Measured({"tests": Result(None, seconds, done.returncode == 0, f"{SMALL if bench.quick else 'the fast tier'}, "
                                     f"{os.cpu_count()} processors: {summary(done.stdout)}")})


def summary(output: str) -> str:
    """Return what pytest says at its end, such as "1108 passed in 38.90s"; its last line where it says something else."""
    lines = output.strip().splitlines() or ["no output"]
    found = [line for line in lines if re.search(r"\b(passed|failed|errors?)\b.* in [\d.]+s", line)]
    return (found or lines)[-1].strip("= ")
