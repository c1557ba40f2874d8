#!/usr/bin/env bash
# Outline an organ in one scan of a folder, and get it outlined in the others. No GPU is needed, and no training.
#
#   bash scripts/segment.sh --scans FOLDER --outlined SCAN=LABELS --output OUT [options]
#
# --help lists the options. Relative paths start where the command is given.

set -euo pipefail
here=$PWD
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) options_of segment; exit ;; esac
use_environment requirements.txt
root=$PWD
cd "$here"
python "$root/scripts/segment.py" "$@"
