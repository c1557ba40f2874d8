"""The one package that everything of this project is imported from, as in ``from qnet.models.registration import register``.

In a checkout its parts are the folders at the top level, beside this one. In an installed package they are in this folder.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from pathlib import Path as _Path

_HERE = _Path(__file__).resolve().parent
if not (_HERE / "models").is_dir():     # a checkout
    __path__.append(str(_HERE.parent))

try:
    __version__ = _version("qnet-few-shot-segmentation")
except PackageNotFoundError:            # a checkout that was never installed
    __version__ = "unknown"
