"""The person who outlines on the page in the place of a hand: what he does, and what is counted."""

import numpy as np
import pytest

from qnet.scripts.tables.label_person import Labour, Person, is_right, next_worth
from qnet.util.engine.metrics import dice
from qnet.util.label.session import Session
from tests.labelling import served
from tests.toy import AFFINE, write

ROWS, COLUMNS = np.mgrid[:64, :64]
RADII = (0, 0, 8, 11, 13, 14, 15, 15, 14, 13, 11, 8, 0, 0)      # of a class in each slice


def discs(*less):
    """A class that is found so much too small in each slice, (D, H, W) uint8."""
    distance_px = np.hypot(ROWS - 32, COLUMNS - 32)
    radii = [radius - by for radius, by in zip(RADII, less or [0] * len(RADII), strict=True)]
    return np.stack([distance_px < radius for radius in radii]).astype(np.uint8)


@pytest.fixture
def session(tmp_path):
    write(tmp_path / "a.nii.gz", (100 * discs()).astype(np.int16), AFFINE)
    return Session(tmp_path)


@pytest.fixture
def client(session):
    with served(session) as client:
        yield client


def find(session, label_map):
    """Take in what a run found, with slice 6 as the one to look at first."""
    target = session.target("a", 1)
    write(target, label_map, AFFINE)
    row = {"label": 1, "label_name": "disc", "slices": 10, "confidence": 0.5, "look_at": "30 30 6"}
    session.add_found("a", target, [row])


def outlined(client, *, by_all=False):
    """Let a person go through the scan, and return its outlines, his labour, and which slices he drew or looked at."""
    labour = Labour()
    person = Person(client, "a", discs(), labour)
    person.outline_all() if by_all else person.outline()
    return client.present("a", discs().shape), labour, client.scan("a")["slices"]["1"]["0"]


def test_a_first_scan_by_the_middle_slice_and_every_third_to_both_ends(client):
    found, labour, slices = outlined(client)
    assert slices["drawn"] == [1, 4, 7, 10, 13] and labour.looks == 5 and labour.strokes == 3       # two of them are empty
    assert dice(found, discs()) > 0.9 and client.get("GET", "/api/v1/unfinished") == b'{"unfinished":[]}'
    px = sum(np.pi * 2 * RADII[number] for number in (4, 7, 10))
    assert labour.seconds == pytest.approx(5 * 6 + px / 100, rel=0.1)


def test_the_baseline_draws_every_slice(client):
    found, labour, slices = outlined(client, by_all=True)
    assert (found == discs()).all() and slices["drawn"] == [*range(2, 12)] and labour.strokes == labour.looks == 10


def test_a_correction_begins_where_the_page_opens_and_what_follows_needs_no_stroke(client, session):
    """The class is found 4 pixels too small everywhere: one stroke mends the slices beside it."""
    find(session, discs(*[4] * len(RADII)))
    found, labour, slices = outlined(client)
    assert 6 in slices["drawn"] and labour.strokes < labour.looks == len(slices["drawn"])
    assert dice(found, discs()) > 0.95 > dice(discs(*[4] * len(RADII)), discs())


def test_what_is_right_costs_looks_alone(client, session):
    find(session, discs())
    found, labour, _ = outlined(client)
    assert (found == discs()).all() and labour.strokes == 0 < labour.looks
    assert labour.seconds == 6 * labour.looks


def test_an_end_that_was_found_too_far_is_emptied_and_the_rest_of_it_follows(client, session):
    too_far = discs()
    too_far[12:] = too_far[11]
    find(session, too_far)
    found, labour, _ = outlined(client)
    assert not found[12:].any() and labour.strokes <= 2


@pytest.mark.parametrize(("found", "truth", "right"), [
    (5, 5, True), (0, 0, True), (6, 5, True), (3, 5, False), (5, 0, False), (0, 5, False)])
def test_a_slice_is_right_if_it_is_nearly_so(found, truth, right):
    assert is_right(discs()[found] > 0, discs()[truth] > 0) == right


def test_the_next_slice_as_the_page_has_it():
    """tests/util/label/test_page.py compares more of them with the page's own."""
    assert next_worth(["drawn", *["empty"] * 4], 0) == 3 and next_worth(["empty"] * 4, 1) is None
