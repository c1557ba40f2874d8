"""The recipes of the downloads: where a case's files lie, how to read and how to convert them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from qnet.data.preparation.chaos import read_chaos
from qnet.data.preparation.raw import RawCase, read_nifti_pair
from qnet.dataloaders.datasets import DatasetSpec, Grid
from qnet.dataloaders.nifti import files_of as pair_of
from qnet.dataloaders.reading import ending_of
from qnet.dataloaders.resampling import (
    IN_PLANE_PX,
    image_to_grid,
    labels_to_grid,
    resample_image,
    resample_labels,
    to_model_grid,
    window_to_255,
)
from qnet.util.base.errors import InputError, listed
from qnet.util.base.files import made_in
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec

Pair = tuple[sitk.Image, sitk.Image | None]    # image and labels; None for a case without labels
Finder = Callable[[Path], tuple[list[RawCase], list[str]]]    # a download's cases, and lines about what was left out
SABS_BORDER_PX = 32


@dataclass(frozen=True)
class Recipe:
    """The way of one dataset from its download to the folder that training reads. All functions can be pickled.

    `settings` describes `convert` in words. `n_cases` is the number of cases in a complete download, 0 for any number.
    """

    spec: DatasetSpec
    find: Finder
    read: Callable[[RawCase], Pair]
    convert: Callable[[sitk.Image, sitk.Image | None], Pair]
    settings: str
    n_cases: int = 0


def chaos() -> Recipe:
    """Return the recipe of CHAOS, T2-SPIR."""
    spec = table_entry("CHAOST2")
    return Recipe(spec, find_chaos, read_chaos, *onto(spec.grid), 20)


def cmr(trust_image_geometry: bool) -> Recipe:
    """Return the recipe of MS-CMRSeg, bSSFP."""
    spec = table_entry("CMR")
    return Recipe(spec, find_cmr, partial(read_nifti_pair, trust_image_geometry=trust_image_geometry), *onto(spec.grid), 35)


def sabs(trust_image_geometry: bool) -> Recipe:
    """Return the recipe of Synapse BTCV, abdominal CT."""
    spec = table_entry("SABS")
    assert spec.grid is not None and spec.grid.window is not None
    window, size_px = spec.grid.window, spec.grid.size_px
    return Recipe(spec, find_sabs, partial(read_nifti_pair, trust_image_geometry=trust_image_geometry),
                  partial(window_and_shrink, window=window, size_px=size_px),
                  f"window {window[0]:g}…{window[1]:g} to 0…255, border of {SABS_BORDER_PX} px cut, "
                  f"resampled in-plane to {size_px} px", 30)


def nifti(spec: DatasetSpec, find: Finder, trust_image_geometry: bool) -> Recipe:
    """Return the recipe for a user's own NIfTI files. Without a window, the brightest 0.5 % are clipped."""
    return Recipe(spec, find, partial(read_nifti_pair, trust_image_geometry=trust_image_geometry), *onto(spec.grid))


def onto(grid: Grid | None) -> tuple[Callable[[sitk.Image, sitk.Image | None], Pair], str]:
    """Return `convert` and `settings` of the recipe of a dataset that `clip_and_resample` brings to its grid."""
    assert grid is not None     # a dataset that is prepared here has one
    clipped = f"window {grid.window[0]:g}…{grid.window[1]:g} to 0…255" if grid.window else "clipped at the 99.5th percentile"
    return (partial(clip_and_resample, spacing_mm=grid.spacing_mm, size_px=grid.size_px, window=grid.window),
            f"{clipped}, resampled to {' x '.join(f'{s:g}' for s in grid.spacing_mm)} mm, cropped or padded to {grid.size_px} px")


def table_entry(name: str) -> DatasetSpec:
    """Return a dataset's entry in the table of configs/base.json5."""
    return dataset_spec(name, base_config()["datasets"][name])


def clip_and_resample(image: sitk.Image, labels: sitk.Image | None, *, spacing_mm: Sequence[float], size_px: int = IN_PLANE_PX,
                      window: tuple[float, float] | None = None) -> Pair:
    """Bring a scan and its labels to the model's grid: clip (or window), resample, crop or pad in-plane.

    Args:
        image, labels: of one size; None: no labels.
        spacing_mm: (x, y, z).
        size_px: width and height.
        window: lowest and highest intensity.
    """
    converted = (image_to_grid(window_to_255(image, *window), spacing_mm, size_px) if window
                 else to_model_grid(image, spacing_mm, size_px))
    return converted, None if labels is None else labels_to_grid(labels, spacing_mm, size_px)


def window_and_shrink(image: sitk.Image, labels: sitk.Image | None, *, window: tuple[float, float], size_px: int) -> Pair:
    """Window an abdominal CT, cut its in-plane border, and resample the rest in-plane. z does not change.

    Args:
        image, labels: of one size; None: no labels.
        window: lowest and highest intensity.
        size_px: width and height.
    Raises:
        InputError: the image is too small for cutting its border.
    """
    if min(image.GetSize()[:2]) <= 2 * SABS_BORDER_PX:
        raise InputError(f"size (x, y, z) = {image.GetSize()}, but a border of {SABS_BORDER_PX} pixels is cut in-plane")
    border = [SABS_BORDER_PX, SABS_BORDER_PX, 0]
    image = sitk.Crop(window_to_255(image, *window), border, border)
    x_mm, y_mm, z_mm = image.GetSpacing()
    width, height, depth = image.GetSize()
    spacing_mm = (x_mm * width / size_px, y_mm * height / size_px, z_mm)
    size = (size_px, size_px, depth)
    return (resample_image(image, spacing_mm, size),
            None if labels is None else resample_labels(sitk.Crop(labels, border, border), spacing_mm, size))


def find_chaos(source: Path) -> tuple[list[RawCase], list[str]]:
    """Return a case for every folder …/<case>/T2SPIR outside the test set, which has no masks."""
    folders = [path for path in sorted(source.glob("**/T2SPIR"))
               if not {"Test_Sets", "__MACOSX"} & set(path.relative_to(source).parts)]
    return [RawCase(path.parent.name, path / "DICOM_anon", path / "Ground") for path in folders], []


def find_cmr(source: Path) -> tuple[list[RawCase], list[str]]:
    """Return the patients with a file *_C0_manual.nii.gz, by the numbers in their names. Others are left out.

    Raises:
        InputError: two files have the same number.
    """
    images, labels = (_by_last_number(source, ending) for ending in ("_C0.nii.gz", "_C0_manual.nii.gz"))
    return _pair(images, labels, sorted(labels), names=sorted(labels), missing_image="patient{}_C0.nii.gz")


def find_sabs(source: Path) -> tuple[list[RawCase], list[str]]:
    """Return the pairs img<number>.nii.gz and label<number>.nii.gz, named 0, 1, … in the order of their numbers.

    Images after the last label are the test set and are left out. An earlier image without a label keeps its place, so that
    the names of the others hold. It is reported as broken later.

    Raises:
        InputError: two files have the same number.
    """
    images, labels = (_by_last_number(source, ".nii.gz", start) for start in ("img", "label"))
    numbers = [number for number in sorted({*images, *labels}) if number <= max(labels, default=0)]
    return _pair(images, labels, numbers, names=range(len(numbers)), missing_image="img{:04d}.nii.gz")


def _pair(images: dict[int, Path], labels: dict[int, Path], numbers: Sequence[int], names: Sequence[int],
          missing_image: str) -> tuple[list[RawCase], list[str]]:
    cases = [RawCase(str(name),
                     images.get(number) or labels[number].with_name(missing_image.format(number)),
                     labels.get(number) or images[number].with_name(images[number].name.replace("img", "label")))
             for name, number in zip(names, numbers, strict=True)]
    return cases, [f"{images[number]}: left out, it has no label" for number in sorted(set(images) - set(numbers))]


def _by_last_number(source: Path, ending: str, start: str = "") -> dict[int, Path]:
    """Return the files <start>…<number><ending> at any depth below a folder, by their number."""
    files: dict[int, Path] = {}
    for path in sorted(source.glob(f"**/{start}*{ending}")):
        number = re.search(r"(\d+)$", path.name.removesuffix(ending))
        if path.name.startswith(".") or not number:
            continue
        if int(number[1]) in files:
            raise InputError(f"{path}: has the same number as {files[int(number[1])]}")
        files[int(number[1])] = path
    return files


def find_nifti(source: Path, image: str, label: str) -> tuple[list[RawCase], list[str]]:
    """Return the cases of all files that match the pattern `image` or `label`, by name.

    A file that matches both is a label, as in {case}.nii.gz beside {case}_label.nii.gz. An image without a label file is
    a case without labels. A label without an image is reported as broken later.
    """
    labels = _by_name(source, label)
    label_files = set(labels.values())
    images = {name: path for name, path in _by_name(source, image).items() if path not in label_files}
    cases = [RawCase(name, source / image.format(case=name), labels.get(name)) for name in sorted({*images, *labels})]
    without = [case.name for case in cases if case.label is None]
    notes = [f"no label for {len(without)} of {len(cases)} cases: {', '.join(without)}"] if without else []
    if others := _other_images(source, {*images.values(), *label_files}):
        notes.append(f"left out, as they match neither --image {image} nor --label {label}: "
                     f"{listed([str(path.relative_to(source)) for path in others])}")
    return cases, notes


def _other_images(source: Path, used: set[Path]) -> list[Path]:
    """Return the image files below a folder that are no part of a case, but for those that this project wrote."""
    paths = [path for path in sorted(source.rglob("*")) if ending_of(path) and path.is_file() and not path.name.startswith(".")]
    written = {folder: {name for name, _ in made_in(folder)} for folder in {path.parent for path in paths}}
    known = {file for path in used for file in pair_of(path)}
    return [path for path in paths if path not in known and path.name not in written[path.parent]]


def _by_name(source: Path, pattern: str) -> dict[str, Path]:
    before, after = pattern.split("{case}")
    paths = (path for path in source.glob(f"{before}*{after}") if not path.name.startswith("."))
    return {str(path.relative_to(source))[len(before):-len(after) or None]: path for path in paths}
