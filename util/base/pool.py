"""Pools of processes that work through many cases."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


def processes(n: int, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Return a pool of `n` processes, each started anew. They end with this process, however that ends.

    Args:
        begin: what each does first.
    """
    return ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), _begin, (begin,))


def _begin(begin: Callable[[], None] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    """Wait for the end of the process that made the pool; if it was killed, nothing else ends this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
