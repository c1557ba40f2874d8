"""Prepare the images and labels of a download, cases in parallel, with their classmaps and a record."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from data.preparation.raw import RawCase
from data.preparation.recipes import Finder, Recipe
from dataloaders.datasets import DatasetSpec, find_cases
from dataloaders.itk import last_line
from dataloaders.nifti import save
from dataloaders.volumes import read_label
from util.base.errors import InputError
from util.base.files import write_text
from util.base.guard import claim, expect_apart
from util.base.inputs import read_json

CLASSMAP_MIN_PX = (1, 100)
RECORD_NAME = "preparation.json"


def prepare_dataset(recipe: Recipe, source: Path, target: Path, n_jobs: int, overwrite: bool = False) -> bool:
    """Prepare the images and labels of all cases below `source` into `target`, with their classmaps and record.

    A prepared case is skipped. A broken one is named on stderr and leaves no files. The others continue.

    Returns:
        whether every case is complete.
    Raises:
        InputError: as `find_raw_cases`; a file to be written belongs to the download, or it was not made by this program and
            `overwrite` is not set.
    """
    raw_cases, notes = find_raw_cases(source, recipe.find)
    if recipe.n_cases and len(raw_cases) != recipe.n_cases:
        notes = [*notes, f"{len(raw_cases)} cases found, where a whole {recipe.spec.name} has {recipe.n_cases}"]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    record = read_record(recipe.spec, target)
    expect_writable(recipe.spec, target, raw_cases, overwrite)
    counts: Counter[str] = Counter()
    job = partial(prepare_case, recipe, source, target, dict(record))
    with tqdm(total=len(raw_cases), unit="case", desc="images and labels") as bar:
        for raw, outcome in run_all(job, raw_cases, n_jobs):
            if isinstance(outcome, Exception):
                tqdm.write(f"error: case {raw.name}: {describe_error(outcome)}", file=sys.stderr)
                outcome = "broken"
            elif outcome == "prepared":
                record[raw.name] = origin(recipe, source, raw)
                write_json(record, record_path(recipe.spec, target))
            counts[outcome] += 1
            bar.update()
    if counts["broken"] < len(raw_cases):
        write_classmaps(recipe.spec, target)
    summary = ", ".join(f"{counts[what]} {what}" for what in ("prepared", "skipped", "broken"))
    print(f"{target}: {summary}", file=sys.stderr)
    return not counts["broken"]


def expect_writable(spec: DatasetSpec, target: Path, raw_cases: Sequence[RawCase], overwrite: bool) -> None:
    """Raise InputError if a file to be written may not be overwritten, as `util.base.guard.claim` explains."""
    raw_files = [path for raw in raw_cases for path in (raw.image, raw.label) if path is not None]
    record = record_path(spec, target)
    expect_apart([record], raw_files)       # its content is kept
    claim([*(path for raw in raw_cases if not is_prepared(spec, target, raw) for path in prepared_files(spec, target, raw)),
           *(classmap_path(spec, target, min_px) for min_px in CLASSMAP_MIN_PX)], raw_files, overwrite=overwrite)


def prepared_files(spec: DatasetSpec, target: Path, raw: RawCase) -> tuple[Path, Path]:
    """Return the paths of a case's image and label."""
    return target / spec.image.format(case=raw.name), target / spec.label.format(case=raw.name)


def is_prepared(spec: DatasetSpec, target: Path, raw: RawCase) -> bool:
    """Return whether a case's image is there, and its label if the download has one."""
    image, label = prepared_files(spec, target, raw)
    return image.exists() and (raw.label is None or label.exists())


def find_raw_cases(source: Path, find: Finder) -> tuple[list[RawCase], list[str]]:
    """Return a download's cases, and lines about what was left out.

    Raises:
        InputError: `source` is missing, holds no case, or holds two cases of one name.
    """
    if not source.is_dir():
        raise InputError(f"--source: no folder {source}; data/README.md says what it should hold")
    cases, left_out = find(source)
    if not cases:
        raise InputError(f"--source: no case below {source}; data/README.md says what it should hold")
    if twice := [name for name, count in Counter(case.name for case in cases).items() if count > 1]:
        raise InputError(f"--source: several folders below {source} are case {twice[0]}")
    return cases, left_out


def run_all(job: Callable[[RawCase], str], raw_cases: Sequence[RawCase],
            n_jobs: int) -> Iterator[tuple[RawCase, str | Exception]]:
    """Yield each case with the result or exception of `job`, in the order of finishing. One job runs in this process."""
    if n_jobs == 1:
        yield from ((raw, _attempt(partial(job, raw))) for raw in raw_cases)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_jobs, len(raw_cases)), context, _use_one_thread) as pool:
        futures = {pool.submit(job, raw): raw for raw in raw_cases}
        for future in as_completed(futures):
            yield futures[future], _attempt(future.result)


def _attempt(call: Callable[[], str]) -> str | Exception:
    try:
        return call()
    except Exception as error:    # the other cases continue
        return error


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def describe_error(error: Exception) -> str:
    """Return an error in one line, with its type unless it is an InputError."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {last_line(error)}"


def prepare_case(recipe: Recipe, source: Path, target: Path, record: dict, raw: RawCase) -> str:
    """Write a case's image and its label, if it has one. Return "prepared", or "skipped" if they exist.

    Raises:
        InputError: its raw files are broken, or it was prepared from other files or with other settings.
    """
    image, label = prepared_files(recipe.spec, target, raw)
    if not is_prepared(recipe.spec, target, raw):
        write_pair(recipe, raw, image, label)
        return "prepared"
    expected = origin(recipe, source, raw)
    if (found := record.get(raw.name, expected)) != expected:
        raise InputError(f"{image}: was prepared from {found}, now asked for {expected}; "
                         "delete it or choose another --target")
    return "skipped"


def write_pair(recipe: Recipe, raw: RawCase, image_path: Path, label_path: Path) -> None:
    """Read, convert and write a case's image and label. The image is written last, as it marks the case as prepared."""
    image, labels = recipe.read(raw)
    if labels is not None and raw.label is not None:
        expect_known_values(labels, raw.label, recipe.spec)
    image, labels = recipe.convert(image, labels)
    if sitk.GetArrayViewFromImage(image).dtype == np.float64:
        image = sitk.Cast(image, sitk.sitkFloat32)
    if labels is not None:
        save(labels, label_path)
    try:
        save(image, image_path)
    except Exception:
        label_path.unlink(missing_ok=True)
        raise


def expect_known_values(labels: sitk.Image, path: Path, spec: DatasetSpec) -> None:
    """Raise InputError if a raw label file holds a value that is unknown for the dataset."""
    allowed = {0, *(spec.file_values or spec.labels)}
    if unknown := set(np.unique(sitk.GetArrayViewFromImage(labels)).tolist()) - allowed:
        raise InputError(f"{path}: holds the value {min(unknown)}, allowed for {spec.name}: {sorted(allowed)}")


def write_classmaps(spec: DatasetSpec, target: Path) -> None:
    """Write classmap_<n>.json beside the images: {class: {case: [slices with at least n pixels of the class]}}.

    Cases without a label are left out.
    """
    areas_px: dict[str, dict[str, np.ndarray]] = {name: {} for name in spec.labels.values()}    # arrays (D,)
    for case in (case for case in find_cases(spec, target, n_sv=0) if case.label.exists()):
        label_map = read_label(case.label, spec)
        for value, name in spec.labels.items():
            areas_px[name][case.name] = (label_map == value).sum(axis=(1, 2))
    for min_px in CLASSMAP_MIN_PX:
        classmap = {name: {case: np.flatnonzero(areas >= min_px).tolist() for case, areas in per_case.items()}
                    for name, per_case in areas_px.items()}
        write_json(classmap, classmap_path(spec, target, min_px))


def origin(recipe: Recipe, source: Path, raw: RawCase) -> dict[str, str]:
    """Return the origin of a case, as kept in the record beside the images."""
    return {"image": str(raw.image.relative_to(source)),
            "label": "none" if raw.label is None else str(raw.label.relative_to(source)), "settings": recipe.settings}


def record_path(spec: DatasetSpec, target: Path) -> Path:
    """Return the path of the record beside the images."""
    return (target / spec.image).with_name(RECORD_NAME)


def classmap_path(spec: DatasetSpec, target: Path, min_px: int) -> Path:
    """Return the path of the classmap of slices with at least `min_px` pixels of a class."""
    return record_path(spec, target).with_name(f"classmap_{min_px}.json")


def read_record(spec: DatasetSpec, target: Path) -> dict[str, dict[str, str]]:
    """Return the record: `origin` by case. It is empty if there is none. Raises InputError if it is damaged."""
    path = record_path(spec, target)
    try:
        return read_json(path) if os.path.lexists(path) else {}
    except InputError as error:
        raise InputError(f"{error}; delete it and the images beside it, and run again") from None


def write_json(content: dict, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)
