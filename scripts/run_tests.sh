#!/usr/bin/env bash
# Run the tests (and the linter) in .venv, which is set up when needed.
#
#   bash scripts/run_tests.sh [--slow] [options of pytest]
#
#   --slow    only the tests marked slow: minutes each, on real data

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
use_environment
selection=()
if [[ ${1:-} == --slow ]]; then shift; selection=(-m slow); fi
ruff check .
python -m pytest "${selection[@]}" "$@"
