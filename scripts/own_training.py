"""Trains Q-Net on the scans of a folder, without labels, for scripts/segment.sh --train."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from qnet.data.prepare import main as prepare
from qnet.dataloaders.nifti import save
from qnet.dataloaders.reading import read_image
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.options.config import load_config, merge
from qnet.util.options.sections import ModelOptions, RunPlace
from qnet.util.predict.scans import orientation_of
from qnet.util.run.folders import call, newest_run
from qnet.util.training.building import build_model

NAME, N_STEPS, FEWEST = "OWN", 600, 3
LARGEST_PX = 256
SUPERVOXEL_MM3 = 60_000       # of the smallest supervoxel: 5,000 voxels of CHAOS-T2
S_TO_PREPARE = 5              # of a scan, about, on one core


def train_on(scans: Sequence[Path], outlined: Path, folder: Path, n_steps: int = N_STEPS) -> tuple[Path, dict[str, Any]]:
    """Prepare the scans in a folder, train on all but two of them, and return the snapshot and the config.

    The outlined scan is one of the two. The same call again goes on where it was stopped.

    Args:
        scans: NIfTI files and folders of DICOM slices. One that cannot be read is left out, with a line.
        outlined: one of them.
        folder: is made. It can be removed afterwards.
        n_steps: of the training.
    Raises:
        InputError: fewer than FEWEST scans can be read, or a file may not be written.
    """
    folder = folder.resolve()
    images = readable([outlined, *(scan for scan in scans if scan != outlined)])
    if len(images) < FEWEST:
        raise InputError(f"--train: {len(images)} scans can be read, allowed: at least {FEWEST}")
    spacing_mm, size_px = grid_of(images)
    config = config_of(folder, spacing_mm, size_px, len(images), n_steps)
    seconds = len(images) * S_TO_PREPARE + n_steps * seconds_per_step(ModelOptions.of(config), size_px)
    print(f"training on {len(images) - 2} of the {len(images)} scans, without labels: about {max(1, round(seconds / 60))} min on "
          "this machine, before the first scan is outlined; the same command goes on if it is stopped")
    for number, image in enumerate(images, 1):
        save(image, folder / f"scans/image_{number}.nii.gz")
    with contextlib.redirect_stdout(io.StringIO()):      # the config that it prints is made here
        failed = prepare(["nifti", "--source", str(folder / "scans"), "--target", str(folder / NAME), "--n-sv",
                          str(config["n_sv"]), "--size", str(size_px), "--spacing", *map(str, spacing_mm)])
    if failed:
        raise InputError(f"--train: not every scan could be prepared in {folder}, as it says above")
    write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", path := folder / "own.json")
    call("train.py", "with", str(path), "resume=auto")
    run = newest_run(RunPlace.of(config).folders("train"))
    return run / f"snapshots/{n_steps}.pth", config


def readable(scans: Sequence[Path]) -> list[sitk.Image]:
    """Return the images of the scans, turned as the first of them is. One that cannot be read gives a line."""
    images: list[sitk.Image] = []
    for scan in scans:
        try:
            image = read_image(scan)
            images.append(sitk.DICOMOrient(image, orientation_of(images[0] if images else image)))
        except InputError as error:
            print(f"not trained on: {error}")
    return images


def grid_of(images: Sequence[sitk.Image]) -> tuple[tuple[float, float, float], int]:
    """Return the spacing (x, y, z) in mm and the size in pixels of a grid that holds every scan in the plane.

    The spacing is the median of the scans', and coarser if LARGEST_PX pixels would not hold the largest.
    """
    spacings = np.array([image.GetSpacing() for image in images])
    extent_mm = max(max(np.multiply(image.GetSize(), image.GetSpacing())[:2]) for image in images)
    in_plane = max(float(np.median(spacings[:, :2])), extent_mm / LARGEST_PX)
    return (in_plane, in_plane, float(np.median(spacings[:, 2]))), min(LARGEST_PX, -int(-extent_mm / in_plane // 16) * 16)


def config_of(folder: Path, spacing_mm: tuple[float, float, float], size_px: int, n_cases: int,
              n_steps: int) -> dict[str, Any]:
    """Return the complete config of the training."""
    entry = {"image": "images/image_{case}.nii.gz", "label": "images/label_{case}.nii.gz",
             "supervoxels": "supervoxels_{n_sv}/superpix-MIDDLE_{case}.nii.gz", "labels": {"1": "outlined"}, "file_values": {},
             "n_folds": n_cases,
             "grid": {"spacing_mm": list(spacing_mm), "size_px": size_px, "orientation": None, "window": None}}
    config = load_config("chaost2_setting1_scratch")
    merge(config, {
        "dataset": NAME, "datasets": {NAME: entry}, "test_label": [1], "n_steps": n_steps, "lr_step_every": max(1, n_steps // 4),
        "save_snapshot_every": 50, "keep_snapshots": 2, "n_sv": max(50, round(SUPERVOXEL_MM3 / np.prod(spacing_mm))),
        "path": {"log_dir": str(folder / "runs"), NAME: {"data_dir": str(folder / NAME)}}})
    return config


def seconds_per_step(options: ModelOptions, size_px: int) -> float:
    """Measure two training steps on noise, after one that is not counted."""
    model = build_model(options).train()
    images, masks = torch.randn(1, 2, 3, size_px, size_px), torch.zeros(1, 2, size_px, size_px)
    masks[..., size_px // 4:size_px // 2, size_px // 4:size_px // 2] = 1
    for step in range(3):
        if step == 1:
            began = time.perf_counter()
        sum(model(Episode(images[:, :1], masks[:, :1], images[:, 1], masks[:, 1])).values()).backward()
    return (time.perf_counter() - began) / 2
