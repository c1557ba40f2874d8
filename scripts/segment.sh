#!/usr/bin/env bash
# Outline an organ in one scan of a folder, and get it outlined in the others. No GPU is needed, and no training.
#
#   bash scripts/segment.sh --scans FOLDER --outlined SCAN=LABELS --output OUT [options]
#
#   --scans FOLDER           scans of any spacing, orientation and size: NIfTI, NRRD and MetaImage files, DICOM slices at any depth. They are only
#                            read; what is no scan is listed with the reason
#   --outlined SCAN=LABELS   a scan of FOLDER, by its name or path, and the NIfTI file of its outlines: 0 outside, whole numbers inside.
#                            Give the option again for each scan that is outlined; these are not segmented
#   --output OUT             a folder outside of FOLDER. It gets a label map for each other scan, on that scan's own grid, and cases.csv:
#                            a line for each scan and label with volume and confidence, worst first; and report.html, to look at all
#
#   --names VALUE=NAME …     names of the labels, as 1=liver 2=spleen; others are called "label 3"
#   --fill                   where slices were left out between outlined ones, fill them by shape; without it a warning names them
#   --json FILE              what came out, for machines: each scan with its label map or its error
#   --overwrite              replace files in OUT that this program did not make, or that were changed since; none that it reads
#
# The same command again goes on where it was stopped, and makes only what is missing or was made of something else. A scan that
# cannot be read costs only itself; the exit status is then 1. Relative paths start where the command is given.

set -euo pipefail
here=$PWD
source "$(dirname "$0")/common.sh"
case ${1:-} in -h|--help) help_of "$0"; exit ;; esac
use_environment requirements.txt
root=$PWD
cd "$here"
python "$root/scripts/segment.py" "$@"
