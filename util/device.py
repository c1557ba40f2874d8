"""Turns the option `device` into a torch device."""

import torch

from util.errors import InputError


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:<number>".

    Raises:
        InputError: a CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: got {name!r}, but {torch.cuda.device_count()} CUDA devices are visible; allowed here: "
                         "'auto', 'cpu'" + "".join(f", 'cuda:{i}'" for i in range(torch.cuda.device_count())))
    return device
