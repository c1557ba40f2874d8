"""The requests of the server are those of docs/api.md, in one version."""

import re

import pytest

import qnet
from qnet.dataloaders.outlines.formats import FORMATS, NIFTI
from qnet.util.base.root import ROOT
from qnet.util.label.app import REQUESTS, ROUTES, Classes, Done, Export, Flagged, Labels, LeftOut, Run, Stroke
from qnet.util.label.scribbles import Scribbles
from qnet.util.label.session import Session
from qnet.util.label.tools import Proposal
from tests.labelling import drawing, nifti, refusal, served, write_scans

TEXT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
HEADING = r"^### `([A-Z]+ /api\S*)`$"
SECTIONS = dict(zip(re.findall(HEADING, TEXT, re.MULTILINE), re.split(HEADING, TEXT, flags=re.MULTILINE)[2::2], strict=True))
BODIES = {"PUT /classes": Classes, "PATCH /scans/{name}/outlines": Stroke, "POST /scans/{name}/propose": Proposal,
          "POST /scans/{name}/scribble": Scribbles,
          "POST /scans/{name}/done": Done, "POST /scans/{name}/left_out": LeftOut, "POST /scans/{name}/flag": Flagged,
          "POST /scans/{name}/load": Labels,
          "POST /run": Run, "POST /export": Export}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with served(Session(write_scans(tmp_path_factory.mktemp("scans"), [1]))) as client:
        yield client


def test_each_request_is_documented_and_no_other(client):
    assert list(SECTIONS) and {*SECTIONS} == {f"{method} {path}" for method, path, _ in ROUTES if path.startswith("/api")}
    assert {*client.tell("GET", "/api")["requests"]} == {*SECTIONS} - {"GET /api"}


def test_bodies_have_the_keys_that_are_documented():
    assert {*BODIES} == {f"{method} {path}" for method, path, _ in REQUESTS if method != "GET"} - {
        "POST /stop", "POST /report", "PUT /scans/{name}/outlines"}     # they have no body, or it is a label map
    for request, schema in BODIES.items():
        body = re.search(r"Body.*?Answer", SECTIONS[request.replace(" ", " /api/v1")], re.DOTALL)[0]
        assert {*schema.__struct_fields__} <= {*re.findall(r"`(\w+)`", body)}, request


@pytest.mark.parametrize(("path", "inner"), [("/api", []), ("/api/v1/state", ["scans", "run", "classes", "advice"]),
                                             ("/api/v1/files", []), ("/api/v1/unfinished", [])])
def test_answers_have_the_keys_that_are_documented(path, inner, client):
    answer = client.tell("GET", path)
    keys = {*answer}.union(*(one for key in inner for one in (answer[key] if isinstance(answer[key], list) else [answer[key]])))
    documented = {*re.findall(r"`(\w+)`", SECTIONS[f"GET {path}"].partition("Answer:")[2])} - {"label_page"}
    assert keys == documented


def test_it_tells_what_it_is(client):
    about = client.tell("GET", "/api")
    assert (about["program"], about["version"], about["api"], about["formats"]) == ("qnet", qnet.__version__, [1], list(FORMATS))


@pytest.mark.parametrize("path", ["/api/v2/state", "/api/state", "/api/v11/state", "/api/v1x/state"])
def test_another_version_is_refused_in_one_line(path, client):
    status, body = client.ask("GET", path)
    got = path.split("/")[2]
    assert status == 404 and refusal(status, body) == (
        f"version of the requests: got '{got}', allowed: 'v1', as the page and the clients of qnet {qnet.__version__} send them")


def test_an_unknown_request_of_this_version_is_refused(client):
    said = refusal(*client.ask("POST", "/api/v1/nothing", {}))
    assert said == "request: got /api/v1/nothing, allowed: those that GET /api tells"


def test_the_page_sends_the_same_requests_and_offers_the_same_formats():
    script = (ROOT / "util/label/page/requests.js").read_text(encoding="utf-8")
    sent = {(method, path) for method, path in re.findall(r"'(GET|PUT|POST)', '(/api[^']*)'", script)}
    of_scans = {(method, f"/api/v1/scans/{{name}}/{what}")
                for method, what in re.findall(r"'(PATCH|POST)', ofScan\(name, '(\w+)'\)", script)}
    got = {("GET", f"/api/v1/scans/{{name}}/{what}") for what in re.findall(r"bytes\(ofScan\(name, '(\w+)'\)\)", script)}
    unused = {"GET /api", "PUT /api/v1/scans/{name}/outlines"}       # for other programs
    assert {f"{method} {path}" for method, path in sent | of_scans | got} == {*SECTIONS} - unused
    page = (ROOT / "util/label/page/index.html").read_text(encoding="utf-8")
    offered = re.findall(r'type="checkbox" value="([^"]+)"', page.partition('id="formats"')[2].partition("</details>")[0])
    assert offered == [one for one in FORMATS if one != NIFTI]


@pytest.mark.parametrize(("body", "said"), [
    ({"formats": ["tiff"]}, f"formats: got 'tiff', allowed: {', '.join(FORMATS)}"), ({}, "formats"),
    ({"formats": "stl"}, "formats"), ({"formats": [1]}, "formats"), ({"formats": [], "more": 1}, "more"), (None, "body"),
])
def test_bodies_of_an_export_that_are_refused(body, said, client):
    status, answer = client.ask("POST", "/api/v1/export", body)
    assert status == 400 and said in refusal(status, answer)


def test_a_format_that_is_asked_for_twice_is_written_once(client):
    client.draw("a_1", nifti(drawing()))
    assert client.export(["seg.nrrd", "seg.nrrd", "nifti"])["files"] == ["a_1.nii.gz", "a_1.seg.nrrd", "cases.csv"]
