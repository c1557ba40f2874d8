"""Classes: what a class of outlines may be called, and which values and colours it may have.

Options, task files, the labelling page, reports and the preparation of data sets all ask here. A name is free text. Where that is
too free, it is escaped: by `file_name` for the names of files, by `in_figure` for figures. In an option, as "1=liver", it is all
that follows the first "=".
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MAX_VALUE = 2**15 - 1       # in a label file: label maps are int16
MAX_DRAWN = 255             # on the labelling page: NiiVue draws bytes
MAX_TRAINED = 254           # in a data set: its label maps are bytes, and episodes ignore 255
MAX_NAME = 100              # characters
NAME_RULE = f"a text of 1 to {MAX_NAME} characters, no control characters, not only spaces"
ALIKE_RULE = "names that differ in more than spaces and underscores"
COLOUR_RULE = "a colour as #e69f00"
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#b0b0b0",      # Okabe and Ito; then more
           "#e6194b", "#bfef45", "#911eb4", "#42d4f4", "#f032e6", "#469990", "#fabed4", "#4363d8")
ESCAPED = '/\\:"*?<>|'      # in names of files: what no system or only some allow there


def is_value(value: Any, most: int = MAX_VALUE) -> bool:
    """Return whether a number, or a text, is a value of a class: a whole number from 1 to `most`."""
    return re.fullmatch("[1-9][0-9]{0,4}", str(value)) is not None and int(value) <= most


def is_name(value: Any) -> bool:
    """Return whether a value may be the name of a class: NAME_RULE."""
    return isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable() and bool(value.strip())


def is_colour(value: Any) -> bool:
    """Return whether a value is a colour: COLOUR_RULE, in small or capital letters."""
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


def file_name(name: str) -> str:
    """Return the name of a class as file names have it: "L/R kidney" becomes "L%2FR_kidney"."""
    return "".join(f"%{ord(sign):02X}" if sign in ESCAPED else sign for sign in name.replace(" ", "_"))


def in_figure(name: str) -> str:
    """Return the name of a class for Matplotlib, which takes what stands between two $ for a formula."""
    return name.replace("$", r"\$")


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names of classes that would be the same in the names of files; None if there are none."""
    known: dict[str, str] = {}
    for name in names:
        if (file := file_name(name)) in known:
            return known[file], name
        known[file] = name
    return None


def default_name(value: int, taken: Collection[str] = ()) -> str:
    """Return the name of a class that nobody named: "label 7". If it is `taken` by another class, it is "label 7 (2)"."""
    name, files, number = f"label {value}", set(map(file_name, taken)), 1
    while file_name(name) in files:
        number += 1
        name = f"label {value} ({number})"
    return name


def colours_of(values: Iterable[int], given: Mapping[int, str] | None = None) -> dict[int, str]:
    """Return the colour of each value of a class, as "#e69f00".

    Values 1, 2, … have the colours of PALETTE in its order. A value has the next one if another class has its colour, as long as
    there are colours enough.

    Args:
        given: colours that some of the values have.
    """
    values, colours = list(values), dict(given or {})
    for value in sorted(set(values) - set(colours)):
        k = (value - 1) % len(PALETTE)
        in_order, taken = PALETTE[k:] + PALETTE[:k], set(colours.values())
        colours[value] = next((colour for colour in in_order if colour not in taken), PALETTE[k])
    return {value: colours[value] for value in values}


def named_value(text: str) -> tuple[int, str]:
    """Return the value and the name that VALUE=NAME of a command line gives, or raise ArgumentTypeError."""
    value, _, name = text.partition("=")
    if not is_value(value) or not is_name(name):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: VALUE=NAME, as 1=liver; VALUE from 1 to {MAX_VALUE}, "
                                         f"NAME {NAME_RULE}")
    return int(value), name


def coloured_value(text: str) -> tuple[int, str]:
    """Return the value and the colour that VALUE=COLOUR of a command line gives, or raise ArgumentTypeError."""
    value, _, colour = text.partition("=")
    if not is_value(value) or not is_colour(colour):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: VALUE=COLOUR, as 1=#e69f00; VALUE from 1 to {MAX_VALUE}, "
                                         f"COLOUR {COLOUR_RULE}")
    return int(value), colour.lower()
