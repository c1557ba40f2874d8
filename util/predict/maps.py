"""The files that belong to an outlined scan: its label map, and other maps on the same voxels beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qnet.dataloaders.outlines.writing import files_in
from qnet.dataloaders.reading import scan_name
from qnet.util.base.classes import file_name
from qnet.util.engine.predictions import WARPED


def maps_of(target: Path, label_names: Iterable[str], save_probs: bool, formats: Iterable[str] = ()) -> list[Path]:
    """Return every file that `Segmentation.write` may write.

    Args:
        target: the path of the label map.
    """
    label_names = list(label_names)
    maps = [*(probability_path(target, name) for name in label_names), beside(target, "uncertainty")] if save_probs else []
    return [target, registered_path(target), *maps, *files_in(formats, target, label_names)]


def beside(target: Path, what: str) -> Path:
    """Return the path of another map beside a label map, as image_2_uncertainty.nii.gz beside image_2.nii.gz."""
    return target.with_name(f"{scan_name(target)}_{what}.nii.gz")


def probability_path(target: Path, label_name: str) -> Path:
    """Return the path of the probability map of a label beside a label map."""
    return beside(target, f"{file_name(label_name)}_prob")


def registered_path(target: Path) -> Path:
    """Return the path of the registered support's image that belongs to a label map, in a folder beside it."""
    return target.parent / WARPED / f"{scan_name(target)}.nii.gz"
