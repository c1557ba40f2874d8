"""Makes and reads task files."""

from __future__ import annotations

import contextlib
import gzip
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from qnet.dataloaders import nifti
from qnet.dataloaders.geometry import affine_of_image
from qnet.dataloaders.itk import check_image, labels_on
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.segments import Outlines, in_terms_of
from qnet.dataloaders.reading import read_image
from qnet.util.base.classes import ALIKE_RULE, alike, colours_of, default_name
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.taskfile.archive import MAX_MANIFEST_BYTES, read_archive, sha256_of, write_archive
from qnet.util.taskfile.manifest import (
    ALLOWED,
    MAX_LABELS,
    NAME,
    WEIGHTS,
    Label,
    Manifest,
    needs_weights,
    read_manifest,
    stored_options,
    support_files,
)
from qnet.util.training.as_trained import as_trained
from qnet.util.training.snapshots import read_snapshot
from qnet.util.training.weights import read_weights

ENDING = ".task"
KEPT_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")      # images of others are stored as float32
Pair = tuple[sitk.Image, sitk.Image]      # an outlined scan, and its labels on the same grid


class UnknownLabelError(InputError):
    """A label that has a name or a colour is in no label file."""


@dataclass(frozen=True)
class TaskFile:
    """An open task file.

    Attributes:
        manifest: what it says about itself.
        supports: its outlined scans.
        weights: the path of the network's weights while the file is open; None for a method without training.
    """

    manifest: Manifest
    supports: Sequence[Pair]
    weights: Path | None


def create(path: Path, supports: Sequence[tuple[Path, Path]], manifest: Manifest, weights: Path | None = None, *,
           overwrite: bool = False) -> None:
    """Write a task file. The same scans, names, options and weights give the same bytes.

    Args:
        supports: the path of each outlined scan and of its outlines (`stored_outlines`). Names of files and patients are not
            stored, only voxels and geometry. Classes of the same name get one value.
        manifest: its labels may lack some. Those have the names and colours of the files of outlines, or are called
            "label <value>". Its sums are found here.
        weights: a snapshot of a training, for a method that needs one. Only the network's weights of it are stored.
        overwrite: replace a file that this project did not write, or that was changed since.
    Raises:
        UnknownLabelError: a label of `manifest` is in no file.
        InputError: a file cannot be read or may not be written.
        OSError: the task file cannot be written.
    """
    if path.suffix != ENDING:
        raise InputError(f"{path}: allowed: a name that ends in {ENDING}")
    claim([path], [*(file for pair in supports for file in pair), *([weights] if weights else [])], overwrite=overwrite)
    files: dict[str, bytes] = {}
    pairs, of_files = _read_outlined(supports)
    for number, pair in enumerate(pairs, 1):
        files |= dict(zip(support_files(number), (to_nifti(pair[0]), to_nifti(pair[1])), strict=True))
    if weights is not None:
        files[WEIGHTS] = _only_weights(weights)
    whole = replace(manifest, labels=_all_labels(manifest, pairs, of_files), n_supports=len(pairs),
                    sha256={name: sha256_of(content) for name, content in files.items()})
    write_archive({NAME: whole.to_json(), **files}, path)


def options_for(method: Mapping[str, Any], snapshot: Path | None) -> dict[str, Any]:
    """Return the options that a task file stores.

    Args:
        method: all options, as of `configs/guided.json5`.
        snapshot: of a training, whose options come first. None: `method` needs no training.
    Raises:
        InputError: the snapshot cannot be read, or holds weights alone.
    """
    if snapshot is None:
        return {key: method[key] for key in stored_options(method["model"])}
    trained = read_snapshot(snapshot).config
    if trained is None:
        raise InputError(f"{snapshot}: holds weights alone, and not how they were trained; allowed: a snapshot of a training")
    used = as_trained(method, trained)
    used["datasets"] = {used["dataset"]: used["datasets"][used["dataset"]]}
    return {key: used[key] for key in stored_options(used["model"])}


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[TaskFile]:
    """Yield a task file, of which everything was checked. Its weights are in a temporary folder while it is open.

    Raises:
        InputError: it is missing, damaged, or not as `create` writes it. The message begins with `path`.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="task-") as folder:
        try:
            yield _unpacked(path, Path(folder))
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", f"{path}: ")) from None


def manifest_of(path: Path | str) -> Manifest:
    """Return what a task file says about itself. Names and check sums of its files are checked, but not what is in them.

    Raises:
        InputError: as `opened`.
    """
    return _checked(Path(path))[0]


def _checked(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    files = read_archive(path, ALLOWED)
    content = files.pop(NAME, None)
    if content is None or len(content) > MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: {NAME}: {'is missing' if content is None else f'has more than {MAX_MANIFEST_BYTES} bytes'}")
    manifest = read_manifest(content, f"{path}: {NAME}")
    if wrong := sorted({*files, *manifest.files, *manifest.sha256} - ({*files} & {*manifest.files} & {*manifest.sha256})):
        raise InputError(f"{path}: {wrong[0]!r} is missing, or too many; allowed with this {NAME}: {', '.join(manifest.files)}")
    for name, found in files.items():
        if sha256_of(found) != manifest.sha256[name]:
            raise InputError(f"{path}: {name}: does not have the check sum that {NAME} gives: the file was changed")
    return manifest, files


def _unpacked(path: Path, folder: Path) -> TaskFile:
    """Write the files of a task file into a folder, under names of our own, and read them."""
    manifest, files = _checked(path)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    supports, _ = _read_outlined([(folder / image, folder / labels) for image, labels in
                                  map(support_files, range(1, manifest.n_supports + 1))])
    if (values := _values(supports)) != set(manifest.labels):
        raise InputError(f"{path}: {NAME}: names the labels {sorted(manifest.labels)}, but its scans have {sorted(values)}")
    weights = folder / WEIGHTS if needs_weights(manifest.options["model"]) else None
    if weights is not None and not all(isinstance(value, torch.Tensor) for value in read_weights(weights).values()):
        raise InputError(f"{weights}: holds other than tensors")
    return TaskFile(manifest, supports, weights)


def _read_outlined(supports: Sequence[tuple[Path, Path]]) -> tuple[list[Pair], dict[int, Label]]:
    """Return scans with their labels, and what the files of outlines call these. What a file leaves out is empty.

    Raises:
        InputError: as `_read_pair`.
    """
    pairs, names, colours = list[Pair](), dict[int, str](), dict[int, str]()
    for image_path, label_path in supports:
        image, outlines = _read_pair(image_path, label_path)
        outlines = in_terms_of(names, outlines, label_path)
        pairs.append((image, outlines.labels))
        names, colours = {**outlines.names, **names}, {**outlines.colours, **colours}
    return pairs, {value: Label(names.get(value, ""), colours.get(value, "")) for value in {*names, *colours}}


def _read_pair(image_path: Path, label_path: Path) -> tuple[sitk.Image, Outlines]:
    """Return a scan and its outlines.

    Raises:
        InputError: a file cannot be read, they do not belong together, or there is no label.
    """
    image = check_image(read_image(image_path), image_path)
    stored = stored_outlines(label_path, image, image_path)
    labels = labels_on(image, stored.labels, image_path, label_path)
    if not sitk.GetArrayViewFromImage(labels).any():
        raise InputError(f"{label_path}: holds no label, only background")
    return image, replace(stored, labels=labels)


def _values(pairs: Sequence[Pair]) -> set[int]:
    return {int(value) for _, labels in pairs for value in np.unique(sitk.GetArrayViewFromImage(labels))} - {0}


def _all_labels(manifest: Manifest, pairs: Sequence[Pair], of_files: Mapping[int, Label]) -> dict[int, Label]:
    """Return a label for each value of the supports. What neither manifest nor files name gets a name and a colour.

    Raises:
        UnknownLabelError: a named value is in no label file.
        InputError: there are too many labels, or two have names that are the same in names of files.
    """
    values, named = sorted(_values(pairs)), manifest.labels
    if len(values) > MAX_LABELS:
        raise InputError(f"the label files hold {len(values)} labels, allowed in a task file: {MAX_LABELS}")
    if unknown := sorted(set(named) - set(values)):
        raise UnknownLabelError(f"{unknown[0]} is in no label file, which hold {values}")
    names, colours = ({**{value: text for value, label in of_files.items() if (text := getattr(label, what))},
                       **{value: text for value, label in named.items() if (text := getattr(label, what))}}
                      for what in ("name", "colour"))
    for value in values:
        names.setdefault(value, _known_name(manifest.options, value) or default_name(value, names.values()))
    if two := alike(names.values()):
        raise InputError(f"names of labels: got {two[0]!r} and {two[1]!r}, allowed: {ALIKE_RULE}")
    colours = colours_of(values, colours)
    return {value: Label(names[value], colours[value]) for value in values}


def _known_name(options: Mapping[str, Any], value: int) -> str | None:
    """Return the name that a network's data set has for a value in label files, or None."""
    entry = options["datasets"][options["dataset"]] if "datasets" in options else {"labels": {}, "file_values": {}}
    return entry["labels"].get(str(entry["file_values"].get(str(value), value)))


def to_nifti(image: sitk.Image) -> bytes:
    """Return an image as a .nii.gz file: voxels and geometry, and nothing else. The same image gives the same bytes."""
    array = sitk.GetArrayFromImage(image)
    if array.dtype.name not in KEPT_TYPES:
        array = array.astype(np.float32)
    return gzip.compress(nifti.to_nifti(array, affine_of_image(image)).to_bytes(), mtime=0)


def _only_weights(snapshot: Path) -> bytes:
    """Return the network's weights of a snapshot as a file of their own."""
    content = io.BytesIO()
    torch.save({name: value.contiguous().clone() for name, value in read_snapshot(snapshot).model.items()}, content)
    return content.getvalue()
