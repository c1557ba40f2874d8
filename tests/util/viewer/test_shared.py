"""The labelling page and reports have one key map and one palette."""

import re

import pytest

from qnet.util.base.classes import PALETTE
from qnet.util.label.app import PAGE
from qnet.util.results.report_page import SCRIPT, STYLE, TEMPLATE
from qnet.util.viewer.shared import KEYS, THEME

ACTIONS = {action: re.findall(r"'([^']+)'", keys)
           for action, keys in re.findall(r"'([^']+)': \[((?:'[^']+'(?:, )?)+)\]", KEYS.read_text(encoding="utf-8"))}
SCRIPTS = {"page": [PAGE / "page.js", PAGE / "viewer.js"], "report": [SCRIPT]}
HELP = {"page": PAGE / "index.html", "report": TEMPLATE}
STYLES = {"page": PAGE / "page.css", "report": STYLE}
SHOWN = {"ArrowLeft": "←", "ArrowRight": "→", "ArrowUp": "↑", "ArrowDown": "↓", "PageUp": "PgUp", "PageDown": "PgDn"}
BOTH = {"next scan", "scan before", "view", "outlines", "lines", "reset", "left", "right", "up", "down", "next slice",
        "slice before"}


def used(place):
    scripts = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS[place])
    return {action for action in ACTIONS if re.search(rf"""['"]{action}['"][:,\]]""", scripts)}


def test_a_key_means_one_thing_and_all_is_used():
    keys = [key for of_action in ACTIONS.values() for key in of_action]
    assert len(keys) == len({*keys}) > 30
    assert used("page") | used("report") == {*ACTIONS} and used("page") & used("report") == BOTH


@pytest.mark.parametrize("place", HELP)
def test_the_help_names_the_keys_and_no_other(place):
    """But for those of a browser, and digits, which stand for classes."""
    named = {*re.findall("<kbd>([^<]+)</kbd>", HELP[place].read_text(encoding="utf-8"))}
    keys = {SHOWN.get(key, key.upper()) for action in used(place) for key in ACTIONS[action][:1]}
    assert named - {"Ctrl", "Shift", "Enter", "Space", "Esc", "1", "9"} == keys


@pytest.mark.parametrize("place", STYLES)
def test_colours_are_those_of_the_theme_and_of_the_classes(place):
    variables = {*re.findall(r"(--[\w-]+):", THEME.read_text(encoding="utf-8"))}
    style = STYLES[place].read_text(encoding="utf-8")
    assert variables and not variables & {*re.findall(r"(--[\w-]+):", style)}
    assert len(variables & {*re.findall(r"var\((--[\w-]+)\)", style)}) > 5
    sources = style + "".join(path.read_text(encoding="utf-8") for path in (*SCRIPTS[place], HELP[place]))
    assert not [colour for colour in PALETTE if colour in sources.lower()]
