"""The one package that everything of this project is imported from, as in ``from qnet.models.registration import register``.

In a checkout its parts are the folders at the top level, beside this one. In an installed package they are in this folder.
`qnet.__version__` is the version.
"""

from pathlib import Path as _Path

_HERE = _Path(__file__).resolve().parent
if not (_HERE / "models").is_dir():     # a checkout
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> str:
    """Return the version, which few ask for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("qnet-few-shot-segmentation")
    except PackageNotFoundError:        # a checkout that was never installed
        return "unknown"
