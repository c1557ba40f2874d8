#!/usr/bin/env bash
# The labelling page: outline one scan of a folder in the browser, get the others, correct, export.
#
#   bash scripts/label.sh FOLDER [--outlined SCAN=LABELS …] [--found OUTPUT_OF_SEGMENT] [--scans PATTERN] [--task FILE] [--no-browser] [--port PORT]
#
# FOLDER holds NIfTI files or folders of DICOM slices. Everything is kept in FOLDER/label_page, at once; the scans are only read.
# The page is for this machine alone, and needs no network. No GPU is needed. `--no-browser` prints the address.

set -euo pipefail
here=$PWD
source "$(dirname "$0")/common.sh"
root=$PWD
case ${1:-} in -h|--help) help_of "$root/scripts/label.sh"; exit ;; esac
use_environment requirements.txt
cd "$here"      # FOLDER is as the caller names it
exec python "$root/scripts/label.py" "$@"
