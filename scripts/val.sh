#!/usr/bin/env bash
# Evaluate every fold's newest snapshot and print one table over the folds.
#
#   bash scripts/val.sh <dataset> <setting> [folds…] [-- options]
#
#   dataset   CHAOST2 or CMR
#   setting   1; CHAOST2 only: 1_scratch, or 2 (joins the two trainings)
#   folds     some of 0 1 2 3 4; all of them unless given
#   options   as for test.py, such as  supp_idx=all path.CHAOST2.data_dir=/my/folder

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
[[ $# -ge 2 ]] || { echo "error: a dataset and a setting are needed (--help explains)" >&2; exit 2; }
dataset=$1 setting=$2
shift 2
split_arguments "$@"
use_environment requirements.txt
python scripts/val.py "$dataset" "$setting" --folds "${folds[@]}" --options "${options[@]}"
