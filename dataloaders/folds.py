"""Folds, and the field's evaluation protocol: which slice is segmented from which support slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from util.base.errors import InputError


def fold_positions(n_cases: int, n_folds: int, fold: int) -> list[int]:
    """Return the positions (in the sorted cases) of a test fold, ascending.

    Folds are consecutive blocks that each take in the first case of the next block, the last one position 0; so they
    overlap by one. With a single fold all cases are in it.

    Raises:
        InputError: `fold` is not one of 0 … n_folds − 1, or there are fewer cases than folds.
    """
    if not 0 <= fold < n_folds:
        raise InputError(f"eval_fold: got {fold}, allowed: 0 to {n_folds - 1}")
    if n_cases < n_folds:
        raise InputError(f"n_folds: got {n_folds}, but the data set has only {n_cases} cases")
    bounds = np.linspace(0, n_cases, n_folds + 1).astype(int)
    return sorted({position % n_cases for position in range(bounds[fold], bounds[fold + 1] + 1)})


def extra_position(n_cases: int, n_folds: int, fold: int) -> int:
    """Return the position of the case that a fold shares with the next one: the support of protocol "corrected"."""
    return int(np.linspace(0, n_cases, n_folds + 1).astype(int)[fold + 1]) % n_cases


def supports_and_queries(n_cases: int, n_folds: int, fold: int, protocol: str,
                         supp_idx: int | str | Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return (support position, query positions) for each support volume that is to be tried.

    Args:
        protocol: "published" or "ep2": the support is the `supp_idx`-th case of the fold (an index, several, or "all").
            "corrected": the support is the fold's extra case (Ouyang et al. 2020) and `supp_idx` is not used, so every
            case is a query exactly once over the folds.
    Raises:
        InputError: the fold or a support index is out of range, or no query is left.
    """
    positions = fold_positions(n_cases, n_folds, fold)
    if len(positions) < 2:
        raise InputError(f"eval_fold: fold {fold} holds {len(positions)} case; a support and a query are needed")
    if protocol == "corrected":
        supports = [extra_position(n_cases, n_folds, fold)]
    else:
        indices = range(len(positions)) if supp_idx == "all" else [supp_idx] if isinstance(supp_idx, int) else supp_idx
        for index in indices:
            if not 0 <= index < len(positions):
                raise InputError(f"supp_idx: got {index}, allowed for fold {fold}: 0 to {len(positions) - 1}, or 'all'")
        supports = [positions[index] for index in indices]
    return [(support, [position for position in positions if position != support]) for support in supports]


def supports_of_queries(pairs: Sequence[tuple[int, Sequence[int]]]) -> list[tuple[int, list[int]]]:
    """Return (query, its supports), queries ascending, from (support, its queries): a query is the unit of an evaluation."""
    queries = sorted({query for _, of_support in pairs for query in of_support})
    return [(query, [support for support, of_support in pairs if query in of_support]) for query in queries]


@dataclass(frozen=True)
class Part:
    """Query slices that are segmented from one support slice."""

    support_slice: int
    query_slices: tuple[int, ...]


def support_slices(slices: Sequence[int], n_part: int) -> list[int]:
    """Return the n_part support slices among the slices that hold the class: those at int(c·K), c = (2k + 1)/(2·n_part).

    For n_part = 3, c = 1/6, 1/2, 5/6; for 1, c = 1/2.
    """
    return [slices[int((2 * k + 1) / (2 * n_part) * len(slices))] for k in range(n_part)]


def query_chunks(slices: Sequence[int], n_part: int) -> list[tuple[int, ...]]:
    """Cut the query's slices that hold the class into n_part consecutive chunks at int(linspace(0, K, n_part + 1))."""
    bounds = np.linspace(0, len(slices), n_part + 1).astype(int)
    return [tuple(slices[start:stop]) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def slices_with(label_map: np.ndarray, label: int) -> list[int]:
    """Return the slices of a (D, H, W) label map that hold a label, ascending."""
    return np.flatnonzero((label_map == label).any(axis=(1, 2))).tolist()


def parts(support_label_map: np.ndarray, query_label_map: np.ndarray, label: int, n_part: int,
          every_slice: bool = False) -> list[Part]:
    """Return the protocol's parts for one class; empty when the support or the query lacks it.

    Of the query, the slices that hold the class are segmented, or with `every_slice` (ADNet's EP2) all of them.
    """
    support, query = slices_with(support_label_map, label), slices_with(query_label_map, label)
    if not support or not query:
        return []
    if every_slice:
        query = range(len(query_label_map))
    return [Part(*pair) for pair in zip(support_slices(support, n_part), query_chunks(query, n_part), strict=True)]
