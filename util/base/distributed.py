"""Several processes that train or evaluate together, one per GPU, as torchrun starts them.

The environment says which process this is (RANK, WORLD_SIZE, LOCAL_RANK) and where they meet (MASTER_ADDR, MASTER_PORT).
Without WORLD_SIZE there is one process. Then nothing here communicates, and every function returns that process's own value.
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
    """Return the number of processes on all machines together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return this process's number, 0 … world_size − 1."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number on its machine, which is also the number of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes and prints."""
    return rank() == 0


def silence() -> None:
    """Discard this process's standard output and all log messages below errors from now on."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")    # noqa: SIM115
    logging.disable(logging.WARNING)


def meet(device: torch.device) -> None:
    """Join the group of processes, which the functions below need. This waits for all of them."""
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, *_ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart, torchrun's store still holds the addresses of the processes that ended, so each start has its own
        # prefix. Several machines count their restarts apart: there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives a new store.
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=store, rank=rank(),
                            world_size=world_size())


def leave() -> None:
    """Leave the group of processes at a normal end. After an error, torchrun ends the processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(model: nn.Module, sync_batchnorm: bool) -> nn.Module:
    """Wrap a model so that `backward` gives every process the mean of all processes' gradients.

    Every process starts from the main process's weights.

    Args:
        sync_batchnorm: normalise by the statistics of all processes' batches (CUDA only). Without it, each process normalises
            by its own batch, and the running statistics are those of the main process.
    Raises:
        InputError: `sync_batchnorm` is asked for on a CPU.
    """
    if world_size() == 1:
        return model
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise InputError(f"sync_batchnorm: got true for {world_size()} processes on the CPU, allowed on CUDA only")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes. Every process must call this and gets the same mean."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def largest_of_processes(number: int) -> int:
    """Return the largest of the processes' numbers. Every process must call this and gets the same number."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)      # on the CPU, so that nothing waits for a GPU
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def of_main(value: Any) -> Any:
    """Return the main process's value. Every process must call this and gets the same value."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def join(items: Sequence[Any]) -> list[Any]:
    """Return the items of all processes, in the order of their ranks. Processes other than the main one get an empty list."""
    if world_size() == 1:
        return list(items)
    lists: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(list(items), lists)
    return [item for items_of_one in lists or () for item in items_of_one]
