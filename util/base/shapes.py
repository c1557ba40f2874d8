"""The shape check of public functions that take tensors."""

from __future__ import annotations

from torch import Tensor


def expect_shape(name: str, tensor: Tensor, axes: str, **known: int) -> dict[str, int]:
    """Return the size of each named axis, as in ``expect_shape("masks", masks, "B S H W", B=4)``.

    Raises:
        ValueError: the number of axes differs, or an axis in `known` has another size. The message gives `name`.
    """
    got, letters = tuple(tensor.shape), axes.split()
    if len(got) != len(letters):
        raise ValueError(f"{name}: expected axes ({axes}), got shape {got}")
    sizes = dict(zip(letters, got, strict=True))
    if bad := [f"{axis}={size}" for axis, size in known.items() if sizes[axis] != size]:
        raise ValueError(f"{name}: expected {', '.join(bad)} in axes ({axes}), got shape {got}")
    return sizes
