"""Strokes that are sent as differences: what is saved, sent twice, sent late, sent wrong; and the tools that only propose one."""

import json

import nibabel
import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.label.session import ConflictError, Session
from qnet.util.label.stored import Hand, Slices
from qnet.util.label.strokes import Changes, changes_between, pack, unpack
from qnet.util.label.teaching import example, lend_examples, unfinished
from qnet.util.label.tools import Proposal, proposed
from tests.labelling import drawing, nifti, refusal, served, write_scans
from tests.toy import AFFINE, write
from tests.util.label.test_session import find

SAID = {"drawn": 0, "stroke": "a", "slices": None}
SPACING_MM = np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1]
NONE = np.zeros_like(drawing())


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "scans", [1, 2])


@pytest.fixture
def session(folder):
    session = Session(folder)
    session.set_classes([{"value": 1, "name": "liver", "colour": "#aa0000"}, {"value": 2, "name": "spleen", "colour": "#00aa00"}])
    yield session
    session.close()


def made(drawn=(), filled=(), axis="0", value="1"):
    return {value: {axis: Slices(list(drawn), list(filled))}}


def stroke(session, before, after, slices=None, name="a_1", stroke="one"):
    return session.change(name, changes_between(before, after), Hand(session.saved(name), stroke, slices))


def hand(session, name="a_1"):
    return np.asarray(nibabel.load(session.hand_file(name)).dataobj).T


def propose(session, tool, name="a_1", **asked):
    """The label map that a tool makes, and which slices it filled."""
    said, changes = unpack(proposed(session, name, Proposal(session.saved(name), tool, **{"value": 1, **asked})), dict)
    return changes.applied(session.present(name, session.saved(name))[0]), said["filled"]


def test_a_stroke_is_what_changes(session):
    assert stroke(session, NONE, drawing(), made([3, 4])) == 1
    assert (hand(session) == drawing()).all()
    further = drawing(2, slice(5, 6)) + drawing()
    assert stroke(session, drawing(), further, {**made([3, 4]), **made([5], value="2")}, stroke="two") == 2
    assert (hand(session) == further).all()
    (first, _) = sorted(session.overview()["scans"], key=lambda scan: scan["name"])
    assert first["slices"] == {"1": {"0": {"drawn": [3, 4], "filled": []}}, "2": {"0": {"drawn": [5], "filled": []}}}


def test_strokes_go_on_after_a_kill(session):
    """The page sends a stroke again whose answer it did not get, and goes on counting where it was."""
    stroke(session, NONE, drawing(), made([3, 4]))
    session.close()
    again = Session(session.folder)
    late = changes_between(NONE, drawing())
    assert again.change("a_1", late, Hand(0, "one", made([3, 4]))) == 1
    assert again.change("a_1", changes_between(drawing(), NONE), Hand(1, "two", {})) == 2
    with pytest.raises(ConflictError, match="another window"):
        again.change("a_1", late, Hand(1, "three", {}))
    again.close()


def test_a_stroke_on_what_was_found_and_back(session):
    find(session, "a_1", drawing())
    stroke(session, drawing(), drawing(slices=slice(3, 6)), made([5]))
    assert session.state_of("a_1") == "correcting"
    stroke(session, drawing(slices=slice(3, 6)), drawing(), {}, stroke="two")
    assert session.state_of("a_1") == "found"
    stroke(session, drawing(), drawing(), made([3]), stroke="three")
    assert session.state_of("a_1") == "correcting"      # to say that a slice is right is work by hand


def test_outlines_of_another_editor_are_no_longer_known_by_slices(session):
    stroke(session, NONE, drawing(), made([3]))
    session.close()
    session.hand_file("a_1").write_bytes(nifti(drawing(slices=slice(2, 6))))
    again = Session(session.folder)
    assert [scan["slices"] for scan in again.overview()["scans"] if scan["name"] == "a_1"] == [None]
    again.close()


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda good: good[:-1], "allowed: a length"),
    (lambda good: b"", "allowed: a length"),
    (lambda good: b"\xff\xff\xff\xff" + good[4:], "allowed: a length"),
    (lambda good: pack({"drawn": 0}, Changes(np.array([1]), np.array([1]))), "stroke"),
    (lambda good: pack({**SAID, "slices": {"1": {"7": {}}}}, Changes(np.array([1]), np.array([1]))), "slices"),
    (lambda good: pack(SAID, Changes(np.array([10**6]), np.array([1]))), "allowed: less than"),
    (lambda good: pack(SAID, Changes(np.array([5]), np.array([9]))), "hold the value 9"),
])
def test_what_is_no_stroke_is_refused_and_changes_nothing(spoil, said, folder):
    with served(Session(folder)) as client:
        good = pack({"drawn": 0, "stroke": "a", "slices": {}}, changes_between(NONE, drawing()))
        assert said in refusal(*client.ask("PATCH", "/api/v1/scans/a_1/outlines", spoil(good)))
        assert client.scan("a_1")["state"] == "empty"
        assert client.ask("PATCH", "/api/v1/scans/a_1/outlines", good) == (200, b'{"drawn":1}')
        assert client.ask("PATCH", "/api/v1/scans/a_1/outlines", good) == (200, b'{"drawn":1}')      # sent again


def test_fill_copy_and_mend(session):
    apart = drawing(slices=slice(1, 2)) + drawing(slices=slice(4, 5))
    stroke(session, NONE, apart, made([1, 4]))
    filled, numbers = propose(session, "fill", slices=[1, 4])
    assert numbers == [2, 3] and (filled == drawing(slices=slice(1, 5))).all() and (hand(session) == apart).all()
    copied, _ = propose(session, "copy", slice=6)
    assert (copied == apart + drawing(slices=slice(6, 7))).all()
    holed = drawing(slices=slice(2, 5))
    holed[:, 18:22, 18:22], holed[7, 50:52, 50:52] = 0, 1
    stroke(session, apart, holed, made([2, 3, 4]), stroke="two")
    largest, _ = propose(session, "largest")
    assert not largest[7].any() and (largest[:7] == holed[:7]).all()
    whole, _ = propose(session, "holes")
    assert (whole[2:5] == drawing(slices=slice(2, 5))[2:5]).all()
    smooth, _ = propose(session, "smooth")
    assert 0 < (smooth != holed).sum() < holed.sum() / 2 and not smooth[7].any()


def test_slices_of_a_found_class_follow_a_corrected_one_once(session):
    """The square is found too small; one slice is corrected, then another. What follows starts from what was found each time."""
    found = NONE.copy()
    found[1:7, 14:26, 14:26] = 1
    find(session, "a_1", found)
    before, drawn, filled = found, [], []
    for number in (3, 5):
        corrected = before.copy()
        corrected[number] = drawing(slices=slice(number, number + 1))[number]
        drawn.append(number)
        stroke(session, before, corrected, made(drawn, filled), stroke=f"drawn {number}")
        before, followed = propose(session, "fill", slices=drawn)
        filled = sorted({*filled, *followed} - {*drawn})
        stroke(session, corrected, before, made(drawn, filled), stroke=f"followed {number}")
    sizes = (before == 1).sum(axis=(1, 2))
    assert filled == [1, 2, 4, 6] and sizes[3] == sizes[5] == 400 and sizes[0] == sizes[7] == 0
    assert (sizes[[1, 2, 4, 6]] > 200).all() and (sizes <= 400).all() and sizes[2] > sizes[1]       # 144 before
    session.decide("a_1", True)
    taught, told = example(session, "a_1")
    assert not taught.any() and "nobody looked at 3 of its 6 slices" in told[0]       # the one between was filled
    stroke(session, before, before, made(range(1, 7)), stroke="looked at")
    assert (example(session, "a_1")[0] == before).all()


def test_a_class_grows_to_the_border_of_what_looks_like_it_in_3d(folder):
    """A ball of another grey: one slice of it is drawn."""
    z, y, x = np.mgrid[:8, :64, :64]
    away = ((z - 4) * SPACING_MM[0]) ** 2 + ((y - 30) * SPACING_MM[1]) ** 2 + ((x - 30) * SPACING_MM[2]) ** 2
    ball = away <= 24 ** 2
    image = np.where(ball, 400, 100) + np.random.default_rng(0).normal(0, 10, ball.shape)
    write(folder / "ball.nii.gz", image.astype(np.int16))
    again = Session(folder)
    one = np.where(ball & (z == 4), 1, 0).astype(np.uint8)
    stroke(again, NONE, one, made([4]), name="ball")
    grown, filled = propose(again, "grow", name="ball", slices=[4])
    near = np.s_[3:6]       # within 12 mm
    assert (grown[near] == 1).sum() > 0.85 * ball[near].sum() and not (grown[~ball] == 1).any() and (grown[4] >= one[4]).all()
    assert filled == [3, 5]
    again.close()


def test_tools_leave_what_a_person_drew_of_other_classes_and_not_what_was_found(session):
    other = NONE.copy()
    other[:, 15:25, 15:25] = 2
    find(session, "a_1", other)
    both = np.maximum(other, drawing(slices=slice(1, 2)) + drawing(slices=slice(5, 6)))
    both[1][drawing()[3] > 0] = both[5][drawing()[3] > 0] = 1
    stroke(session, other, both, {**made([1, 5]), **made([3], value="2")})
    filled, _ = propose(session, "fill", slices=[1, 5])
    assert (filled[3, 15:25, 15:25] == 2).all() and (filled[2, 15:25, 15:25] == 1).all()


@pytest.mark.parametrize(("asked", "said"), [
    ({"tool": "fill"}, "no slice between two drawn ones"), ({"tool": "fill", "slices": [3]}, "no slice between"),
    ({"tool": "copy"}, "No other slice"), ({"tool": "grow"}, "no voxel to grow from"),
    ({"tool": "fill", "slices": [99]}, "allowed: less than 8"),
    ({"tool": "paint"}, "tool"), ({"tool": "fill", "axis": 3}, "axis"), ({"tool": "fill", "value": 0}, "value")])
def test_a_tool_without_anything_to_work_on_says_so(asked, said, folder):
    with served(Session(folder)) as client:
        assert said in refusal(*client.ask("POST", "/api/v1/scans/a_1/propose", {"drawn": 0, "value": 1, **asked}))
        assert client.ask("POST", "/api/v1/scans/a_1/propose", {"drawn": 7, "value": 1, "tool": "smooth"})[0] == 409


def test_only_finished_classes_teach_and_the_others_are_named(session, tmp_path):
    """The liver was found and a slice of it corrected; the spleen is drawn with a gap."""
    found = drawing(1, slice(0, 6))
    find(session, "a_1", found)
    after = found.copy()
    after[2:8:2, 40:50, 40:50] = 2
    after[1, 12:14, 12:14] = 0
    stroke(session, found, after, {**made([1]), **made([2, 4, 6], value="2")})
    session.decide("a_1", True)
    taught, told = example(session, "a_1")
    assert not (taught == 1).any() and (taught == 2).any(axis=(1, 2)).tolist() == [False, False, *5 * [True], False]
    assert told == unfinished(session) == [
        "a_1: liver: nobody looked at 5 of its 6 slices; "
        "it is no example of this class until you draw them or say that they are right",
        "a_1: spleen: 2 slices between drawn ones are left out; the run fills them by shape"]
    ((name, path),) = lend_examples(session, tmp_path)
    assert name == "a_1" and (taught == np.asarray(nibabel.load(path).dataobj).T).all()
    stroke(session, after, after, {**made(range(7)), **made([1, 2, 4, 6, 7], [3, 5], value="2")}, stroke="looked at")
    assert example(session, "a_1")[1] == [] and (example(session, "a_1")[0] == after).all()


def test_a_class_of_one_slice_or_of_none_is_named_and_teaches(session):
    one = drawing(slices=slice(3, 4))
    stroke(session, NONE, one, made([3]))
    session.decide("a_1", True)
    taught, told = example(session, "a_1")
    assert told == ["a_1: liver: is drawn in 1 slice only", "a_1: spleen: nothing is drawn"] and (taught == one).all()


def test_a_class_that_ends_wide_is_named_until_its_end_is_told(session):
    """Drawn from 2 to 5, where it is as wide as anywhere; slice 1 was said to be empty."""
    wide = drawing(slices=slice(2, 6))
    wide[5, 10:12] = 0      # a tenth less
    stroke(session, NONE, wide, made([1, 2, 3, 4, 5]))
    session.decide("a_1", True)
    taught, (told, _) = example(session, "a_1")
    assert told == ("a_1: liver: is still wide in the last slice that is drawn (90 % of the widest); draw on, or say that the "
                    "next slice is right without it") and (taught == wide).all()
    stroke(session, wide, wide, made([1, 2, 3, 4, 5, 6]), stroke="two")
    assert not any("liver" in line for line in unfinished(session))


def test_outlines_as_a_whole_teach_as_a_whole(session):
    session.draw("a_1", nifti(drawing(slices=slice(1, 6))), 0)
    session.decide("a_1", True)
    assert unfinished(session) == [] and example(session, "a_1")[0].any(axis=(1, 2)).sum() == 5


def test_a_damaged_note_of_slices_costs_nothing_else(session):
    stroke(session, NONE, drawing(), made([3]))
    session.close()
    note = session.path / "hand/a_1.json"
    for content in (b"none", json.dumps({"saved": -1}).encode(), b"[]"):
        note.write_bytes(content)
        again = Session(session.folder)
        assert again.state_of("a_1") == "drawing" and again.present("a_1", 0)[1].slices is None
        again.close()


def test_slices_that_the_scan_does_not_have_are_passed_over(session):
    stroke(session, NONE, drawing(), made([3, 4, 900]))
    session.decide("a_1", True)
    assert (example(session, "a_1")[0] == drawing()).all()
    with pytest.raises(InputError, match="no slice between"):
        propose(session, "fill", slices=[3, 4])
