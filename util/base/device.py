"""Turns the option `device` into a torch device, and sets the process up for it."""

import ctypes
import os

import torch

from util.base.distributed import local_rank, world_size
from util.base.errors import InputError


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """Return the device for "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:<number>".

    Of several processes on a machine each takes a GPU of its own. CUDA multiplies float32 matrices in TF32, as PyTorch has it
    for convolutions. On a CPU the process keeps the memory that it frees.

    Args:
        deterministic: from now on use algorithms that give the same bits every time, or refuse; slower on CUDA.
    Raises:
        InputError: a CUDA device that is not there, or the same one for several processes.
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic     # slices of a dataset have one size
    torch.backends.cuda.matmul.allow_tf32 = True
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"     # read when CUDA's matrix products are first used
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if world_size() > 1 and name != "cpu":
        if name != "cuda":
            raise InputError(f"device: got {name!r} for {world_size()} processes, allowed: 'auto', 'cpu', 'cuda'")
        name = f"cuda:{local_rank()}"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: got {name!r}, but {torch.cuda.device_count()} CUDA devices are visible; allowed here: "
                         "'auto', 'cpu'" + "".join(f", 'cuda:{i}'" for i in range(torch.cuda.device_count())))
    if device.type == "cpu":
        keep_freed_memory()
    return device


# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next allocation, in place of handing it back to the system.

    A training step of ResNet-101 allocates gigabytes of feature maps, and a fault for every new page takes about 15 % of its
    time (docs/performance.md). Returns False, and changes nothing, where the C library is not glibc.
    """
    return mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * 2**20})


def mallopt(options: dict[int, int]) -> bool:
    """Set options of glibc's allocator; False, and nothing set, where the C library is another."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):    # macOS and musl have no mallopt, Windows no such library
        return False
    return all(set_option(option, value) == 1 for option, value in options.items())
