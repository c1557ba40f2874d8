"""The labelling page: outline one scan of a folder in the browser, get the others, correct, export. `qnet label`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.scripts.options import label_parser
from qnet.util.base.errors import InputError, printable
from qnet.util.base.signals import Interrupted, raise_on_signals
from qnet.util.label.serve import load_found, load_outlined, load_task, serve
from qnet.util.label.session import Session
from qnet.util.predict.outlined import outlined_pair


def outlined_pairs(given: Sequence[str], session: Session) -> list[tuple[str, Path]]:
    """Return (name of a scan, file of its outlines) for each SCAN=LABELS.

    Raises:
        InputError: as `outlined_pair`.
    """
    scans = {scan.path: scan.name for scan in session.scans.values()}
    pairs = [outlined_pair(text, scans, session.folder, str(session.folder)) for text in given]
    return [(scans[path], labels) for path, labels in pairs]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = label_parser().parse_args(arguments)
    raise_on_signals()
    try:
        with closing(Session(options.folder, options.pattern)) as session:
            if options.task is not None:
                load_task(session, options.task)
            for line in load_outlined(session, outlined_pairs(options.outlined, session)):
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
