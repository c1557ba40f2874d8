#!/usr/bin/env bash
# Train Q-Net on CMR (cardiac MRI), setting 1: all training slices.
#
#   bash scripts/train_cmr_mr.sh [folds…] [-- options]
#
#   folds     some of 0 1 2 3 4; all of them unless given
#   options   as for train.py, such as  encoder=small pretrained=none path.CMR.data_dir=/my/folder
#
# Interrupted trainings go on from their newest snapshot and finished ones are kept (resume=never starts afresh).

set -euo pipefail
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
split_arguments "$@"
use_environment requirements.txt
train_folds cmr_setting1
