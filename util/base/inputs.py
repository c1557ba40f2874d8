"""Checks and reads files that the user names."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from util.base.errors import InputError


def expect_file(path: Path | str) -> Path:
    """Return the path of a file that can be read.

    Raises:
        InputError: it is missing, a folder, a pipe or a broken link, or may not be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device or pipe'}, expected a file")
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:      # an InputError is one too
        raise error if isinstance(error, InputError) else InputError(f"{str(path)!r}: cannot be read ({error})") from None
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or does not hold an object {…}.
    """
    try:
        content = json.loads(expect_file(path).read_text(encoding="utf-8"))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object {{…}}")
    return content
