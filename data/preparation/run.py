"""Prepare the images and labels of a download, with their classmaps and a record; processes share out the cases."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from qnet.data.preparation.raw import RawCase
from qnet.data.preparation.recipes import Finder, Recipe
from qnet.dataloaders.datasets import DatasetSpec, find_cases
from qnet.dataloaders.itk import last_line
from qnet.dataloaders.nifti import save
from qnet.dataloaders.volumes import read_label
from qnet.util.base.distributed import is_main, join, main_does, of_main, share
from qnet.util.base.errors import InputError
from qnet.util.base.files import STALE_S, remove_partial_files, write_text
from qnet.util.base.guard import claim, expect_apart
from qnet.util.base.inputs import read_json
from qnet.util.base.kept import Kept
from qnet.util.base.locks import alone
from qnet.util.base.pool import processes
from qnet.util.base.progress import progress

CLASSMAP_MIN_PX = (1, 100)
RECORD_NAME = "preparation.json"
KEPT_AREAS = ".areas.jsonl"      # beside the images: each label's areas, so that the classmaps are soon written again
FEW = 20                         # label files are read before more processes have started
T = TypeVar("T")


def prepare_dataset(recipe: Recipe, source: Path, target: Path, n_jobs: int, overwrite: bool = False) -> bool:
    """Prepare the images and labels of all cases below `source` into `target`, with their classmaps and record.

    A prepared case is skipped. A broken one is named on stderr and leaves no files. The others continue. Each of several
    processes prepares its share of the cases. Every process must call this.

    Returns:
        whether every case is complete.
    Raises:
        InputError: as `find_raw_cases`; a file to be written belongs to the download, or it was not made by this program and
            `overwrite` is not set.
        SystemExit: as `qnet.util.base.distributed.main_does`.
    """
    raw_cases, states, problems = main_does(partial(plan, recipe, source, target, overwrite))
    for line in problems if is_main() else ():
        print(f"error: {line}", file=sys.stderr)
    waiting = share([raw for raw, state in zip(raw_cases, states, strict=True) if state == "waiting"])
    counts: Counter[str] = Counter()
    with progress(total=len(waiting), unit="case", desc="images and labels", disable=not waiting) as bar:
        for raw, outcome in run_all(partial(prepare_case, recipe, source, target), waiting, n_jobs):
            if isinstance(outcome, Exception):
                tqdm.write(f"error: case {raw.name}: {describe_error(outcome)}", file=sys.stderr)
            counts["broken" if isinstance(outcome, Exception) else "prepared"] += 1
            bar.update()
    counts = of_main(sum(join([counts]), Counter(state for state in states if state != "waiting")))
    if counts["broken"] < len(raw_cases):
        write_classmaps(recipe.spec, target, n_jobs)
    if is_main():
        summary = ", ".join(f"{counts[what]} {what}" for what in ("prepared", "skipped", "broken"))
        print(f"{target}: {summary}", file=sys.stderr)
    return not counts["broken"]


def plan(recipe: Recipe, source: Path, target: Path, overwrite: bool) -> tuple[list[RawCase], list[str], list[str]]:
    """Return the cases of a download, the state of each, and a line about each that is broken already.

    States are "waiting"; "skipped" for a case that is prepared; "broken" for one that was prepared from other files or with other
    settings.

    Raises:
        InputError: as `prepare_dataset`.
    """
    raw_cases, notes = find_raw_cases(source, recipe.find)
    if recipe.n_cases and len(raw_cases) != recipe.n_cases:
        notes = [*notes, f"{len(raw_cases)} cases found, where a whole {recipe.spec.name} has {recipe.n_cases}"]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    record = read_record(record_path(recipe.spec, target))
    expect_writable(recipe.spec, target, raw_cases, overwrite)
    remove_partial_files(record_path(recipe.spec, target).parent, STALE_S)
    states, problems = [], []
    for raw in raw_cases:
        expected = origin(recipe, source, raw)
        if not is_prepared(recipe.spec, target, raw):
            states.append("waiting")
        elif (found := record.get(raw.name, expected)) == expected:
            states.append("skipped")
        else:
            states.append("broken")
            image, _ = prepared_files(recipe.spec, target, raw)
            problems.append(f"case {raw.name}: {image}: was prepared from {found}, now asked for {expected}; "
                            "delete it or choose another --target")
    return raw_cases, states, problems


def add_to_record(case: str, entry: dict[str, str], path: Path) -> None:
    """Add a case's origin to the record, to which other processes may be adding theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        write_json({**read_record(path), case: entry}, path)


def expect_writable(spec: DatasetSpec, target: Path, raw_cases: Sequence[RawCase], overwrite: bool) -> None:
    """Raise InputError if a file to be written may not be overwritten, as `qnet.util.base.guard.claim` explains."""
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
        raise InputError(f"--source: no folder {source}; data/README.md of the repository says what it should hold")
    cases, left_out = find(source)
    if not cases:
        raise InputError(f"--source: no case below {source}; data/README.md of the repository says what it should hold")
    if twice := [name for name, count in Counter(case.name for case in cases).items() if count > 1]:
        raise InputError(f"--source: several folders below {source} are case {twice[0]}")
    return cases, left_out


def run_all(job: Callable[[T], object], items: Sequence[T], n_jobs: int) -> Iterator[tuple[T, object]]:
    """Yield each item with the result or exception of `job`, in the order of finishing. One job runs in this process."""
    if n_jobs == 1 or not items:
        yield from ((item, _attempt(partial(job, item))) for item in items)
        return
    with processes(min(n_jobs, len(items)), _use_one_thread) as pool:
        futures = {pool.submit(job, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], _attempt(future.result)


def _attempt(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:    # the other cases continue
        return error


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def describe_error(error: Exception) -> str:
    """Return an error in one line, with its type unless it is an InputError."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {last_line(error)}"


def prepare_case(recipe: Recipe, source: Path, target: Path, raw: RawCase) -> None:
    """Read, convert and write a case's image, and its label if it has one, with its entry in the record.

    The image comes last, as it marks the case as prepared.

    Raises:
        InputError: its raw files are broken.
    """
    image_path, label_path = prepared_files(recipe.spec, target, raw)
    image, labels = recipe.read(raw)
    if labels is not None and raw.label is not None:
        expect_known_values(labels, raw.label, recipe.spec)
    image, labels = recipe.convert(image, labels)
    if sitk.GetArrayViewFromImage(image).dtype == np.float64:
        image = sitk.Cast(image, sitk.sitkFloat32)
    if labels is not None:
        save(labels, label_path)
    add_to_record(raw.name, origin(recipe, source, raw), record_path(recipe.spec, target))
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


def write_classmaps(spec: DatasetSpec, target: Path, n_jobs: int) -> None:
    """Write classmap_<n>.json beside the images: {class: {case: [slices with at least n pixels of the class]}}.

    Cases without a label are left out. Labels that did not change since are not read again. Every process must call this.

    Raises:
        InputError: a label file cannot be read or holds an unknown value.
        SystemExit: as `qnet.util.base.distributed.main_does`.
    """
    areas = Kept(record_path(spec, target).with_name(KEPT_AREAS), partial(areas_px, spec),
                 settings=[list(map(list, values.items())) for values in (spec.labels, spec.file_values)])
    labels = main_does(lambda: {case.name: case.label for case in find_cases(spec, target, n_sv=0) if case.label.exists()})
    find_out(areas, list(labels.values()), n_jobs, "slices with each class")

    def write() -> None:
        of_case = {name: areas.of(label) for name, label in labels.items()}
        for min_px in CLASSMAP_MIN_PX:
            write_json({name: {case: np.flatnonzero(np.array(of_value[str(value)]) >= min_px).tolist()
                               for case, of_value in of_case.items()} for value, name in spec.labels.items()},
                       classmap_path(spec, target, min_px))

    main_does(write)


def areas_px(spec: DatasetSpec, label_file: Path) -> dict[str, list[int]]:
    """Return the pixels of each class in each slice of a label file, by label value."""
    label_map = read_label(label_file, spec)
    return {str(value): (label_map == value).sum(axis=(1, 2)).tolist() for value in spec.labels}


def find_out(kept: Kept, files: Sequence[Path], n_jobs: int, what: str) -> None:
    """Find out what is not known yet about some files; each of several processes does so for its share.

    Afterwards the main process knows all, but for files about which nothing can be found out. Every process must call this.

    Args:
        what: is found out; the title of the progress bar.
    """
    unknown = share(of_main([path for path in files if not (path.exists() and kept.knows(path))] if is_main() else None))
    few = len(unknown) <= FEW
    with progress(total=len(unknown), unit="case", desc=what, leave=False, disable=few) as bar:
        for _ in run_all(partial(_keep, kept), unknown, 1 if few else n_jobs):      # errors are raised where the fact is needed
            bar.update()
    of_main(None)
    kept.read()


def _keep(kept: Kept, path: Path) -> None:
    kept.of(path)
    kept.save()


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


def read_record(path: Path) -> dict[str, dict[str, str]]:
    """Return the record: `origin` by case. It is empty if there is none. Raises InputError if it is damaged."""
    try:
        return read_json(path) if os.path.lexists(path) else {}
    except InputError as error:
        raise InputError(f"{error}; delete it and the images beside it, and run again") from None


def write_json(content: dict, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)
