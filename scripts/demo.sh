#!/usr/bin/env bash
# Show the whole method on phantom data: volumes, supervoxels, training, evaluation, a table and pictures.
#
#   bash scripts/demo.sh [options]
#
# Needs no download and no GPU: a few minutes on two cores, after the packages are installed (into .venv, by this script).
# options are for train.py, such as  n_steps=2000

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
use_environment requirements.txt
python scripts/demo.py "$@"
