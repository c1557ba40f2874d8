"""Where the parts of the package lie, and how another Python runs one of its modules."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]      # of a checkout, or the folder qnet of an installed package
IS_CHECKOUT = not (ROOT / "__init__.py").exists()


def module_command(name: str) -> list[str]:
    """Return the command that runs a module of this package, as "qnet.util.label.worker". It needs `module_environment`."""
    return [sys.executable, "-P", "-m", name]       # -P: no file of the working folder takes the place of a library


def module_environment() -> dict[str, str]:
    """Return the environment in which another Python finds this package, and no other of its name."""
    before = [str(ROOT)] if IS_CHECKOUT else []     # an installed package is found as this one was
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*before, *([given] if given else [])])} if before else dict(os.environ)
