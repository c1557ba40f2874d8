"""The labelling page: outline one scan of a folder in the browser, get the others, correct, export.

    qnet label scans/
    qnet label scans/ --found outlined/
    qnet label scans/ --outlined image_1.nii.gz=label_1.nii.gz --scans 'image_*'

Everything is kept in scans/label_page, at once; the scans are only read. The page is for this machine alone.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.dataloaders.reading import scan_name
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError, printable
from qnet.util.base.signals import Interrupted, raise_on_signals
from qnet.util.label.serve import load_found, load_outlined, load_task, serve
from qnet.util.label.session import Session


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="of scans: NIfTI files, or folders of DICOM slices")
    parser.add_argument("--scans", default="*", metavar="PATTERN",
                        help="names of the files that are scans, as 'image_*'; default: all")
    parser.add_argument("--outlined", nargs="+", default=[], metavar="SCAN=LABELS", action="extend",
                        help="existing outlines: a scan of the folder, and a label map on its grid")
    parser.add_argument("--found", type=Path, metavar="FOLDER",
                        help="open what qnet segment wrote into this folder for the scans, to correct it")
    parser.add_argument("--task", type=Path, metavar="FILE.task", help="examples from elsewhere, as export writes them")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; default: one that is free")
    return parser.parse_args(arguments)


def outlined_pairs(given: list[str], folder: Path) -> list[tuple[str, Path]]:
    """Return (name of a scan, file of its outlines) for each SCAN=LABELS. Files are sought in `folder`, too.

    Raises:
        InputError: there is no "=".
    """
    pairs = []
    for text in given:
        scan, equals, labels = text.partition("=")
        if not (scan and equals and labels):
            raise InputError(f"--outlined: got {text!r}, allowed: SCAN=LABELS")
        path = Path(labels)
        pairs.append((scan_name(Path(scan)), path if path.exists() or path.is_absolute() else folder / path))
    return pairs


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    raise_on_signals()
    try:
        with closing(Session(options.folder, options.scans)) as session:
            if options.task is not None:
                load_task(session, options.task)
            for line in load_outlined(session, outlined_pairs(options.outlined, options.folder)):
                print(printable(line))
            for line in load_found(session, options.found) if options.found is not None else ():
                print(printable(line))
            print(printable(f"{len(session.scans)} scans in {options.folder}; all outlines are kept in {session.path}"))
            serve(session, options.port, lambda address: print(f"open {address}\nCtrl-C ends it", flush=True),
                  browser=not options.no_browser)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"stopped by {error}; the same command goes on", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
