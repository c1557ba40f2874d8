"""The device of the option `device`, the process that computes on it, and the arithmetic of the option `precision`."""

import os

import torch

from qnet.util.base.distributed import local_rank, world_size
from qnet.util.base.errors import InputError
from qnet.util.base.memory import keep_freed_memory


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:<number>". Nothing is set.

    Each of several processes on a machine takes its own GPU.

    Raises:
        InputError: the CUDA device does not exist, or several processes ask for the same one.
    """
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
    return device


def set_up_process(device: torch.device, deterministic: bool = False) -> None:
    """Set how this process computes on a device from now on.

    CUDA multiplies float32 matrices in TF32, as PyTorch does in convolutions. For a CPU, the process keeps the memory that it
    frees; threads that have begun by then do not share it.

    Args:
        deterministic: use only algorithms that give the same bits every time. torch raises RuntimeError where it has none.
            CUDA is slower with them.
    """
    if deterministic != torch.are_deterministic_algorithms_enabled():      # the call imports PyTorch's compiler: 1.3 s, 150 MB
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic     # all slices of a data set have one size
    torch.backends.cuda.matmul.allow_tf32 = True
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"     # CUDA reads it at its first matrix product
    if device.type == "cpu":
        keep_freed_memory()


# with these values of ONEDNN_MAX_CPU_ISA, oneDNN uses no bf16 instructions
WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
SLOW_BF16 = "convolutions take about 10 times as long as in float32, and large matrix products up to 165 times"
FAST_BF16 = "about twice as fast"      # a training step: docs/results.md, docs/performance.md


def bf16_is_fast(device: torch.device) -> bool:
    """Return whether a device is faster in bf16: CUDA from compute capability 8 on, and CPUs with AVX-512 BF16 or AMX.

    The limits that ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA set for PyTorch and oneDNN are respected.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability(device) >= (8, 0)
    return (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
            and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in WITHOUT_BF16)


def resolve_precision(name: str, device: torch.device, begun: str | None = None, *, training: bool = False) -> str:
    """Return "float32" or "bf16" for the option `precision`. A warning is printed if the other one is faster on this device.

    Args:
        name: "float32", "bf16", or "auto": the faster one in a training; float32 elsewhere, so that no score and no outline
            depends on the machine.
        begun: the precision that a resumed run was started with. "auto" keeps it.
    """
    fastest = "bf16" if bf16_is_fast(device) else "float32"
    used = name if name != "auto" else begun or (fastest if training else "float32")
    why = "the run goes on as it began, in" if name == "auto" else "got"
    if used == "bf16" != fastest:
        this = f"processor has no instructions for it: {SLOW_BF16}" if device.type == "cpu" else "GPU has no instructions for it"
        print(f"warning: precision: {why} bf16, but this {this}")
    elif name == "auto" and training and used != fastest:
        print(f"warning: precision: {why} float32, where bf16 is {FAST_BF16}; precision=bf16 starts another run")
    return used
