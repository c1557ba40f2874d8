from dataclasses import replace

import numpy as np
import pytest
import torch

from qnet.models.registration import PreparedScan
from qnet.models.volume import outlines_of
from qnet.scripts.tables.organ_sets import from_each
from qnet.scripts.tables.organ_sets.cases import sets_in
from qnet.scripts.tables.organ_sets.from_each import Alone, Together, carried
from qnet.scripts.tables.which_first import Found, chaos_parts, row_of_first, row_of_second
from qnet.util.base.errors import InputError
from qnet.util.predict.first_scan import Comparison
from tests.settings import REGISTRATION, STEPS
from tests.toy import toy_case, toy_volume, write

COMPARISON = Comparison(["a", "b", "c"], [[0, 1, 2], [1, 0, 1], [2, 1, 0]], 3)


def test_the_first_scan_by_hand():
    dice = {"a": {"b": 0.9, "c": 0.5}, "b": {"a": 0.8, "c": 0.7}, "c": {"a": 0.6, "b": 0.9}}
    row = row_of_first(Found("hippocampus", dice, COMPARISON, {}))      # means: a 0.7, b 0.9, c 0.6
    assert row[:7] == ["hippocampus", "yes", "3", "0.900", "0.733", "0.900", "0.600"] and row[7] == "1 of 3"
    assert float(row[8]) == pytest.approx(0.87, abs=0.01)       # a and c are as unlike the others


def test_the_second_scan_by_hand():
    """Four scans, each pair as good as its letters say; from each first one, d is the least certain."""
    worth = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}

    def of_query(query):
        others = [name for name in worth if name != query]
        pairs = {f"{one} {other}": worth[one] + worth[other] for one in others for other in others if one < other}
        confidence = 0.1 if query == "d" else 0.9 - worth[query]
        return Together("", dict.fromkeys(others, 0.05), dict.fromkeys(others, confidence), pairs)

    found = Found("spine", {}, Comparison(list("abcd"), (1 - np.eye(4)).tolist(), 4), {name: of_query(name) for name in worth})
    row = row_of_second(found)
    # from a, b and c the second is d, and two queries are left for each; from d it is c, and a and b are left
    named = np.mean([*[worth[first] + 0.4 for first in "aabbcc"], 0.7, 0.7])
    anyone = [np.mean([worth[first] + worth[second] for second in "abcd" if second not in (first, query)])
              for first, query in ("ab", "ac", "ba", "bc", "ca", "cb", "da", "db")]
    assert row == ["spine", "8", "0.050", f"{named:.3f}", f"{np.mean(anyone):.3f}"]


def test_outlines_are_carried_to_the_same_scan_where_they_were():
    volume = toy_volume(1)
    scan = PreparedScan(torch.from_numpy(volume.image), volume.spacing_mm, replace(REGISTRATION, **STEPS))
    masks = torch.from_numpy(np.stack([volume.label_map == label for label in (1, 2)]))
    found = carried(scan, outlines_of(scan, masks))
    assert found.shape == masks.shape and ((found > 0.5) == masks.numpy()).mean() > 0.99


def test_what_was_made_of_the_same_is_kept(tmp_path):
    for number in (1, 2):
        image, label_map, _ = toy_case(number)
        write(tmp_path / f"set/images/{number}.nii.gz", image)
        write(tmp_path / f"set/labels/{number}.nii.gz", label_map)
    (organs,), asked = sets_in(tmp_path / "set"), []

    def scored(volumes, labels, k, made_from):
        asked.append((len(volumes), list(labels), k))
        return Alone(made_from, {"other": 0.5})

    for _ in range(2):
        found = from_each._of_each(organs.cases, tmp_path / "out/alone", Alone, scored)
        assert {name: of_query.dice for name, of_query in found.items()} == {"1": {"other": 0.5}, "2": {"other": 0.5}}
    assert asked == [(2, [1, 2, 3, 4], 0), (2, [1, 2, 3, 4], 1)]
    (tmp_path / "out/alone/2.json").write_text("damaged", encoding="utf-8")
    from_each._of_each(organs.cases, tmp_path / "out/alone", Alone, scored)
    assert len(asked) == 3
    write(tmp_path / "set/labels/1.nii.gz", (toy_case(1)[1] > 0).astype(np.uint8))
    from_each._of_each(organs.cases, tmp_path / "out/alone", Alone, scored)
    assert asked[3:] == [(2, [1, 2, 3, 4], 0), (2, [1, 2, 3, 4], 1)]


def test_chaos_is_two_sets(tmp_path):
    folder = tmp_path / "chaos_MR_T2_normalized"
    folder.mkdir()
    for number in range(20):
        for kind in ("image", "label"):
            (folder / f"{kind}_{number}.nii.gz").touch()
    inside, others = chaos_parts(tmp_path)
    assert [case.name for case in inside.cases] == [str(number) for number in range(4, 13)] and len(others.cases) == 11
    for number in range(5, 20):
        (folder / f"image_{number}.nii.gz").unlink()
    with pytest.raises(InputError, match=r"^--chaos: 5 cases in .*; allowed: the twenty of CHAOS-T2$"):
        chaos_parts(tmp_path)
