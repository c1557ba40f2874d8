#!/usr/bin/env bash
# Run the tests (and the linter) in .venv, which is set up when needed.
#
#   bash scripts/run_tests.sh [--slow] [options of pytest]
#
#   --slow    only the tests marked slow: minutes each, on real data

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
use_environment requirements-dev.txt
ruff check .
if [[ ${1:-} == --slow ]]; then
    shift
    python -m pytest -m slow "$@"
else
    export OMP_NUM_THREADS=1    # a process per core, each with one thread
    python -m pytest --numprocesses auto --dist loadfile "$@"
fi
