"""Pools of processes that work through many cases, and of threads that compute side by side."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
MOST_THREADS = 4      # every one of them needs memory of its own


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
    """Wait for the end of the process that made the pool, and end this process. If that one is killed, nothing else does it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def side_by_side(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Do jobs of PyTorch on the CPU in threads, up to `MOST_THREADS` at a time, and yield the results in the order of the jobs.

    Jobs that run together share PyTorch's threads. That is faster if the operations of a job are too small for many threads.
    A job that is left alone runs in this thread. Gradient and inference mode do not reach the other threads.

    Args:
        jobs: this thread takes them from the iterable, only as many at a time as run together.
    """
    import torch
    waiting, threads = iter(jobs), torch.get_num_threads()
    try:
        while together := list(islice(waiting, min(MOST_THREADS, threads))):
            if len(together) == 1:
                yield together.pop()()
            else:
                with ThreadPoolExecutor(len(together), "job", torch.set_num_threads, (threads // len(together),)) as pool:
                    yield from pool.map(lambda job: job(), together)
    finally:
        torch.set_num_threads(threads)      # a new thread gets the number that any thread set last
