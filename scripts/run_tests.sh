#!/usr/bin/env bash
# Run the tests (and the linter) in .venv, which is set up when needed.
#
#   bash scripts/run_tests.sh [--fast | --slow] [options of pytest]
#
#   --fast    the quick tests only, to run while working: a minute on two cores
#   --slow    only the tests marked slow: minutes each, on real data

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
use_environment requirements-dev.txt
export PYTHONWARNDEFAULTENCODING=1      # pyproject.toml makes an error of it
ruff check .
in_parallel=(--numprocesses auto --dist worksteal)
case ${1:-} in
    --slow) shift; exec python -m pytest -m slow "$@" ;;
    --fast) shift; marks=(-m "not slow and not whole") ;;
    *) marks=() ;;
esac
unset PYTHONDONTWRITEBYTECODE      # else every process compiles the tests anew, seconds each
export OMP_NUM_THREADS=1    # a process per core, each with one thread
exec python -m pytest "${in_parallel[@]}" ${marks[@]+"${marks[@]}"} "$@"
