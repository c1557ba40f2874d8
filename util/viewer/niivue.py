"""NiiVue 0.69.0 (https://github.com/niivue/niivue, BSD-2: niivue.LICENSE): the file that its package ships, unchanged.

niivue.NOTICES has the licences of the libraries that are in it. To take a newer one: `npm pack @niivue/niivue`, copy
dist/niivue.umd.js here, and change VERSION, SHA256 and the notices: dist/metafile-esm.json of the package lists what it is
made of.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from qnet.util.base.errors import InputError
from qnet.util.base.inputs import expect_file

VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
SCRIPT, LICENSE, NOTICES = (Path(__file__).with_name(f"niivue.{ending}") for ending in ("umd.js", "LICENSE", "NOTICES"))


def niivue_script(path: Path = SCRIPT) -> str:
    """Return the text of NiiVue. It makes a global `niivue`. It has no `</script`, so it may stand in a page.

    Args:
        path: of the file.
    Raises:
        InputError: the file is missing, or is not the one of VERSION.
    """
    content = expect_file(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{path}: its SHA-256 is not that of NiiVue {VERSION}; allowed: dist/niivue.umd.js of that package")
    return content.decode("utf-8").replace("</script", "<\\/script")
