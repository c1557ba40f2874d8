"""Prepared volumes on disk, read by the slice: memory stays flat and a start is quick with any number of volumes."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qnet.util.base.checksums import digest, sha256
from qnet.util.base.distributed import is_main
from qnet.util.base.errors import InputError
from qnet.util.base.files import STALE_S, partial_name, remove_partial_files, write_synced
from qnet.util.base.inputs import read_json
from qnet.util.base.kept import Kept

FOLDER, RECORD = "store", "record.json"      # the first in the log folder
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Slices:
    """A (D, H, W) array in a .npy file. `slices[z]` reads slice z, and nothing stays in memory."""

    path: Path
    n_slices: int

    def __len__(self) -> int:
        return self.n_slices

    def __getitem__(self, z: int) -> np.ndarray:
        """Return slice z, (H, W).

        It is read in one call. A memory map takes four times as long if the file is not in the system's cache.
        """
        with self.path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)      # what np.save writes of such arrays
            n_pixels = math.prod(shape[1:])
            file.seek(range(self.n_slices)[z] * n_pixels * dtype.itemsize, 1)
            return np.fromfile(file, dtype, n_pixels).reshape(shape[1:])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[z] for z in range(self.n_slices))


class Store:
    """A folder of prepared volumes. Each is made once, and again if a file that it was made from has another checksum.

    The main process removes the unfinished files of killed processes.

    Args:
        folder: need not exist. Its content can be removed at any time.
    """

    def __init__(self, folder: Path):
        self.folder, self.sums = folder, Kept(folder / "sums.jsonl", sha256)
        if is_main():
            remove_partial_files(folder, STALE_S)       # other trainings may be writing theirs

    def get(self, name: str, sources: Sequence[Path], settings: Mapping[str, Any], make: Callable[[], Arrays]) -> Path:
        """Return the folder of a prepared volume, which holds `<key>.npy` of every array that `make` returns.

        Args:
            name: of the case.
            sources: the files that it is made from.
            settings: what else it depends on, as JSON.
            make: makes it.
        Raises:
            OSError: it cannot be written.
        """
        identity = {"sources": [str(path.absolute()) for path in sources], "settings": dict(settings)}
        folder = self.folder / f"{name}_{digest(identity)[:16]}"
        if not self._is_whole(folder, sources):
            arrays = make()         # before the sums: a source that is missing has its own error
            self._write(folder, arrays, {**identity, "sums": [self.sums.of(path) for path in sources]})
        self.sums.save()
        return folder

    def _is_whole(self, folder: Path, sources: Sequence[Path]) -> bool:
        """Return whether a prepared volume is complete and made from the sources as they are."""
        record = _read(folder / RECORD)
        with suppress(OSError, KeyError, AttributeError):      # a file is missing, or the record is damaged
            return record["sums"] == [self.sums.of(path) for path in sources] and all(
                (folder / name).stat().st_size == n_bytes for name, n_bytes in record["bytes"].items())
        return False

    def _write(self, folder: Path, arrays: Arrays, record: dict[str, Any]) -> None:
        partial = partial_name(folder)
        partial.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                content = io.BytesIO()      # np.save into a file does not fail cleanly on a full disk
                np.save(content, array)
                write_synced(partial / f"{name}.npy", content.getbuffer())
            sizes = {path.name: path.stat().st_size for path in partial.glob("*.npy")}
            write_synced(partial / RECORD, json.dumps({**record, "bytes": sizes}).encode())
            shutil.rmtree(folder, ignore_errors=True)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():     # else another process was faster, with the same
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file is missing or damaged."""
    try:
        return read_json(path)
    except InputError:
        return {}
