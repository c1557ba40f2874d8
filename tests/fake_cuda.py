"""A CUDA device without a GPU: tensors that say they are on it, and hold real numbers on the CPU.

What a GPU would refuse is refused: an operation on tensors of both devices, and `numpy()` of a tensor on the device. As the
numbers are real, code whose course depends on them runs too (torch's FakeTensorMode stops there). Autograd's backward pass does
not run: it looks for CUDA's streams. Nothing is shown of CUDA's own kernels: numbers, speed, memory, determinism, nor of pinned
memory and NCCL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}      # between devices, so both are allowed
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default,
           torch.ops.aten._index_put_impl_.default}       # a tensor on CUDA may be indexed by one on the CPU


class FakeCuda(torch.Tensor):
    """Says that it is on DEVICE; `held` has the numbers."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> FakeCuda:
        return torch.Tensor._make_wrapper_subclass(cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(),
                                                   dtype=real.dtype, layout=real.layout, device=DEVICE)

    def __init__(self, real: torch.Tensor):
        self.held = real

    def __repr__(self) -> str:      # type: ignore[override]     # torch's takes contents too
        return f"FakeCuda({self.held})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> list:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:     # type: ignore[override]
        return run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Also sees what is made on the device out of nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the numbers, after a look at where its tensors are."""
    if func._can_decompose():       # of a tensor made in inference mode, what is made of other operations comes whole
        with _Mode():
            return func.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    fake = [tensor for tensor in tensors if isinstance(tensor, FakeCuda)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, FakeCuda) and tensor.dim()]
    if func in INDEXED and isinstance(args[0], FakeCuda):
        on_cpu = [tensor for tensor in on_cpu if not any(tensor is index for index in args[1] if index is not None)]
    if fake and on_cpu and func not in MOVES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")
    target = kwargs.get("device")
    is_fake = torch.device(target).type == "cuda" if target is not None else bool(fake)
    out = func(*_real(args), **_real(kwargs | ({"device": torch.device("cpu")} if target is not None else {})))
    if not func._schema.returns:
        return None
    if func._schema.name.endswith("_"):      # in place: gives back what it was given
        return args[0]
    return tree_map_only(torch.Tensor, FakeCuda, out) if is_fake else out


def _real(values: Any) -> Any:
    return tree_map_only(FakeCuda, lambda tensor: tensor.held, values)


def _without_gradients(mode: bool) -> contextlib.AbstractContextManager:
    """In the place of inference mode, in which operations do not pass by here."""
    return torch.no_grad() if mode else contextlib.nullcontext()


@contextlib.contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Give a CUDA device that takes part in all that runs inside; for machines without one."""
    torch._C._ensureCUDADeviceGuardSet()
    with contextlib.ExitStack() as stack:
        answers = {"_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "synchronize": None}
        for name, value in answers.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda *_, value=value: value))
        made = torch.tensor     # would start CUDA by itself
        stack.enter_context(mock.patch("torch.tensor", lambda *args, device=None, **kwargs: made(*args, **kwargs).to(device)))
        stack.enter_context(mock.patch("torch._C._InferenceMode", _without_gradients))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion,
                       torch.__future__.get_overwrite_module_params_on_conversion())
        torch.__future__.set_overwrite_module_params_on_conversion(True)     # `model.to` makes new parameters
        stack.enter_context(_Mode())
        yield DEVICE
