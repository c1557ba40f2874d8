"""The ways in which a file can be wrong: each function takes the path of a sound file and spoils it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.affines import voxel_sizes

Damage = Callable[[Path], object]


# ---- any file ----

def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def a_text(path: Path) -> None:
    path.write_text("not what it should be\n", encoding="utf-8")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def unreadable(path: Path) -> None:
    """A file that opens and then gives an input/output error, as on a broken disk; on Linux alone."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# ---- NIfTI, .nii.gz ----

def values(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Return the damage that changes the values (x, y, z), as float32."""
    def damage(path: Path) -> None:
        file = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(change(np.asarray(file.dataobj, np.float32)), file.affine), path)

    return damage


def one_voxel(value: float) -> Damage:
    def change(array: np.ndarray) -> np.ndarray:
        array[1, 2, 3] = value
        return array

    return values(change)


nan, infinite, fraction, negative = (one_voxel(value) for value in (float("nan"), float("inf"), 1.5, -1))
unknown_label, many = one_voxel(9), one_voxel(1e6)
constant = values(np.ones_like)
background = values(np.zeros_like)
four_axes = values(lambda array: np.stack([array, array], axis=-1))
other_shape = values(lambda array: array[:, :, :-1])


def complex_values(path: Path) -> None:
    file = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(file.dataobj).astype(np.complex64), file.affine), path)


def colours(path: Path) -> None:
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(np.zeros(nibabel.load(path).shape, rgb), np.eye(4)), path)


def affine(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Return the damage that changes where the header says that the volume lies."""
    def damage(path: Path) -> None:
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = nibabel.Nifti1Header(bytes(content[:348]))
        matrix = change(header.get_best_affine())
        header["srow_x"], header["srow_y"], header["srow_z"] = matrix[:3]
        header["pixdim"][1:4] = voxel_sizes(matrix)
        header["sform_code"], header["qform_code"] = 1, 0
        content[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)))

    return damage


elsewhere = affine(lambda matrix: matrix + np.outer([50, 50, 50, 0], [0, 0, 0, 1]))
flat = affine(np.zeros_like)
vast = affine(lambda matrix: matrix * 1e9)
nowhere = affine(lambda matrix: matrix * np.nan)


def claims(shape: tuple[int, int, int], n_bytes: int) -> Damage:
    """Return the damage by a header of `shape`, followed by some zeros."""
    def damage(path: Path) -> None:
        header = nibabel.Nifti1Header()
        header.set_data_dtype(np.int16)
        header["dim"][:4] = 3, *shape
        header["vox_offset"], header["magic"] = 352, b"n+1"
        header.set_sform(np.eye(4), 1)
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + n_bytes)))

    return damage


huge = claims((32767, 32767, 32767), 1000)
huge_but_packed = claims((1000, 1000, 1000), 10**6)      # a gzip file of 1 KB
no_voxels = claims((5, 0, 5), 0)


def header_field(name: str, value: float) -> Damage:
    """Return the damage that changes one number of the header, whatever that makes of it."""
    def damage(path: Path) -> None:
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = nibabel.Nifti1Header(bytes(content[:348]))
        header[name] = value
        content[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)))

    return damage


offset_in_header = header_field("vox_offset", 100)


# ---- PNG ----

def wrong_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[29] ^= 255      # of the header's chunk
    path.write_bytes(content)


# ---- DICOM ----

def wide(path: Path) -> None:
    """Every slice beside it too claims 65535 × 65535 pixels."""
    for file in path.parent.iterdir():
        content = file.read_bytes()
        for tag in (b"\x28\0\x10\0", b"\x28\0\x11\0"):      # Rows, Columns: explicit VR, or implicit
            for kind in (b"US\2\0", b"\2\0\0\0"):
                at = content.find(tag + kind)
                if at >= 0:
                    content = content[:at + 8] + b"\xff\xff" + content[at + 10:]
        file.write_bytes(content)


# ---- checkpoints ----

def saved(content: object) -> Damage:
    return lambda path: torch.save(content, path)


def changed(**parts: object) -> Damage:
    """Return the damage that replaces parts of a snapshot; a function gives the new part from the old one."""
    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save({**content, **{name: part(content[name]) if callable(part) else part for name, part in parts.items()}}, path)

    return damage


def with_nan(model: dict) -> dict:
    name = next(name for name, tensor in model.items() if tensor.ndim == 4)
    model[name][0] = torch.nan
    return model


def nan_weights(path: Path) -> None:
    torch.save(with_nan(torch.load(path, weights_only=True)), path)


class _Command:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def runs_code(path: Path) -> None:
    torch.save({"model": _Command(path.with_name("canary"))}, path)


def runs_code_plain(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": [_Command(path.with_name("canary"))]}, protocol=2))


def zip_bomb(path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


# ---- JSON and tables ----

def json_with(**changes: object) -> Damage:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}), encoding="utf-8")


def json_without(key: str) -> Damage:
    return lambda path: path.write_text(json.dumps({k: v for k, v in json.loads(path.read_bytes()).items() if k != key}),
                                        encoding="utf-8")


def a_list(path: Path) -> None:
    path.write_text("[1, 2]", encoding="utf-8")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def not_utf8(path: Path) -> None:
    path.write_bytes(b'{"a": "\xff\xfe"}')


def header_only(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")


def cell(old: str, new: str) -> Damage:
    return lambda path: path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


# ---- none ----

def nothing(path: Path) -> None:
    """The file stays sound."""
