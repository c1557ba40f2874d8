"""The command lines of `segment` and `label`. They are read, and their help is shown, without a library.

    python -m qnet.scripts.options segment      # the help of scripts/segment.sh
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qnet.dataloaders.outlines.formats import FORMATS, NIFTI
from qnet.util.base.arguments import Parser
from qnet.util.base.classes import named_value
from qnet.util.base.guard import OVERWRITE_HELP

WHICH_FIRST = "--which-first"
METHODS = ("guided", "student")
SEGMENT = """Outline an organ in one scan of a folder, and get it outlined in the others.

    qnet segment --scans FOLDER --outlined SCAN=LABELS --output OUT
    qnet segment --scans FOLDER --which-first

FOLDER holds scans of any spacing, orientation and size: NIfTI, NRRD, MetaImage and MGH files, DICOM at any depth. They are
only read. LABELS is a label map, a .seg.nrrd of 3D Slicer, DICOM-SEG or RTSTRUCT. OUT gets a label map for each other scan on
that scan's own grid, cases.csv with the least certain first, and report.html to look at all. No GPU is needed, and no
training. The same command again goes on where it was stopped. --which-first says which scan to outline.
"""
LABEL = """The labelling page: outline one scan of a folder in the browser, get the others, correct, export.

    qnet label scans/
    qnet label scans/ --found outlined/
    qnet label scans/ --outlined image_1=label_1.nii.gz --pattern 'image_*'

Everything is kept in scans/label_page, at once; the scans are only read. The page is for this machine alone.
"""


def segment_parser(*, outlines: bool) -> Parser:
    """Return the parser of `segment`.

    Args:
        outlines: whether scans are to be outlined. If not, `--outlined` and `--output` are not required.
    """
    parser = Parser(SEGMENT)
    parser.add_argument("--scans", type=Path, required=True, metavar="FOLDER",
                        help="NIfTI files and folders of DICOM slices; or a 4D file or DICOM series, whose phases are scans")
    add_outlined(parser, "a scan of FOLDER, or the number of a phase", required=outlines)
    parser.add_argument("--output", type=Path, required=outlines, metavar="OUT",
                        help="folder of the results, outside of FOLDER")
    parser.add_argument(WHICH_FIRST, action="store_true",
                        help="outline nothing, and list the scans by how much they look like the others: which one to outline")
    parser.add_argument("--names", type=named_value, nargs="*", default=[], metavar="VALUE=NAME", help="as 1=liver 2=spleen")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=[NIFTI], metavar="FORMAT",
                        help=f"what the outlines are written as, beside the label map: {', '.join(FORMATS)}")
    parser.add_argument("--follow-up", action="append", nargs=2, default=[], metavar=("FIRST", "SECOND"),
                        help="two scans of one patient, whose change of volume the report tells; may be given again")
    parser.add_argument("--suffix", metavar="SUFFIX", help="FOLDER is of BIDS, and its scans are those of a suffix, as T1w")
    parser.add_argument("--channels", nargs="+", metavar="CHANNEL",
                        help="sequences of a patient on the same voxels, as T1 T2: p1_T1.nii.gz and p1_T2.nii.gz, or T1 and T2 "
                             "in the folder p1, are the scan p1, and all are used")
    parser.add_argument("--ejection", type=int, nargs=2, metavar=("FULL", "EMPTY"),
                        help="phases of a 4D file, between which the report tells stroke volume and ejection fraction")
    parser.add_argument("--method", choices=METHODS, default="guided", metavar="METHOD",
                        help="guided (the default), or student: guided, and a network that is trained for these scans")
    parser.add_argument("--fill", action="store_true", help="fill slices that were left out between outlined ones, by shape")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)      # of earlier versions
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for what came out, for machines")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser


def label_parser() -> Parser:
    """Return the parser of `label`."""
    parser = Parser(LABEL)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of scans: NIfTI files, or folders of DICOM slices")
    parser.add_argument("--pattern", default="*", help="names of the files that are scans, as 'image_*'; default: all")
    add_outlined(parser, "a scan of FOLDER", required=False)
    parser.add_argument("--found", type=Path, metavar="OUT",
                        help="open what qnet segment wrote into this folder for the scans, to correct it")
    parser.add_argument("--task", type=Path, metavar="FILE.task", help="examples from elsewhere, as export writes them")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; default: one that is free")
    return parser


def add_outlined(parser: Parser, scan: str, *, required: bool) -> None:
    """Add the option that names outlined scans; `qnet.util.predict.outlined` reads its values.

    Args:
        scan: what stands before the "=", for the help.
    """
    parser.add_argument("--outlined", nargs="+", action="extend", default=[], required=required, metavar="SCAN=LABELS",
                        help=f"{scan}, and the file of its outlines, which is also sought in FOLDER; several, or given again")


def script_help(name: str) -> str:
    """Return the help of a bash script, scripts/<name>.sh."""
    parser = {"segment": lambda: segment_parser(outlines=True), "label": label_parser}[name]()
    parser.prog = f"bash scripts/{name}.sh"
    return parser.format_help().replace(f"qnet {name}", parser.prog)


if __name__ == "__main__":
    print(script_help(sys.argv[1]), end="")
