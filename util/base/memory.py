"""The C library's memory: what is freed is kept for the next allocation, until it is returned at the end of a piece of work."""

import ctypes

# from glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next allocation, and not return it to the system.

    Threads that begin later share that memory, unless other threads have begun before.

    A training step of ResNet-101 allocates gigabytes of feature maps. Page faults took about 15 % of its time
    (docs/performance.md). If the C library is not glibc, nothing changes and the result is False.
    """
    return mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * 2**20, M_ARENA_MAX: 1})


def return_freed_memory() -> bool:
    """Return the whole pages of freed memory to the system, and tell whether there were any. Without glibc: False.

    What a piece of work frees lies in gaps between what it leaves. The next piece has other sizes, and does not fit into them, so
    without this the gaps add up.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False


def mallopt(options: dict[int, int]) -> bool:
    """Set options of glibc's allocator, and return whether all were set. Other C libraries: False, and nothing is set."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):    # macOS and musl have no mallopt; Windows has no such library
        return False
    return all(set_option(option, value) == 1 for option, value in options.items())
