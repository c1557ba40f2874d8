"""Loads networks from elsewhere for `qnet.models.outside`: a user's own from a Python file or package, and UniverSeg."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from qnet.models.outside import OutsideModel, UniverSeg
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import expect_file
from qnet.util.training.weights import load_state, read_weights

ALLOWED = "a Python file or the name of a module, a colon, and a name in it, as my_network.py:MyNetwork"


def load_outside(network: str | None, weights: str | None) -> OutsideModel:
    """Return the model of a user's own network. Its code runs.

    Args:
        network: "<file>.py:<name>" or "<module>:<name>" of a function or class that makes the network. It is called with
            `weights`.
        weights: a path, or whatever that function takes; None: none.
    Raises:
        InputError: there is no such file, module or name, or making the network fails.
    """
    where, _, name = (network or "").rpartition(":")
    if not where or not name:
        raise InputError(f"outside.network: got {network!r}, allowed: {ALLOWED}")
    make = getattr(_module(where, network), name, None)
    if not callable(make):
        raise InputError(f"outside.network: got {network!r}, but {where} has no function or class {name!r}; allowed: {ALLOWED}")
    try:
        made = make(weights)
    except InputError:
        raise
    except Exception as error:      # a user's code can raise any error
        raise InputError(f"outside.network: {name} of {where}, called with outside.weights {weights!r}, fails "
                         f"({_reason(error)})") from error
    if not callable(made):
        raise InputError(f"outside.network: {name} of {where} returned a {type(made).__name__}, allowed: what can be called")
    return OutsideModel(made)


def load_universeg(weights: str | None) -> OutsideModel:
    """Return UniverSeg, from its own package.

    Args:
        weights: its file of weights, universeg_v1_nf64_ss64_STA.pt; None: the package downloads it, or takes it from torch's
            cache. Their licence allows research only.
    Raises:
        InputError: the package is not installed, or the weights are missing, damaged or of another network.
    """
    try:
        package: Any = importlib.import_module("universeg")
    except ImportError as error:
        raise InputError(f"model: got 'universeg', whose package cannot be imported ({_reason(error)}); allowed after:  "
                         "pip install git+https://github.com/JJGO/UniverSeg.git") from None
    if weights is not None:
        network: nn.Module = package.universeg(pretrained=False)
        load_state(network, read_weights(weights), weights)
        return OutsideModel(UniverSeg(network))
    try:
        return OutsideModel(UniverSeg(package.universeg(pretrained=True)))
    except (OSError, RuntimeError) as error:
        raise InputError(f"outside.weights: got null, and UniverSeg's own cannot be had ({_reason(error)}); allowed: the path of "
                         "universeg_v1_nf64_ss64_STA.pt") from None


def _module(where: str, network: str | None) -> Any:
    """Import a Python file by its path, or a module by its name."""
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = expect_file(Path(where))
        spec = importlib.util.spec_from_file_location(f"outside_{path.stem}", path)
        assert spec is not None and spec.loader is not None      # for a path that ends in .py there is one
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:      # a user's code can raise any error
        raise InputError(f"outside.network: got {network!r}, but {where} cannot be imported ({_reason(error)}); "
                         f"allowed: {ALLOWED}") from error
    return module


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
