"""Outlines scans of one's own: `python test.py predict`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataloaders.datasets import DatasetSpec
from models.inference import for_inference
from util.base.checksums import code_sha256, content_sha256, digest
from util.base.errors import InputError
from util.base.progress import progress
from util.predict.scans import (
    ENDINGS,
    Scan,
    find_scans,
    label_names,
    label_values,
    orientation_of,
    pair_paths,
    read_scan,
    read_support,
    scan_name,
    to_scan,
    write_on_scan,
)
from util.results.scores import file_name, write_rows
from util.segment.uncertainty import AUGMENTATIONS, Agreement
from util.segment.whole_volume import (
    EncodedVolume,
    WholeVolumeOptions,
    encode_volume,
    largest_components,
    segment_whole,
    smooth_along_z,
)
from util.segment.whole_volume import to_label_map as join_classes

TRAINED_WITH = ("dataset", "datasets", "encoder", "alpha", "model", "paths", "coordinates", "threshold", "prototype_windows")
CASE_COLUMNS = ("query", "label", "label_name", "volume_ml", "slices", "agreement", "margin", "made_from")


def as_trained(config: Mapping[str, Any], trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config with the model and the dataset of a snapshot's own config; None: a file of weights alone.

    A dataset entry of the snapshot that lacks something, as one written by an earlier version, is taken from the config.
    """
    known = {key: trained[key] for key in TRAINED_WITH if key in config and key in (trained or {})}
    merged = {**config, **known}
    if "datasets" in known:
        merged["datasets"] = {name: {**config["datasets"].get(name, {}), **entry} for name, entry in known["datasets"].items()}
    return merged


def output_path(query: Path, output: Path, n_queries: int) -> Path:
    """Return the label map's path: `output` itself where it is a NIfTI name (for one query), else a file in that folder.

    Raises:
        InputError: one file name for several queries.
    """
    if output.name.endswith(ENDINGS):
        if n_queries > 1:
            raise InputError(f"output: got the file {output} for {n_queries} queries, allowed: a folder")
        return output
    return output / f"{scan_name(query)}.nii.gz"


@dataclass(frozen=True)
class Predictor:
    """A model with its support volumes, ready for queries.

    Attributes:
        supports: encoded, with their label maps on the grid.
        names: what every label value is called.
        augment: segment altered copies of each query too.
    """

    model: nn.Module
    spec: DatasetSpec
    device: torch.device
    options: WholeVolumeOptions
    supports: Sequence[EncodedVolume]
    orientation: str
    names: Mapping[int, str]
    augment: bool

    @classmethod
    def from_config(cls, model: nn.Module, spec: DatasetSpec, device: torch.device, config: Mapping[str, Any]) -> Predictor:
        """Read and encode the supports; an InputError names what is wrong with an option or a file."""
        if spec.grid is None:
            raise InputError(f"datasets.{spec.name}.grid: got null; predict needs to know what grid the model was trained on")
        options = WholeVolumeOptions.from_config(config)
        read = [read_support(*pair, spec.grid) for pair in pair_paths(config["support_image"], config["support_label"])]
        model = for_inference(model.to(device))
        with progress(total=sum(len(label_map) for _, label_map in read), desc="supports", unit="slice") as bar:
            supports = [encode_volume(model, scan.image, label_map, device=device, batch_size=options.batch_size, bar=bar)
                        for scan, label_map in read]
        values = label_values([label_map for _, label_map in read])
        return cls(model, spec, device, options, supports, orientation_of(read[0][0].on_grid),
                   label_names(values, spec.labels, spec.file_values), config["augment"])

    def read(self, path: Path) -> Scan:
        return read_scan(path, self.spec.grid, self.orientation)

    def probabilities(self, scan: Scan) -> tuple[dict[int, np.ndarray], Agreement]:
        """Return each label's (D, H, W) probability on the model's grid, and how far its members agree.

        Members are the supports, each with the query as it is and, with `augment`, with altered copies of it. A label's
        probability is the mean over the members whose support holds it.
        """
        image, agreement = scan.image, Agreement()
        for augmentation in AUGMENTATIONS if self.augment else AUGMENTATIONS[:1]:
            query = encode_volume(self.model, augmentation.apply(image), device=self.device, batch_size=self.options.batch_size)
            for support in self.supports:
                raw = segment_whole(self.model, query, support, list(self.names), self.options, self.spec.grid.spacing_mm[0])
                agreement.add({label: smooth_along_z(augmentation.undo(probs), self.options.smooth_z)
                               for label, probs in raw.items()})
        return agreement.mean_probabilities(), agreement


def predict_all(predictor: Predictor, config: Mapping[str, Any]) -> list[str]:
    """Predict every query of the config; return a line for each that failed, after the others are done.

    Raises:
        InputError: there is no query, or `output` does not fit.
    """
    if not config["query"] or not config["output"]:
        raise InputError("query, output: got null, allowed: the path of a scan or a folder of scans, and one to write to")
    queries = find_scans(Path(config["query"]))
    targets = [output_path(query, Path(config["output"]), len(queries)) for query in queries]
    if twice := [target for target, count in Counter(targets).items() if count > 1]:
        names = ", ".join(query.name for query, target in zip(queries, targets, strict=True) if target == twice[0])
        raise InputError(f"query: {names} would all be written to {twice[0]}; allowed: names that differ before the ending")
    table = Path(targets[0].parent / "cases.csv")
    rows = _earlier_rows(table) if config["resume"] != "never" else {}
    settings, failures, n_kept = _settings(config), [], 0
    with progress(list(zip(queries, targets, strict=True)), desc="queries", unit="scan") as bar:
        for query, target in bar:
            name = scan_name(query)
            bar.set_postfix_str(name)
            try:
                made_from = digest([settings, content_sha256(query)])
                if target.exists() and name in rows and all(row["made_from"] == made_from for row in rows[name]):
                    n_kept += 1
                    continue
                rows.pop(name, None)
                rows[name] = [{**row, "made_from": made_from} for row in predict_one(
                    predictor, query, target, config["save_probs"], config["largest_component"])]
                write_rows([row for same_query in rows.values() for row in same_query], CASE_COLUMNS, table)
            except (InputError, OSError, RuntimeError, MemoryError) as error:   # RuntimeError: what torch and ITK raise
                failures.append(f"query {query.name}: {' '.join(str(error).split())}")
    if n_kept:
        print(f"{n_kept} of {len(queries)} queries were there already, made of the same; resume=never makes them anew")
    return failures


def join_on_scan(probs: Mapping[int, np.ndarray], scan: Scan, largest_component: bool) -> np.ndarray:
    """Return the label map of each label's (D, H, W) probability on the model's grid, on the scan's own voxels."""
    on_scan = ((label, to_scan(class_probs, scan)) for label, class_probs in probs.items())
    label_map = join_classes(on_scan, scan.original.GetSize()[::-1])
    return largest_components(label_map) if largest_component else label_map


def _settings(config: Mapping[str, Any]) -> str:
    """Return a check sum of all that predictions are made of but the query: options, weights, supports, code."""
    files = ("reload_model_path", "support_image", "support_label")
    elsewhere = {"query", "output", "run", "resume", "device", "path", *files}
    paths = [path for key in files for path in (config[key] if isinstance(config[key], list) else [config[key]])]
    return digest([{key: value for key, value in config.items() if key not in elsewhere}, code_sha256(),
                   *(content_sha256(Path(path)) for path in paths)])


def _earlier_rows(table: Path) -> dict[str, list[dict]]:
    """Return the rows of an earlier cases.csv by query; none where it is missing, damaged or has other columns."""
    rows: dict[str, list[dict]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader if tuple(reader.fieldnames or ()) == CASE_COLUMNS else ():
                rows.setdefault(row["query"], []).append(row)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        print(f"warning: {table}: damaged ({error}); all queries are segmented again")
        return {}
    return rows


def predict_one(predictor: Predictor, query: Path, target: Path, save_probs: bool, largest_component: bool) -> list[dict]:
    """Write a query's label map, on its own grid, with what else was asked for; return its rows of cases.csv."""
    scan = predictor.read(query)
    probs, agreement = predictor.probabilities(scan)
    label_map = join_on_scan(probs, scan, largest_component)
    stem = str(target).removesuffix(".gz").removesuffix(".nii")
    if save_probs:
        for label, class_probs in probs.items():
            path = Path(f"{stem}_{file_name(predictor.names[label])}_prob.nii.gz")
            write_on_scan(to_scan(class_probs, scan).round(3), scan, path)
        write_on_scan(to_scan(agreement.disagreement(), scan).round(3), scan, Path(f"{stem}_uncertainty.nii.gz"))
    write_on_scan(label_map.astype(np.uint8 if max(predictor.names) < 256 else np.int16), scan, target)
    voxel_ml = float(np.prod(scan.original.GetSpacing())) / 1000
    return [{"query": scan.name, "label": label, "label_name": name, "volume_ml": round((label_map == label).sum() * voxel_ml, 2),
             "slices": int((label_map == label).any(axis=(1, 2)).sum()), **agreement.numbers(label, probs.get(label))}
            for label, name in predictor.names.items()]
