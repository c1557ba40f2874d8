"""SHA-256 checksums of files and values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


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
