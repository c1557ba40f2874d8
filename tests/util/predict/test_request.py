"""What is asked for: by options, from Python, and by the labelling page."""

from dataclasses import replace
from pathlib import Path

import pytest

from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST
from qnet.util.options.config import base_config, load_config
from qnet.util.options.sections import ModelOptions, PredictOptions, section
from qnet.util.predict.events import Begun, Failed, Finished, Outlined, Reading, Ready, StoneOutlined
from qnet.util.predict.outline import outline
from qnet.util.predict.plan import made_of
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.request import Query, Request, supports_of, untrained_method
from tests.toy import toy_case, write

OPTIONS = section(PredictOptions, base_config())


@pytest.mark.parametrize(("images", "labels", "pairs"), [("a", "b", 1), (["a", "c"], ["b", "d"], 2)])
def test_support_pairs(images, labels, pairs):
    found = supports_of(replace(OPTIONS, support_image=images, support_label=labels))
    assert found == ((Path("a"), Path("b")), (Path("c"), Path("d")))[:pairs]


@pytest.mark.parametrize(("images", "labels"), [(None, "b"), ("a", None), (None, None), (["a", "c"], "b")])
def test_unpaired_supports_are_refused(images, labels):
    with pytest.raises(InputError, match="support_image, support_label: got"):
        supports_of(replace(OPTIONS, support_image=images, support_label=labels))


def test_a_task_file_has_supports_of_its_own():
    assert supports_of(replace(OPTIONS, task="a.task")) == ()
    with pytest.raises(InputError, match="support_label: got 'b', allowed with a task file, which has its own: null"):
        supports_of(replace(OPTIONS, task="a.task", support_label="b"))


def test_every_way_has_the_stepping_stones_of_the_config_guided():
    n_stones = ModelOptions.of(load_config("guided")).n_stones
    of_folder = Request.of_folder("scans", [("a", "b")], "out", device="cpu")
    of_options = Request.of({**load_config("guided"), "precision": "float32", "support_image": "a", "support_label": "b",
                             "query": "scans", "output": "out"})
    assert n_stones > 0 and of_folder.stones is of_options.stones is None
    assert {one.method.model.n_stones for one in (of_folder, of_options)} == {n_stones}
    assert Predictor.untrained("guided", device="cpu").n_stones == untrained_method().model.n_stones == n_stones
    assert untrained_method("registration").model.n_stones == 0


def test_the_fingerprint_is_of_what_outlines_depend_on(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    request = Request.of_folder("scans", [(tmp_path / "a", tmp_path / "b")], "out", device="cpu")
    same = replace(request, output=Path("elsewhere"), queries=Path("others"), overwrite=True, anew=True)
    assert made_of(same) == made_of(request)
    assert Request.of_folder("x", [("a", "b")], "y", overwrite=True, device="cpu").options == request.options
    others = [replace(request, names={1: "liver"}), replace(request, supports=(*request.supports, *request.supports)),
              Request.of_folder("scans", request.supports, "out", fill=True, device="cpu"),
              Request.of_folder("scans", request.supports, "out", smooth_z=1.0, device="cpu")]
    assert len({made_of(one) for one in (request, *others)}) == 1 + len(others)


def test_what_happens_is_told_in_its_order_and_a_bad_scan_costs_only_itself(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / f"{number}.nii.gz", toy_case(number)[0])
    write(tmp_path / "labels.nii.gz", toy_case(1)[1])
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    quick = {**base_config()["registration"], "affine": False, "zoom": False, "finest": 3.0, "n_steps": 1}
    queries = tuple(Query(name, tmp_path / f"{name}.nii.gz", tmp_path / f"out/{name}.nii.gz") for name in ("bad", "2"))
    request = Request(untrained_method(device="cpu", registration=quick), queries,
                      ((tmp_path / "1.nii.gz", tmp_path / "labels.nii.gz"),), stones=(tmp_path / "3.nii.gz",), names={1: "liver"})
    events = list(outline(request))
    assert [type(event) for event in events] == [Reading, Ready, StoneOutlined, Begun, Failed, Begun, Outlined, Finished]
    assert (events[1].n_stones, events[1].n_waiting, events[1].n_kept) == (1, 2, 0) and events[2].stone == tmp_path / "3.nii.gz"
    assert events[4].query.name == "bad" and events[4].message.startswith(f"{tmp_path}/bad.nii.gz: ")
    assert not events[4].reason.startswith(str(tmp_path)) and events[6].rows[0]["label_name"] == "liver"
    assert events[7].outcome.summary().startswith(("1 of 2 scans are outlined", "0 of 2"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"2.nii.gz", LIST}      # no table, no report


def test_stones_are_spread_over_the_scans_and_one_that_cannot_be_read_is_left_out(tmp_path):
    for number in (1, 2, 3, 10):
        write(tmp_path / f"{number}.nii.gz", toy_case(number)[0])
    write(tmp_path / "labels.nii.gz", toy_case(1)[1])
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    predictor = Predictor.untrained("guided", device="cpu", registration={**base_config()["registration"], "stones": 3})
    with pytest.raises(InputError, match="add_support comes before add_stones"):
        predictor.add_stones([tmp_path / "2.nii.gz"])
    predictor.add_support(tmp_path / "1.nii.gz", tmp_path / "labels.nii.gz")
    predictor.add_stones([tmp_path / f"{name}.nii.gz" for name in ("2", "3", "bad", "10", "1")])
    assert [path.name for path in predictor.stones] == ["2.nii.gz", "1.nii.gz"]
