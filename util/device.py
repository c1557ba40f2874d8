"""Turns the option `device` into a torch device."""

import os

import torch

from util.distributed import local_rank, world_size
from util.errors import InputError


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """Return the device for "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:<number>".

    Of several processes on a machine each takes a GPU of its own. CUDA multiplies float32 matrices in TF32, as PyTorch has it
    for convolutions.

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
    return device
