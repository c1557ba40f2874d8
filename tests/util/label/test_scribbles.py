"""Scribbles inside and outside of a class: where the second one matters, what stays as it was, and how long it takes."""

import time

import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.label.scribbles import Scribbles, grown
from qnet.util.label.session import Session
from qnet.util.label.strokes import Changes, unpack
from tests.labelling import write_scans
from tests.toy import AFFINE, write
from tests.util.label.test_session import find
from tests.util.label.test_strokes import made, stroke

SHAPE = (8, 64, 64)
Z, Y, X = np.mgrid[:8, :64, :64]
SPACING_MM = np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1]
NONE = np.zeros(SHAPE, np.uint8)


def ball(row, column, radius_mm, z=4):
    ways = [(axis - at) * mm for axis, at, mm in zip((Z, Y, X), (z, row, column), SPACING_MM, strict=True)]
    return sum(way ** 2 for way in ways) <= radius_mm ** 2


ONE, OTHER = ball(32, 20, 22), ball(32, 44, 22)
BRIDGE = (np.abs(Y - 32) <= 3) & (X > 20) & (X < 44) & (np.abs(Z - 4) <= 1)       # of the same grey: without a border


@pytest.fixture
def session(tmp_path):
    """Two balls of one grey with a bridge between them, on another grey."""
    folder = write_scans(tmp_path / "scans", [1])
    image = np.where(ONE | OTHER | BRIDGE, 400, 100) + np.random.default_rng(0).normal(0, 10, SHAPE)
    write(folder / "a_1.nii.gz", image.astype(np.int16))
    session = Session(folder)
    session.set_classes([{"value": 1, "name": "liver", "colour": "#aa0000"}, {"value": 2, "name": "spleen", "colour": "#00aa00"}])
    yield session
    session.close()


def dot(row, column, z=4):
    """A click of a pen that is 3 voxels wide."""
    mask = np.zeros(SHAPE, bool)
    mask[z, row - 1:row + 2, column - 1:column + 2] = True
    return mask


def scribble(session, inside, outside=None, before=None, value=1):
    """The label map that scribbles make, and which slices they filled."""
    present, _ = session.present("a_1", session.saved("a_1"))
    marks = [np.flatnonzero(mask) for mask in (inside, np.zeros(SHAPE, bool) if outside is None else outside)]
    changed = np.flatnonzero(present != before) if before is not None else np.zeros(0, int)
    values = np.concatenate([*map(np.zeros_like, marks), before.reshape(-1)[changed] if before is not None else changed])
    sent = Changes(np.concatenate([*marks, changed]).astype(np.uint32), values.astype(np.uint8))
    asked = Scribbles(session.saved("a_1"), value, 0, *map(len, marks))
    said, changes = unpack(grown(session, "a_1", asked, sent), dict)
    return changes.applied(present), said["filled"]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_click_grows_to_the_border_in_3d_and_one_outside_stops_it_where_there_is_none(session):
    leaked, filled = scribble(session, dot(32, 20))
    assert not leaked[~(ONE | OTHER | BRIDGE)].any() and (leaked[OTHER] == 1).mean() > 0.3 and set(filled) >= {2, 3, 4, 5, 6}
    stroke(session, NONE, leaked, made([], filled))
    after, filled = scribble(session, dot(32, 20), dot(32, 44), before=NONE)
    assert dice(after == 1, ONE) > 0.9 and (after[OTHER] == 1).mean() < 0.1 and set(filled) >= {2, 3, 4, 5, 6}


def test_a_scribble_outside_takes_a_leak_away_from_what_was_found(session):
    find(session, "a_1", (ONE | OTHER | BRIDGE).astype(np.uint8))
    after, filled = scribble(session, dot(32, 20), dot(32, 44))
    assert dice(after == 1, ONE) > 0.9 and (after[OTHER] == 1).mean() < 0.1 and filled


def test_drawn_slices_and_other_classes_stay(session):
    """Slice 4 of the ball was drawn too small, and a slice of the other ball as the spleen."""
    drawn = NONE.copy()
    drawn[4][ball(32, 20, 14)[4]], drawn[4][OTHER[4]] = 1, 2
    stroke(session, NONE, drawn, {**made([4]), **made([4], value="2")})
    after, filled = scribble(session, dot(32, 20, z=3))
    assert (after[4] == drawn[4]).all() and 4 not in filled and dice(after[3][ONE[3]] == 1, ONE[3][ONE[3]]) > 0.9


def test_what_is_not_near_stays(session):
    far = NONE.copy()
    far[0, 60:63, 60:63] = 1
    stroke(session, NONE, far, made([0]))
    after, _ = scribble(session, dot(32, 20))
    assert (after[0] == far[0]).all() and (after[4] == 1).any()


@pytest.mark.parametrize(("inside", "outside", "voxels"), [(0, 1, [5]), (2, 0, [5]), (1, 0, [10**6]), (0, 0, [])])
def test_what_is_no_scribble_is_refused(inside, outside, voxels, session):
    sent = Changes(np.array(voxels, np.uint32), np.zeros(len(voxels), np.uint8))
    with pytest.raises(InputError, match="allowed"):
        grown(session, "a_1", Scribbles(0, 1, 0, inside, outside), sent)


def test_it_takes_less_than_half_a_second_in_a_large_scan(tmp_path):
    """The time of this process: others may be at work on the machine."""
    image = np.random.default_rng(0).normal(0, 1, (40, 256, 256)).astype(np.float32)
    write(tmp_path / "a_1.nii.gz", (100 * image).astype(np.int16), np.diag([0.7, 0.7, 1.0, 1]))
    session = Session(tmp_path)
    marks = [np.ravel_multi_index((20, 128, 100 + by), image.shape) for by in (0, 60)]
    sent = Changes(np.array(marks, np.uint32), np.zeros(2, np.uint8))
    grown(session, "a_1", Scribbles(0, 1, 0, 1, 1), sent)        # reads the scan
    begun = time.process_time()
    grown(session, "a_1", Scribbles(0, 1, 0, 1, 1), sent)
    assert time.process_time() - begun < 0.5
    session.close()
