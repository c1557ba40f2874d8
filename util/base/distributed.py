"""Several processes that prepare, train or evaluate together, as torchrun starts them.

The environment says which process this is (RANK, WORLD_SIZE, LOCAL_RANK) and where they meet (MASTER_ADDR, MASTER_PORT).
Without WORLD_SIZE there is one process. Then nothing here communicates, and every function returns that process's own value.
PyTorch is imported by what needs it, so that the preparation of data, which else does not, starts at once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qnet.util.base.errors import InputError
from qnet.util.base.signals import Interrupted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")
ANOTHER_TELLS_S = 20     # the processes of a machine find the same error within seconds of each other
LONGEST_WAIT = timedelta(days=1)     # for each other, where one has more to do; torchrun ends all when one of them ends


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


def cores_per_process() -> int:
    """Return how many cores each of the processes on this machine may use, at least 1."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def silence() -> None:
    """Discard this process's standard output and all log messages below errors from now on."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")    # noqa: SIM115
    logging.disable(logging.WARNING)


def let_first_tell() -> None:
    """Wait, so that only the first process of this machine prints an error that all its processes have.

    When that process ends with the error, torchrun ends this one. If it has no such error, this function returns after
    `ANOTHER_TELLS_S` seconds, and this process prints its own error.
    """
    if not _is_first():
        try:
            time.sleep(ANOTHER_TELLS_S)
        except Interrupted as error:
            raise SystemExit(error.exit_status) from None


def _is_first() -> bool:
    return world_size() == 1 or int(os.environ.get("LOCAL_RANK", 0)) == 0     # without LOCAL_RANK every process prints its errors


@contextlib.contextmanager
def first_tells() -> Iterator[None]:
    """Let only one process of each machine print what is wrong with the command line. All processes have the same one."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(sys.stderr if _is_first() else said):
            yield
    except SystemExit as end:
        if end.code:        # --help ends without an error
            let_first_tell()
        print(said.getvalue(), end="", file=sys.stderr)
        raise


def meet(device: torch.device | None = None) -> None:
    """Join the group of processes, which the functions below need. This waits for all of them.

    Args:
        device: the device on which they compute with PyTorch; None: they do not use PyTorch.
    """
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist
    if dist.is_initialized():
        return
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    store, *_ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart, torchrun's store still holds the addresses of the processes that ended, so each start has its own
        # prefix. Several machines count their restarts apart: there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives a new store.
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank(), world_size=world_size(),
                            timeout=LONGEST_WAIT)


def leave() -> None:
    """Leave the group of processes at a normal end. After an error, torchrun ends the processes."""
    if world_size() == 1:
        return
    import torch.distributed as dist
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
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    if sync_batchnorm:
        if next(model.parameters()).device.type != "cuda":
            raise InputError(f"sync_batchnorm: got true for {world_size()} processes on the CPU, allowed on CUDA only")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes. Every process must call this and gets the same mean."""
    if world_size() == 1:
        return values
    import torch.distributed as dist
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def largest_of_processes(number: int) -> int:
    """Return the largest of the processes' numbers. Every process must call this and gets the same number."""
    if world_size() == 1:
        return number
    import torch
    import torch.distributed as dist
    largest = torch.tensor(number)      # on the CPU, so that nothing waits for a GPU
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def of_main(value: Any) -> Any:
    """Return the main process's value. Every process must call this and gets the same value."""
    if world_size() == 1:
        return value
    import torch.distributed as dist
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def main_first(make: Callable[[], T]) -> T:
    """Call a function in the main process, then in the others, and return what it gave to this one.

    Every process must call this. If the main process raises an error, the others end and print nothing, so the error is printed
    once.

    Raises:
        SystemExit: in the other processes, after an error in the main one.
    """
    if is_main():
        try:
            value = make()
        except Exception:
            of_main(False)
            raise
        of_main(True)
        return value
    if not of_main(None):
        logging.disable()
        raise SystemExit(2)
    return make()


def main_does(work: Callable[[], T]) -> T:
    """Let the main process do something that may fail, and return what it got. Every process must call this.

    Raises:
        SystemExit: in the other processes, after an error in the main one.
    """
    return of_main(main_first(lambda: work() if is_main() else None))


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share of a list that all processes have: every `world_size`-th item, beginning at its rank."""
    return items[rank()::world_size()]


def join(items: Sequence[Any]) -> list[Any]:
    """Return the items of all processes, in the order of their ranks. Processes other than the main one get an empty list."""
    if world_size() == 1:
        return list(items)
    import torch.distributed as dist
    lists: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(list(items), lists)
    return [item for items_of_one in lists or () for item in items_of_one]


def shared(jobs: Sequence[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """Do each job in one of the processes, and yield the results of all jobs to every process, in the order of the jobs.

    The processes take the jobs in turn. Every process must call this with the same jobs, and take all results. Without a group
    (`meet`) this process does all jobs.

    Args:
        device: where tensors in results of other processes go. A view takes its whole tensor along.
    """
    if not _have_met():
        yield from (job() for job in jobs)
        return
    for start in range(0, len(jobs), world_size()):
        of_round = jobs[start:start + world_size()]
        own = of_round[rank()]() if rank() < len(of_round) else None
        for source in range(len(of_round)):
            yield _from_process(source, own, device)


def _have_met() -> bool:
    if world_size() == 1:
        return False
    import torch.distributed as dist
    return dist.is_initialized()


def _from_process(source: int, own: Any, device: torch.device) -> Any:
    """Return the value of one process, bit for bit."""
    import torch
    import torch.distributed as dist
    content = io.BytesIO()
    if rank() == source:
        torch.save(own, content)
    values = [content.getvalue()]
    dist.broadcast_object_list(values, src=source)
    return own if rank() == source else torch.load(io.BytesIO(values[0]), map_location=device, weights_only=False)
