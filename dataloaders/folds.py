"""Folds, and the evaluation protocol of the field: it assigns a support slice to each query slice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np

from qnet.util.base.errors import InputError


def fold_positions(n_cases: int, n_folds: int, fold: int) -> list[int]:
    """Return the positions of a test fold among the sorted cases, ascending.

    Folds are consecutive blocks. Each also takes the first case of the next block, the last one takes position 0. So they
    overlap by one case. A single fold holds all cases.

    Raises:
        InputError: `fold` is not one of 0 … n_folds − 1, or there are fewer cases than folds.
    """
    if not 0 <= fold < n_folds:
        raise InputError(f"eval_fold: got {fold}, allowed: 0 to {n_folds - 1}")
    if n_cases < n_folds:
        raise InputError(f"n_folds: got {n_folds}, but the data set has only {n_cases} cases")
    bounds = np.linspace(0, n_cases, n_folds + 1).astype(int)
    return sorted({position % n_cases for position in range(bounds[fold], bounds[fold + 1] + 1)})


def stepping_stones(n_cases: int, used: Collection[int], n: int) -> list[int]:
    """Return n positions, spread evenly over those that are not `used`; all of these if there are fewer."""
    left = [position for position in range(n_cases) if position not in used]
    return [left[k] for k in np.linspace(0, len(left) - 1, min(n, len(left))).round().astype(int)]


def extra_position(n_cases: int, n_folds: int, fold: int) -> int:
    """Return the position of the case that a fold shares with the next fold. It is the support of protocol "corrected"."""
    return int(np.linspace(0, n_cases, n_folds + 1).astype(int)[fold + 1]) % n_cases


def supports_and_queries(n_cases: int, n_folds: int, fold: int, protocol: str,
                         supp_idx: int | str | Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return (support position, query positions) for each support volume.

    Args:
        n_cases, n_folds, fold: as in `fold_positions`.
        protocol: with "published" and "ep2" the support is the `supp_idx`-th case of the fold. With "corrected" it is the
            fold's extra case (Ouyang et al. 2020), so over the folds every case is a query exactly once.
        supp_idx: an index, several indices, or "all". "corrected" does not use it.
    Raises:
        InputError: the fold or a support index is out of range, or no query is left.
    """
    positions = fold_positions(n_cases, n_folds, fold)
    if len(positions) < 2:
        raise InputError(f"eval_fold: fold {fold} holds {len(positions)} case; a support and a query are needed")
    if protocol == "corrected":
        supports = [extra_position(n_cases, n_folds, fold)]
    else:
        indices = (range(len(positions)) if supp_idx == "all" else [supp_idx] if isinstance(supp_idx, int)
                   else cast(Sequence[int], supp_idx))
        for index in indices:
            if not 0 <= index < len(positions):
                raise InputError(f"supp_idx: got {index}, allowed for fold {fold}: 0 to {len(positions) - 1}, or 'all'")
        supports = [positions[index] for index in indices]
    return [(support, [position for position in positions if position != support]) for support in supports]


def supports_of_queries(pairs: Sequence[tuple[int, Sequence[int]]]) -> list[tuple[int, list[int]]]:
    """Turn (support, its queries) into (query, its supports), queries ascending. A query is the unit of an evaluation."""
    queries = sorted({query for _, of_support in pairs for query in of_support})
    return [(query, [support for support, of_support in pairs if query in of_support]) for query in queries]


@dataclass(frozen=True)
class Part:
    """One support slice, and the query slices that it segments."""

    support_slice: int
    query_slices: tuple[int, ...]


def support_slices(slices: Sequence[int], n_part: int) -> list[int]:
    """Return n_part support slices from the K slices that hold the class, those at int(c·K) with c = (2k + 1)/(2·n_part).

    For n_part = 3, c is 1/6, 1/2 and 5/6. For n_part = 1, c is 1/2. Roy et al. (2020) define this protocol.
    """
    return [slices[int((2 * k + 1) / (2 * n_part) * len(slices))] for k in range(n_part)]


def query_chunks(slices: Sequence[int], n_part: int) -> list[tuple[int, ...]]:
    """Cut the K query slices into n_part consecutive chunks at int(linspace(0, K, n_part + 1))."""
    bounds = np.linspace(0, len(slices), n_part + 1).astype(int)
    return [tuple(slices[start:stop]) for start, stop in pairwise(bounds)]


def slices_with(label_map: np.ndarray, label: int) -> list[int]:
    """Return the slices of a (D, H, W) label map that hold a label, ascending."""
    return np.flatnonzero((label_map == label).any(axis=(1, 2))).tolist()


def parts(support_label_map: np.ndarray, query_label_map: np.ndarray, label: int, n_part: int,
          every_slice: bool = False) -> list[Part]:
    """Return the protocol's parts for one class. There are none if the support or the query lacks the class.

    Args:
        support_label_map, query_label_map: (D, H, W); D may differ.
        label: value of the class.
        n_part: number of parts.
        every_slice: segment all query slices (ADNet's EP2), not only those that hold the class.
    """
    support, query = slices_with(support_label_map, label), slices_with(query_label_map, label)
    if not support or not query:
        return []
    if every_slice:
        query = list(range(len(query_label_map)))
    return [Part(*pair) for pair in zip(support_slices(support, n_part), query_chunks(query, n_part), strict=True)]
