"""The one reader of JSON: limits, schemas, and messages that name the key, the value and what is allowed."""

import ast
import os
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from msgspec import Meta, Struct

from qnet.dataloaders.reading import read_image, scan_name
from qnet.util.base.errors import InputError, printable
from qnet.util.base.inputs import Limits, expect_file, parse_json
from qnet.util.base.root import ROOT
from tests import kinds
from tests.toy import write


class Inner(Struct):
    size: Annotated[int, Meta(ge=1, le=5)] | None = None


class Outer(Struct, forbid_unknown_fields=True):
    version: Literal[1] = 1
    names: list[str] = []
    inner: dict[str, Inner] = {}


@pytest.mark.parametrize(("content", "said"), [
    (b'{"version": 2}', "a.json: version: got 2, allowed: one that this program knows"),
    (b'{"names": 7}', "a.json: names: got 7, allowed: a list"), (b'{"names": [1]}', "a.json: names[0]: got 1, allowed: a text"),
    (b'{"inner": {"a": {"size": 9}}}', "allowed: a whole number <= 5"),
    (b'{"other": 1}', "a.json: object contains unknown field 'other'"),
    (b"[]", "a.json: got [], allowed: an object"), (b"{", "a.json: not valid JSON (Expecting"),
    (b"\xff", "a.json: not valid JSON ("),
    (b'{"names": ' + b"[" * 9 + b"]" * 9 + b"}", "a.json: is nested more than 5 levels deep"),
    (b'{"names": [' + b"1," * 60 + b"1]}", "a.json: not valid JSON here: 134 bytes with 62 values; allowed: at most 200 with 50"),
    (b" " * 201, "a.json: not valid JSON here: 201 bytes"), (b'{"names": [NaN]}', "a.json: holds nan, allowed: finite numbers"),
    (b'{"names": [1e999]}', "holds inf"), (b'{"names": ["\\ud800"]}', r"holds '\ud800', allowed"), (b'{"\\udfff": 1}', "holds"),
])
def test_what_is_refused(content, said):
    with pytest.raises(InputError) as caught:
        parse_json(content, "a.json", Outer, limits=Limits(200, 5, 50), plain=True)
    assert said in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_what_is_allowed():
    read = parse_json(b'{"names": ["\xc3\xa9"], "inner": {"a": {"size": 2}, "b": {}}}', "a.json", Outer, plain=True)
    assert read == Outer(1, ["\u00e9"], {"a": Inner(2), "b": Inner()})
    assert parse_json(b'{"a": [1, {"b": null}], "c": NaN}', "a.json")["a"] == [1, {"b": None}]
    assert parse_json(b"[1]", "a.json", Any) == [1]


def test_text_that_moves_no_cursor():
    assert printable("liver, Niere, \u7532") == "liver, Niere, \u7532"
    assert printable("a\n\r\t\x1b[2J\x9b\u202e\ud800") == r"a\n\r\t\x1b[2J\x9b\u202e\ud800"


def test_a_name_that_is_no_utf8_is_refused_before_a_library_ends_the_program(tmp_path):
    name = os.fsdecode(b"a_\xff.nii.gz")
    write(tmp_path / name, np.ones((8, 64, 64), np.uint8))
    (tmp_path / os.fsdecode(b"a_\xff.mha")).write_bytes(bytes(2000))
    for read in (lambda: expect_file(tmp_path / name), lambda: read_image(tmp_path / name),
                 lambda: read_image(tmp_path / os.fsdecode(b"a_\xff.mha"))):
        with pytest.raises(InputError, match="its name is no UTF-8; allowed: another name") as caught:
            read()
        assert r"\udcff" in str(caught.value)
    assert scan_name(tmp_path / name) == r"a_\udcff"
    folder = kinds.slices()(tmp_path / "series")        # slices are read by Python, from files of any name
    first = min(folder.iterdir())
    first.rename(first.with_name(os.fsdecode(b"\xff.dcm")))
    assert read_image(folder).GetSize() == kinds.SHAPE


# what they read comes from this program itself, down a pipe or a moment before; `qnet.util.base.inputs` and lists of lines
OWN_WORDS = {"util/base/inputs.py", "util/base/files.py", "util/clients/client.py", "util/label/apart.py",
             "util/label/run.py", "util/run/experiment.py", "util/engine/unfinished.py"}


def test_files_of_json_are_read_in_one_place():
    """And nothing unpickles, or makes objects of what it reads."""
    found, unsafe = set(), {"pickle", "jsonpickle", "marshal", "shelve", "yaml", "dill"}
    folders = ("data", "dataloaders", "models", "qnet", "util")
    for path in [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads", "json5.load"):
                found.add(path.relative_to(ROOT).as_posix())
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not unsafe & {name.partition(".")[0] for name in names}, path
            assert "sacred.config.config_files" not in names, path
    assert found == OWN_WORDS
