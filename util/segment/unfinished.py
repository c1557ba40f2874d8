"""An evaluation's finished query volumes, kept until all are, so that it can go on after an interruption."""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dataloaders.folds import Part
from dataloaders.volumes import LabelledVolume
from util.base.files import replacing
from util.segment.protocol import Prediction
from util.segment.whole_volume import WholePrediction

FOLDER = "unfinished"     # in the run folder; removed when the evaluation is complete
Pairs = Sequence[tuple[LabelledVolume, Sequence[LabelledVolume]]]
P = TypeVar("P", Prediction, WholePrediction)


def continued(kind: type[P], evaluate: Callable[[Pairs], Iterator[P]], pairs: Pairs, folder: Path) -> Iterator[P]:
    """Yield what `evaluate(pairs)` yields, with the queries first that `folder` has from before.

    A query's predictions are kept there, exactly, once the caller has asked for what comes after them.

    Args:
        kind: class of the predictions.
        evaluate: yields one query after the other.
        pairs: (support, queries).
    """
    volumes = {volume.case.name: volume for support, queries in pairs for volume in (support, *queries)}
    names = dict.fromkeys(query.case.name for _, queries in pairs for query in queries)      # in the order of evaluation
    done = []
    for name in names:
        if (predictions := _read(kind, folder / f"{name}.gz", volumes)) is not None:
            yield from predictions
            done.append(name)
    left = [(support, [query for query in queries if query.case.name not in done]) for support, queries in pairs]
    if not (left := [(support, queries) for support, queries in left if queries]):
        return
    for name, same_query in itertools.groupby(evaluate(left), key=lambda prediction: prediction.query.case.name):
        predictions = list(same_query)
        yield from predictions
        _write([_pack(prediction) for prediction in predictions], folder / f"{name}.gz")


def _pack(prediction: P) -> dict[str, Any]:
    """Turn a prediction into what `weights_only` loading allows, its volumes into their names."""
    values = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    values |= {"support": prediction.support.case.name, "query": prediction.query.case.name}
    if "parts" in values:
        values["parts"] = [(part.support_slice, part.query_slices) for part in prediction.parts]
    return {name: torch.from_numpy(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value
            for name, value in values.items()}


def _unpack(kind: type[P], packed: Mapping[str, Any], volumes: Mapping[str, LabelledVolume]) -> P:
    values = {name: value.numpy()[()] if isinstance(value, torch.Tensor) else value for name, value in packed.items()}
    values |= {role: volumes[values[role]] for role in ("support", "query")}
    if "parts" in values:
        values["parts"] = tuple(Part(support_slice, tuple(query_slices)) for support_slice, query_slices in values["parts"])
    return kind(**values)


def _write(content: list[dict[str, Any]], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path, listed=False) as partial, gzip.open(partial, "wb", compresslevel=1) as file:
        file.write(buffer.getbuffer())


def _read(kind: type[P], path: Path, volumes: Mapping[str, LabelledVolume]) -> list[P] | None:
    """Return a query's predictions; None where there are none yet, and with a warning where the file was damaged."""
    try:
        with gzip.open(path) as file:
            content = torch.load(io.BytesIO(file.read()), weights_only=True)
        return [_unpack(kind, packed, volumes) for packed in content]
    except FileNotFoundError:
        return None
    except Exception as error:      # gzip, zipfile, torch and pickle each have their own
        print(f"warning: {path}: damaged ({type(error).__name__}); this query is evaluated again")
        return None
