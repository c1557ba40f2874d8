"""The progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from qnet.util.base.distributed import is_main


def progress(iterable: Iterable | None = None, disable: bool = False, **options: Any) -> tqdm:
    """Return a tqdm bar with tqdm's options. Only the main process shows it.

    The bar bypasses sacred's capture of standard error, so a run's cout.txt holds no bars. In a log file it writes at most
    one line in ten seconds.
    """
    return tqdm(iterable, disable=disable or not is_main(), file=sys.__stderr__,
                mininterval=0.2 if sys.__stderr__ is not None and sys.__stderr__.isatty() else 10, **options)
