"""The one package that everything of this project is imported from, as in ``from qnet.models.registration import register``.

In a checkout its parts are the folders at the top level, beside this one. In an installed package they are in this folder.
`qnet.__version__` is the version.
"""

import os as _os
from pathlib import Path as _Path

_HERE = _Path(__file__).resolve().parent
if not (_HERE / "models").is_dir():     # a checkout
    __path__.append(str(_HERE.parent))

# GCC's OpenMP, which PyTorch has on Linux, reads this when PyTorch is imported. By default its threads spin 300,000 times while
# they wait for each other. Where another program needs a core, they keep it from the thread that they wait for, and all is many
# times slower. So short a wait costs nothing on an idle machine (docs/performance.md).
if "OMP_WAIT_POLICY" not in _os.environ:
    _os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> str:
    """Return the version, which few ask for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("qnet-few-shot-segmentation")
    except PackageNotFoundError:        # a checkout that was never installed
        return "unknown"
