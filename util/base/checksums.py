"""SHA-256 checksums of files, values and the code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qnet.util.base.root import ROOT

CODE = ("models", "dataloaders", "util", "data/preparation")       # folders that results depend on, beside the package's own


def sha256(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """Return the checksum of a file, or one checksum over the names and contents of all files in a folder."""
    return sha256(path) if path.is_file() else digest([(str(file.relative_to(path)), sha256(file))
                                                       for file in sorted(path.rglob("*")) if file.is_file()])


def digest(value: Any) -> str:
    """Return the checksum of a value that JSON can hold. The order of dictionary keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_sha256(root: Path = ROOT) -> str:
    """Return one checksum over all Python files that results depend on. A checkout has that of the package installed from it."""
    own = root / "qnet" if (root / "qnet").is_dir() else root
    files = [*own.glob("*.py"), *(path for name in CODE for path in (root / name).rglob("*.py"))]
    return digest(sorted(map(sha256, files)))
