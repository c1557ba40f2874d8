"""What the page and the server tell each other of a drawing: only the voxels that change, and which slices a person drew.

A message is a length (4 bytes, little-endian), so many bytes of JSON, then the voxels: their numbers in a file of NIfTI (uint32,
little-endian), and then their values (a byte each).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qnet.util.base.errors import InputError
from qnet.util.base.inputs import SMALL, parse_json

T = TypeVar("T")
BYTES = 5       # of a voxel


@dataclass(frozen=True)
class Changes:
    """Voxels that change.

    Attributes:
        voxels: (n,) uint32, their numbers in the (D, H, W) label map, flat.
        values: (n,) uint8, what they become.
    """

    voxels: np.ndarray
    values: np.ndarray

    def applied(self, label_map: np.ndarray) -> np.ndarray:
        """Return a (D, H, W) label map with the changes.

        Raises:
            InputError: a voxel is none of it.
        """
        if self.voxels.size and self.voxels.max() >= label_map.size:
            raise InputError(f"voxels: got {self.voxels.max()}, allowed: less than {label_map.size}")
        changed = label_map.copy()
        changed.reshape(-1)[self.voxels] = self.values
        return changed


def changes_between(before: np.ndarray, after: np.ndarray) -> Changes:
    """Return what makes one (D, H, W) label map another."""
    voxels = np.flatnonzero(before != after)
    return Changes(voxels.astype("<u4"), after.reshape(-1)[voxels].astype(np.uint8))


def pack(said: Mapping[str, Any], changes: Changes) -> bytes:
    """Return a message."""
    head = json.dumps(said).encode()
    voxels, values = changes.voxels.astype("<u4"), changes.values.astype(np.uint8)
    return len(head).to_bytes(4, "little") + head + voxels.tobytes() + values.tobytes()


def unpack(content: bytes, schema: type[T]) -> tuple[T, Changes]:
    """Return what a message says, and its changes.

    Args:
        schema: of its JSON.
    Raises:
        InputError: it is no such message.
    """
    length = int.from_bytes(content[:4], "little")
    n, rest = divmod(len(content) - 4 - length, BYTES)
    if n < 0 or rest:
        raise InputError(f"body: got {len(content)} bytes, allowed: a length, so much JSON, and {BYTES} bytes for each voxel")
    said = parse_json(content[4:4 + length], "body", schema, limits=SMALL, plain=True)
    start = 4 + length
    return said, Changes(np.frombuffer(content, "<u4", n, start), np.frombuffer(content, np.uint8, n, start + 4 * n))
