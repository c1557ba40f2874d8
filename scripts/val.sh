#!/usr/bin/env bash
# Evaluate every fold's newest snapshot and print one table over the folds.
#
#   bash scripts/val.sh [-- options]                                  every finished training, a table for each experiment
#   bash scripts/val.sh <dataset> <setting> [folds…] [-- options]     one table
#
# Without a dataset all trainings below the log folders of configs/ (runs/…) are evaluated, each by its own config, and what is
# left out is said: unfinished ones, those of another protocol, and older ones with the same options.
#
#   dataset   CHAOST2 or CMR
#   setting   1; CHAOST2 only: 1_scratch, or 2 (joins the two trainings)
#   folds     some of 0 1 2 3 4; all of them unless given
#   options   as for test.py, such as  supp_idx=all path.CHAOST2.data_dir=/my/folder

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
setting=()
if [[ $# -gt 0 && $1 != -- ]]; then
    [[ $# -ge 2 && $2 != -- ]] || { echo "error: a dataset and a setting are needed, or neither (--help explains)" >&2; exit 2; }
    setting=("$1" "$2")
    shift 2
fi
split_arguments "$@"
use_environment requirements.txt
python scripts/val.py "${setting[@]}" --folds "${folds[@]}" --options "${options[@]}"
