"""The rule for names, values and colours of classes, and that options, task files, preparation and page all ask it."""

import argparse
from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from qnet.data.prepare import parse_arguments as prepare_options
from qnet.scripts.segment import parse_arguments as segment_options
from qnet.util.base.classes import (
    MAX_NAME,
    PALETTE,
    alike,
    coloured_value,
    colours_of,
    default_name,
    file_name,
    in_figure,
    is_colour,
    is_name,
    is_value,
    named_value,
)
from qnet.util.base.errors import InputError
from qnet.util.label.session import Session
from qnet.util.options.config import base_config, check_config
from qnet.util.predict.task_command import parse_arguments as task_options
from qnet.util.taskfile.manifest import Label, Manifest, read_manifest, stored_options
from tests.labelling import write_scans

ALLOWED = ["liver", "L/R kidney", 'the "other" one', "a=b", "-x", "C:\\scans", "$T_2$ {lesion} 50%", "Nierenrinde, äußere", "肾",
           "..", "<b>", MAX_NAME * "a"]
REFUSED = ["", "  ", "a\nb", "\x1b[31m", "a\u202eb", "\ud800", (MAX_NAME + 1) * "a"]


def option(parse: Callable, *words: str) -> Callable[[str], None]:
    """Take a name as an option of a command."""
    def take(name):
        assert parse([*words, "--names", f"1={name}", "--overwrite"]).names == [(1, name)]
    return take


def in_config(name):
    config = base_config()
    config["datasets"]["CMR"]["labels"] = {"1": name, "2": "another", "3": "others"}
    check_config(config)


def in_task_file(name):
    stored = Manifest({1: Label(name, PALETTE[0])}, "", dict.fromkeys(stored_options("guided"), "guided"), 1, {})
    assert read_manifest(stored.to_json(), "task.json").names == {1: name}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    session = Session(write_scans(tmp_path_factory.mktemp("page") / "scans", [1]))
    yield session
    session.close()


TAKERS = {
    "qnet segment": option(segment_options, "--scans", "a", "--outlined", "b=c", "--output", "d"),
    "qnet task": option(lambda words: task_options([*words, "x.task"]), "create", "--support", "a", "b"),
    "qnet prepare": option(prepare_options, "nifti", "--source", "a", "--target", "b", "--spacing", "1", "1", "1"),
    "config": in_config, "task file": in_task_file}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_name_that_one_takes_all_take(name, session):
    assert is_name(name)
    for take in TAKERS.values():
        take(name)
    session.set_classes([{"value": 1, "name": name, "colour": PALETTE[0]}])
    assert session.classes[0]["name"] == name


@pytest.mark.parametrize("name", REFUSED, ids=repr)
def test_a_name_that_one_refuses_all_refuse(name, session):
    assert not is_name(name)
    for take in TAKERS.values():
        with pytest.raises((InputError, SystemExit, UnicodeEncodeError)):
            take(name)
    with pytest.raises(InputError, match=f"name: got .*, allowed: a text of 1 to {MAX_NAME} characters"):
        session.set_classes([{"value": 1, "name": name, "colour": PALETTE[0]}])


def test_values():
    assert all(map(is_value, (1, "7", 2**15 - 1))) and is_value(254, 254)
    assert not any(map(is_value, (0, -1, "01", "1.0", 2**15, "", "x", True, None, 10**9, "٣"))) and not is_value(255, 254)


def test_colours():
    assert all(map(is_colour, (*PALETTE, "#ABCDEF"))) and len(set(PALETTE)) == len(PALETTE)
    assert not any(map(is_colour, ("red", "#00000g", "#000", "#e69f00 ", 7, None)))
    assert coloured_value("7=#E69F00") == (7, "#e69f00")


def test_a_class_has_the_colour_of_its_value_unless_another_has_it():
    assert list(colours_of(range(1, 17)).values()) == list(PALETTE)
    assert colours_of([2, 1]) == {2: PALETTE[1], 1: PALETTE[0]}
    assert colours_of([1, 17, 33]) == {1: PALETTE[0], 17: PALETTE[1], 33: PALETTE[2]}
    assert colours_of([1, 2], {2: PALETTE[0]}) == {1: PALETTE[1], 2: PALETTE[0]}
    assert set(colours_of(range(1, 40)).values()) == set(PALETTE)


def test_names_of_files_hold_no_path_and_differ():
    assert file_name("L/R kidney") == "L%2FR_kidney" and file_name("left kidney") == "left_kidney"
    assert not any(set(file_name(name)) & set('/\\:" ') for name in ALLOWED)
    assert file_name("<2 mm? *|>") == "%3C2_mm%3F_%2A%7C%3E"      # what Windows allows in no file name
    assert alike(ALLOWED) is None and alike(["a b", "c", "a_b"]) == ("a b", "a_b") == alike(["a b", "a_b", "c"])


def test_a_class_without_a_name_never_gets_that_of_another():
    assert default_name(7) == "label 7"
    assert default_name(7, ["label 7"]) == default_name(7, ["label_7"]) == "label 7 (2)"
    assert default_name(7, ["label 7", "label 7 (2)"]) == "label 7 (3)"


@pytest.mark.parametrize("name", ["$^$", "a $ b $_$", r"\$^$", "$x$"])
def test_a_name_in_a_figure_is_no_formula(name):
    figure = Figure()
    shown = figure.suptitle(in_figure(name))
    figure.canvas.draw()
    assert shown._preprocess_math(shown.get_text()) == (name, False)     # type: ignore[attr-defined]


@pytest.mark.parametrize(("take", "text", "said"), [
    (named_value, "0=liver", "VALUE=NAME"), (named_value, "32768=liver", "1 to 32767"), (named_value, "liver", "VALUE=NAME"),
    (coloured_value, "1=red", "VALUE=COLOUR")])
def test_an_option_that_is_none(take, text, said):
    with pytest.raises(argparse.ArgumentTypeError, match=f"got '{text}', allowed: .*{said}"):
        take(text)


def test_two_classes_that_a_file_system_could_not_tell_apart(session):
    config = base_config()
    config["datasets"]["CMR"]["labels"] = {"1": "a b", "2": "a_b"}
    with pytest.raises(InputError, match="names that differ in more than spaces and underscores"):
        check_config(config)
    with pytest.raises(InputError, match="got 'a b' and 'a_b', allowed: names that differ in more than spaces and underscores"):
        session.set_classes([{"value": k, "name": name, "colour": PALETTE[k]} for k, name in ((1, "a b"), (2, "a_b"))])
