"""The report of the page: what it tells, to whom the server gives it, and that no report of somebody else is written over."""

import csv
import json
from contextlib import closing

import pytest

from qnet.util.base.errors import InputError
from qnet.util.label.export import export
from qnet.util.label.gate import REPORTS
from qnet.util.label.report import write_report
from qnet.util.label.session import Session
from tests.labelling import drawing, head, nifti, refusal, send_raw, served, write_scans
from tests.toy import write

pytestmark = pytest.mark.usefixtures("warm")

ROW = {"label": 1, "label_name": "liver", "volume_ml": 12.0, "slices": 2, "confidence": 0.4, "outlined_ml": 10.0,
       "look_at": "20 20 3"}
MADE = {"by": "qnet 1", "from": "a_1"}


def labelled(folder):
    """A session with a scan that is outlined, one that was found, and one without outlines."""
    session = Session(write_scans(folder, [1, 2, 3]))
    session.draw("a_1", nifti(drawing()), 0)
    session.decide("a_1", True)
    target = session.target("a_2", 1)
    write(target, drawing())
    session.add_found("a_2", target, [ROW], MADE)
    session.flag("a_2", True)
    return session


def content_of(page):
    return json.loads(page.split('id="content">')[1].split("</script>")[0])


@pytest.mark.whole
def test_it_tells_of_each_scan_with_outlines_who_made_them_and_what_is_in_doubt(tmp_path):
    with served(labelled(tmp_path / "my scans")) as client:
        answer = client.tell("POST", "/api/v1/report")
        status, headers, page = send_raw(client, head(client, "GET", answer["path"], Label_Token=None, Origin=None))
        assert status == 200 and "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin" and page.decode() == (
            tmp_path / "my scans/label_page/export/report.html").read_text(encoding="utf-8")
        for path in (f"{REPORTS}another", answer["path"] + "x"):
            status, _, body = send_raw(client, head(client, "GET", path, Label_Token=None, Origin=None))
            assert status == 404 and "report: allowed" in refusal(status, body)
    content = content_of(page.decode())
    rows = {row["case"]: row for row in content["rows"]}
    assert rows["a_2"] == rows["a_2"] | {"state": "found", "flagged": "yes", "confidence": 0.4, "look_at": [20, 20, 3]}
    assert rows["a_2"]["of_outlined"] == pytest.approx(rows["a_2"]["volume_ml"] / 10) and rows["a_1"].get("confidence") is None
    assert set(rows) == {"a_1", "a_2"} and len(content["views"]) == 2
    assert content["facts"] == content["facts"] | {"outlined by hand": "a_1", "not looked through": "a_2", "flagged": "a_2",
                                                   "found": "by qnet 1, from a_1"}
    assert content["correction"]["command"] == f"qnet label '{tmp_path}/my scans'"


def test_a_report_of_somebody_else_is_not_written_over_and_there_is_none_of_nothing(tmp_path):
    with closing(Session(write_scans(tmp_path / "scans", [1]))) as session:
        with pytest.raises(InputError, match="report: no scan has outlines"):
            write_report(session)
        session.draw("a_1", nifti(drawing()), 0)
        path = session.export_folder.path / "report.html"
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(InputError, match=r"report.html: is there and was not made by this program"):
            write_report(session)
        assert path.read_text(encoding="utf-8") == "mine"


def test_marks_outlive_the_server_and_are_in_the_table_of_the_export(tmp_path):
    with closing(labelled(tmp_path)):
        pass
    with closing(Session(tmp_path)) as session:
        scans = {scan["name"]: scan for scan in session.overview()["scans"]}
        assert [scans[name]["flagged"] for name in ("a_1", "a_2", "a_3")] == [False, True, False] and scans["a_2"]["made"] == MADE
        session.decide("a_2", True)
        session.decide("a_1", False)        # no example, so no task file, which takes seconds
        with (export(session).folder / "cases.csv").open(encoding="utf-8") as file:
            assert {row["scan"]: (row["state"], row["flagged"]) for row in csv.DictReader(file)} == {
                "a_1": ("drawing", ""), "a_2": ("accepted", "yes")}
        session.flag("a_2", False)
        assert not any(scan["flagged"] for scan in session.overview()["scans"])
