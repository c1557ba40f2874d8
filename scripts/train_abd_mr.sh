#!/usr/bin/env bash
# Train Q-Net on CHAOS-T2 (abdominal MRI).
#
#   bash scripts/train_abd_mr.sh [setting [folds…]] [-- options]
#
#   setting   1, unless given: all training slices; 1_scratch: the same without pretrained weights, small encoder;
#             2: slices with a test class removed (two trainings a fold: liver and spleen, kidneys)
#   folds     some of 0 1 2 3 4; all of them unless given
#   options   as for train.py, such as  encoder=small pretrained=none path.CHAOST2.data_dir=/my/folder
#
# Interrupted trainings go on from their newest snapshot and finished ones are kept (resume=never starts afresh).

set -euo pipefail
source "$(dirname "$0")/common.sh"
[[ $# -gt 0 && $1 != -- ]] || set -- 1 "$@"
case $1 in
    -h|--help) help_of "$0"; exit ;;
    1 | 1_scratch) configs=("chaost2_setting$1") ;;
    2) configs=(chaost2_setting2_liver_spleen chaost2_setting2_kidneys) ;;
    *) echo "error: setting: got '$1', allowed: 1, 1_scratch or 2 (--help explains)" >&2; exit 2 ;;
esac
shift
split_arguments "$@"
use_environment requirements.txt
train_folds "${configs[@]}"
