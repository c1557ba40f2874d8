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
from util.base.checksums import code_sha256, content_sha256, digest, sha256
from util.base.errors import InputError
from util.base.guard import claim, expect_apart
from util.base.progress import progress
from util.options.table import Role, with_role
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

TRAINED_WITH = with_role(Role.TRAINED_WITH)
GIVEN = ("reload_model_path", "support_image", "support_label")      # the files that every prediction is made of
Supports = Sequence[tuple[Scan, np.ndarray]]      # outlined scans, with their label maps (D, H, W) on the model's grid
CASE_COLUMNS = ("query", "label", "label_name", "volume_ml", "slices", "agreement", "margin", "made_from", "sha256")


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


def read_supports(spec: DatasetSpec, config: Mapping[str, Any]) -> Supports:
    """Read the supports of a config; an InputError names what is wrong with an option or a file."""
    if spec.grid is None:
        raise InputError(f"datasets.{spec.name}.grid: got null; predict needs to know what grid the model was trained on")
    return [read_support(*pair, spec.grid) for pair in pair_paths(config["support_image"], config["support_label"])]


def names_in(supports: Supports, spec: DatasetSpec) -> dict[int, str]:
    """Return what every label value of the supports is called."""
    return label_names(label_values([label_map for _, label_map in supports]), spec.labels, spec.file_values)


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
    def from_config(cls, model: nn.Module, spec: DatasetSpec, device: torch.device, config: Mapping[str, Any],
                    read: Supports | None = None) -> Predictor:
        """Encode the supports that `read_supports` returned; without them read them first, with its errors."""
        read = read or read_supports(spec, config)
        options = WholeVolumeOptions.from_config(config)
        model = for_inference(model.to(device))
        with progress(total=sum(len(label_map) for _, label_map in read), desc="supports", unit="slice") as bar:
            supports = [encode_volume(model, scan.image, label_map, device=device, batch_size=options.batch_size, bar=bar)
                        for scan, label_map in read]
        return cls(model, spec, device, options, supports, orientation_of(read[0][0].on_grid), names_in(read, spec),
                   config["augment"])

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


@dataclass(frozen=True)
class Plan:
    """What predict is going to do.

    Attributes:
        waiting: (query, path of its label map) that are to be made.
        n_kept: how many were there already, made of the same.
        table: path of cases.csv.
        rows: its rows so far, by query.
        settings: check sum of all that predictions are made of but the query.
    """

    waiting: Sequence[tuple[Path, Path]]
    n_kept: int
    table: Path
    rows: Mapping[str, list[dict]]
    settings: str


def plan_queries(config: Mapping[str, Any], names: Mapping[int, str]) -> Plan:
    """Find the queries of the config and what is to be written for them, and check all of it before any work.

    Args:
        config: as trained.
        names: of the labels, as `names_in` the supports.
    Raises:
        InputError: there is no query, `output` does not fit, or a file may not be written: see `util.base.guard.claim`.
    """
    if not config["query"] or not config["output"]:
        raise InputError("query, output: got null, allowed: the path of a scan or a folder of scans, and one to write to")
    output = Path(config["output"])
    queries = find_scans(Path(config["query"]), output)
    jobs = [(query, output_path(query, output, len(queries))) for query in queries]
    if twice := [target for target, count in Counter(target for _, target in jobs).items() if count > 1]:
        same = ", ".join(query.name for query, target in jobs if target == twice[0])
        raise InputError(f"query: {same} would all be written to {twice[0]}; allowed: names that differ before the ending")
    table = jobs[0][1].parent / "cases.csv"
    rows, settings = _earlier_rows(table), _settings(config)
    waiting = [(query, target) for query, target in jobs
               if config["resume"] == "never" or not _is_done(query, target, rows, settings)]
    files = {target: _files(target, names, config["save_probs"]) for _, target in jobs}
    _expect_apart_from_maps(jobs, files)
    inputs = [*_given(config), *queries]
    expect_apart([table, *(file for same_query in files.values() for file in same_query)], inputs)
    claim([*([table] if waiting else []), *(file for _, target in waiting for file in files[target])], inputs,
          overwrite=config["overwrite"], remedy="overwrite=true")
    return Plan(waiting, len(jobs) - len(waiting), table, rows, settings)


def _expect_apart_from_maps(jobs: Sequence[tuple[Path, Path]], files: Mapping[Path, Sequence[Path]]) -> None:
    """Raise InputError when the probabilities of one query have the name of another's label map."""
    query_of = {target: query for query, target in jobs}
    for target, same_query in files.items():
        if clash := [file for file in same_query if file != target and file in files]:
            raise InputError(f"query: {query_of[target].name} and {query_of[clash[0]].name} would both be written to {clash[0]}; "
                             "allowed: other names, or save_probs=false")


def _is_done(query: Path, target: Path, rows: Mapping[str, list[dict]], settings: str) -> bool:
    """Whether the label map is there as cases.csv lists it, and made of the same."""
    same_query = rows.get(scan_name(query), [])
    if not same_query or not target.is_file():
        return False
    try:
        expected = {"made_from": _made_from(settings, query), "sha256": sha256(target)}
    except OSError:      # said when the query is read
        return False
    return all(expected.items() <= row.items() for row in same_query)


def _made_from(settings: str, query: Path) -> str:
    return digest([settings, content_sha256(query)])


def predict_all(predictor: Predictor, plan: Plan, config: Mapping[str, Any]) -> list[str]:
    """Predict every query that is waiting; return a line for each that failed, after the others are done."""
    rows, failures = dict(plan.rows), []
    with progress(plan.waiting, desc="queries", unit="scan") as bar:
        for query, target in bar:
            name = scan_name(query)
            bar.set_postfix_str(name)
            try:
                made_from = _made_from(plan.settings, query)
                made = predict_one(predictor, query, target, config["save_probs"], config["largest_component"])
                rows[name] = [{**row, "made_from": made_from, "sha256": sha256(target)} for row in made]
                write_rows([row for same_query in rows.values() for row in same_query], CASE_COLUMNS, plan.table)
            except (InputError, OSError, RuntimeError, MemoryError) as error:   # RuntimeError: what torch and ITK raise
                failures.append(f"query {query.name}: {' '.join(str(error).split())}")
    if plan.n_kept:
        print(f"{plan.n_kept} of {plan.n_kept + len(plan.waiting)} queries were there already, made of the same; "
              "resume=never makes them anew")
    return failures


def join_on_scan(probs: Mapping[int, np.ndarray], scan: Scan, largest_component: bool) -> np.ndarray:
    """Return the label map of each label's (D, H, W) probability on the model's grid, on the scan's own voxels."""
    on_scan = ((label, to_scan(class_probs, scan)) for label, class_probs in probs.items())
    label_map = join_classes(on_scan, scan.original.GetSize()[::-1])
    return largest_components(label_map) if largest_component else label_map


def _settings(config: Mapping[str, Any]) -> str:
    """Return a check sum of all that predictions are made of but the query: options, weights, supports, code."""
    return digest([{key: value for key, value in config.items() if key not in with_role(Role.ELSEWHERE)}, code_sha256(),
                   *map(content_sha256, _given(config))])


def _given(config: Mapping[str, Any]) -> list[Path]:
    """Return the files that predictions are made of but the query."""
    return [Path(path) for key in GIVEN for path in (config[key] if isinstance(config[key], list) else [config[key]])]


def _earlier_rows(table: Path) -> dict[str, list[dict]]:
    """Return the rows of an earlier cases.csv by query; none where it is missing, damaged or has other columns.

    Tables of earlier versions lack the check sums; so do these rows, and their queries are not taken for done.
    """
    rows: dict[str, list[dict]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader if tuple(reader.fieldnames or ()) in (CASE_COLUMNS, CASE_COLUMNS[:-1]) else ():
                rows.setdefault(row["query"], []).append(row)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        print(f"warning: {table}: damaged ({error}); all queries are segmented again")
        return {}
    return rows


def _beside(target: Path, what: str) -> Path:
    """Return the path of a map beside a label map, such as image_2_uncertainty.nii.gz beside image_2.nii.gz."""
    return target.with_name(f"{scan_name(target)}_{what}.nii.gz")


def _files(target: Path, names: Mapping[int, str], save_probs: bool) -> list[Path]:
    """Return all that `predict_one` writes."""
    maps = [*(f"{file_name(name)}_prob" for name in names.values()), "uncertainty"] if save_probs else []
    return [target, *(_beside(target, what) for what in maps)]


def predict_one(predictor: Predictor, query: Path, target: Path, save_probs: bool, largest_component: bool) -> list[dict]:
    """Write a query's label map, on its own grid, with what else was asked for; return its rows of cases.csv."""
    scan = predictor.read(query)
    probs, agreement = predictor.probabilities(scan)
    label_map = join_on_scan(probs, scan, largest_component)
    if save_probs:
        for label, class_probs in probs.items():
            write_on_scan(to_scan(class_probs, scan).round(3), scan, _beside(target, f"{file_name(predictor.names[label])}_prob"))
        write_on_scan(to_scan(agreement.disagreement(), scan).round(3), scan, _beside(target, "uncertainty"))
    write_on_scan(label_map.astype(np.uint8 if max(predictor.names) < 256 else np.int16), scan, target)
    voxel_ml = float(np.prod(scan.original.GetSpacing())) / 1000
    return [{"query": scan.name, "label": label, "label_name": name, "volume_ml": round((label_map == label).sum() * voxel_ml, 2),
             "slices": int((label_map == label).any(axis=(1, 2)).sum()), **agreement.numbers(label, probs.get(label))}
            for label, name in predictor.names.items()]
