"""Several processes that train or evaluate together, one per GPU, as torchrun starts them.

Who is who comes from the environment: RANK, WORLD_SIZE, LOCAL_RANK, and MASTER_ADDR and MASTER_PORT where they meet. Without
WORLD_SIZE there is one process; then nothing here communicates, and every function returns what that one has.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from util.base.errors import InputError


def world_size() -> int:
    """Return the number of processes, on all machines together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return this process's number, 0 … world_size − 1."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number among those of its machine: the GPU it takes."""
    return int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Say whether this is the process that writes and prints."""
    return rank() == 0


def silence() -> None:
    """Print nothing but errors from now on."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")    # noqa: SIM115
    logging.disable(logging.WARNING)


def meet(device: torch.device) -> None:
    """Wait for the other processes, with which the functions below communicate."""
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, *_ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store when it starts processes again, with the addresses of those that are gone; on several machines
        # it counts restarts for each, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes it take a new store
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=store, rank=rank(),
                            world_size=world_size())


def part() -> None:
    """Leave the other processes, when all is well: after an error torchrun ends them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(model: nn.Module, sync_batchnorm: bool) -> nn.Module:
    """Return what to call in place of a model, so that `backward` leaves the mean of all processes' gradients in each.

    Every process starts from the main one's weights.

    Args:
        sync_batchnorm: normalise by the statistics of all processes' batches (CUDA only). Without it each process normalises
            by its own batch, and the running statistics are those of the main one's batches.
    Raises:
        InputError: `sync_batchnorm` on another device.
    """
    if world_size() == 1:
        return model
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise InputError(f"sync_batchnorm: got true for {world_size()} processes on the CPU, allowed on CUDA only")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes, in each of them."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def largest_of_processes(number: int) -> int:
    """Return the largest of the processes' numbers, in each of them."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)      # on the CPU, so that no GPU is waited for
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def of_main(value: Any) -> Any:
    """Return the main process's value, in each of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def join(items: Sequence[Any]) -> list[Any]:
    """Return the items of all processes by rank in the main one; in others an empty list."""
    if world_size() == 1:
        return list(items)
    lists = [None] * world_size() if is_main() else None
    dist.gather_object(list(items), lists)
    return [item for items_of_one in lists for item in items_of_one] if is_main() else []
