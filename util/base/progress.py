"""The progress bar of all long work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from util.base.distributed import is_main


def progress(iterable: Iterable | None = None, disable: bool = False, **options: Any) -> tqdm:
    """Return a tqdm bar with tqdm's options; of several processes only the main one shows it.

    It writes to the real standard error, past sacred's capture, so that a run's cout.txt holds no bars; where that is no
    terminal (a log file), it writes a line every ten seconds at most.
    """
    return tqdm(iterable, disable=disable or not is_main(), file=sys.__stderr__,
                mininterval=0.2 if sys.__stderr__.isatty() else 10, **options)
