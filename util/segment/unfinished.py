"""Keeps the results of finished queries until the evaluation is complete, so that it can be continued."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from dataloaders.folds import Part
from dataloaders.volumes import Volume
from util.base.files import replacing
from util.segment.predictions import Prediction, QueryResult, WholePrediction
from util.segment.task import Task

FOLDER = "unfinished"     # in the run folder; removed once the evaluation is complete
P = TypeVar("P", Prediction, WholePrediction)


class Unfinished:
    """A cache of results in a folder. Its key is the task: the names of query and supports, and the labels.

    The owner of the folder must empty it when anything else changes that results depend on.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, task: Task) -> QueryResult | None:
        """Return the result of a task, or None if there is none. A damaged file gives a warning and None."""
        path = self._path(task)
        try:
            with gzip.open(path) as file:
                content = torch.load(io.BytesIO(file.read()), weights_only=True)
            if content["task"] != _key(task):
                return None
            volumes = {volume.name: volume for volume in (task.query, *task.supports)}
            return QueryResult(task.query, [_unpack(Prediction, packed, volumes) for packed in content["by_protocol"]],
                               [_unpack(WholePrediction, packed, volumes) for packed in content["whole"]],
                               {support: image.numpy() for support, image in content["warped"].items()})
        except FileNotFoundError:
            return None
        except Exception as error:      # gzip, zipfile, torch and pickle each raise their own
            print(f"warning: {path}: damaged ({type(error).__name__}); this query is evaluated again")
            return None

    def write(self, task: Task, result: QueryResult) -> None:
        """Write the result of a task. `read` returns the same values.

        Raises:
            OSError: the file cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({"task": _key(task), "by_protocol": [_pack(p) for p in result.by_protocol],
                    "whole": [_pack(p) for p in result.whole],
                    "warped": {support: torch.from_numpy(image) for support, image in result.warped.items()}}, buffer)
        with replacing(self._path(task), listed=False) as partial, gzip.open(partial, "wb", compresslevel=1) as file:
            file.write(buffer.getbuffer())

    def _path(self, task: Task) -> Path:
        return self.folder / f"{task.query.name}.gz"


def _key(task: Task) -> dict[str, Any]:
    return {"query": task.query.name, "supports": [support.name for support in task.supports], "labels": list(task.labels),
            "stones": [stone.name for stone in task.stones]}


def _pack(prediction: P) -> dict[str, Any]:
    """Turn a prediction into types that `torch.load(weights_only=True)` reads. Volumes become their names."""
    values: dict[str, Any] = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    values |= {"support": prediction.support.name, "query": prediction.query.name}
    if isinstance(prediction, Prediction):
        values["parts"] = [(part.support_slice, part.query_slices) for part in prediction.parts]
    return {name: torch.from_numpy(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value
            for name, value in values.items()}


def _unpack(kind: type[P], packed: Mapping[str, Any], volumes: Mapping[str, Volume]) -> P:
    """Return the prediction that `_pack` packed."""
    values: dict[str, Any] = {name: value.numpy()[()] if isinstance(value, torch.Tensor) else value
                              for name, value in packed.items()}
    values |= {role: volumes[values[role]] for role in ("support", "query")}
    if "parts" in values:
        values["parts"] = tuple(Part(support_slice, tuple(query_slices)) for support_slice, query_slices in values["parts"])
    return kind(**values)
