"""Where the goldens and the real data lie, and the weights that the goldens were made with."""

from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
GOLDENS = SHARED / "goldens"
CHAOST2 = SHARED / "data" / "CHAOST2"

needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="needs ../shared/goldens, which a user's clone lacks")
needs_chaost2 = pytest.mark.skipif(not CHAOST2.is_dir(), reason="needs ../shared/data/CHAOST2, which a user's clone lacks")


def recipe(state_dict: dict[str, torch.Tensor], seed: int, threshold_bias: float) -> dict[str, torch.Tensor]:
    """The weights described in goldens/README.md, for the names and shapes of `state_dict`."""
    weights = {}
    for i, name in enumerate(sorted(state_dict)):
        shape = tuple(state_dict[name].shape)
        rng = np.random.default_rng([seed, i])
        z = rng.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            weights[name] = state_dict[name]
            continue
        if name.endswith("running_mean"):
            value = 0.1 * z
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("reduce1.weight", "reduce2.weight")):
            value = (z - z.mean(axis=1, keepdims=True)) * np.sqrt(2 / shape[1])
        elif len(shape) == 4:
            value = z * np.sqrt(2 / np.prod(shape[1:]))
        elif len(shape) == 2:
            value = z / np.sqrt(shape[1])
        elif name.endswith("reduce1d.bias"):
            value = np.full(shape, threshold_bias)
        elif name.endswith("weight"):
            value = (1 + 0.1 * z) * (0.2 if ".bn3." in name else 1)
        else:
            value = 0.1 * z
        weights[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return weights
