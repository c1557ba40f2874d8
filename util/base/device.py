"""Turns the options `device` and `precision` into a torch device, set up for the process, and the arithmetic for it."""

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


# values of ONEDNN_MAX_CPU_ISA that keep oneDNN from bf16 instructions
WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
SLOW_BF16 = "convolutions take about 10 times as long as in float32, and large matrix products up to 165 times"
FAST_BF16 = "about twice as fast"      # a training step, docs/results.md and docs/performance.md


def bf16_is_fast(device: torch.device) -> bool:
    """Tell whether a device is faster in bf16: CUDA from compute capability 8 on, and CPUs with AVX-512 BF16 or AMX.

    ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA, which keep PyTorch and oneDNN from such instructions, count.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability(device) >= (8, 0)
    return (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
            and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in WITHOUT_BF16)


def resolve_precision(name: str, device: torch.device, begun: str | None = None) -> str:
    """Return "float32" or "bf16" for the option `precision`, and warn where that is slower on this device than the other.

    Args:
        name: "auto" takes what is faster on the device.
        begun: what a run that goes on was begun with; "auto" stays with it.
    """
    fastest = "bf16" if bf16_is_fast(device) else "float32"
    used = name if name != "auto" else begun or fastest
    why = "the run goes on as it began, in" if name == "auto" else "got"
    if used == "bf16" != fastest:
        this = f"processor has no instructions for it: {SLOW_BF16}" if device.type == "cpu" else "GPU has no instructions for it"
        print(f"warning: precision: {why} bf16, but this {this}")
    elif name == "auto" and used != fastest:
        print(f"warning: precision: {why} float32, where bf16 is {FAST_BF16}; precision=bf16 starts another run")
    return used


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
