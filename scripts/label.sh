#!/usr/bin/env bash
# The labelling page: outline one scan of a folder in the browser, get the others, correct, export.
#
#   bash scripts/label.sh FOLDER [options]
#
# --help lists the options. Relative paths start where the command is given.

set -euo pipefail
here=$PWD
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) options_of label; exit ;; esac
use_environment requirements.txt
root=$PWD
cd "$here"      # FOLDER is as the caller names it
exec python "$root/scripts/label.py" "$@"
