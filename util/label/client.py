"""All that a person does on the labelling page, from Python: for checks and tables."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from qnet.util.base.root import ROOT, module_environment
from qnet.util.clients.client import Client, scan_path
from qnet.util.label.strokes import changes_between, pack, unpack

PROGRAM = ROOT / "scripts/label.py"


class PageClient(Client):
    """Draws strokes and uses tools, too."""

    def present(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return a scan's present outlines, (D, H, W) uint8; empty ones of that shape if there are none."""
        content = self.outlines(name)
        if content is None:
            return np.zeros(shape, np.uint8)
        return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj).transpose(2, 1, 0).astype(np.uint8)

    def change(self, name: str, before: np.ndarray, after: np.ndarray, slices: Mapping[str, Any]) -> None:
        """Save what makes one (D, H, W) label map another, as a stroke.

        Args:
            slices: those that a person made, as in hand/<scan>.json.
        """
        said = {"drawn": self.scan(name)["drawn"], "stroke": secrets.token_hex(8), "slices": slices}
        self.tell("PATCH", scan_path(name, "outlines"), pack(said, changes_between(before, after)))

    def propose(self, name: str, label_map: np.ndarray, tool: str, **asked: Any) -> tuple[np.ndarray, list[int]]:
        """Return what a tool of the page makes of a scan's present (D, H, W) label map, and which slices it filled.

        Raises:
            ClientError: it has nothing to work on.
        """
        content = self.get("POST", scan_path(name, "propose"), {"drawn": self.scan(name)["drawn"], "tool": tool, **asked})
        said, changes = unpack(content, dict[str, Any])
        return changes.applied(label_map), said["filled"]


@contextmanager
def running(folder: Path, options: Sequence[str] = (),
            program: Path | Sequence[str | Path] = PROGRAM, environment: Mapping[str, str] | None = None,
            ) -> Iterator[tuple[PageClient, subprocess.Popen[str]]]:
    """Run scripts/label.py, or a program like it, on a folder, and yield a client and the process. It is ended with the block.

    Args:
        program: a file of Python, or a command.
        environment: of the process; default: in which it finds this package.

    Raises:
        ClientError: it did not start; with what it said.
    """
    begin = [sys.executable, str(program)] if isinstance(program, Path) else list(map(str, program))
    client = PageClient.start([*begin, str(folder), "--no-browser", *options],
                              module_environment() if environment is None else environment)
    assert client.process is not None
    try:
        yield client, client.process
    finally:
        client.close()
