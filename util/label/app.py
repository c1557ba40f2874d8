"""The HTTP requests of the labelling page. Each is a line of `ROUTES`; what it does is in session, run and export."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import qnet
from qnet.dataloaders.nifti import read_header
from qnet.dataloaders.outlines.formats import FORMATS
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.inputs import SMALL, parse_json
from qnet.util.clients.client import API, VERSION
from qnet.util.label.advice import Advisor
from qnet.util.label.export import export
from qnet.util.label.gate import FRAMELESS, POLICY_HEADER, REPORTS, Gate, TooLargeError, read_body
from qnet.util.label.report import REPORT, write_report
from qnet.util.label.run import Runner
from qnet.util.label.scribbles import Scribbles, grown
from qnet.util.label.session import ConflictError, MissingError, Session
from qnet.util.label.stored import Hand, OfClasses
from qnet.util.label.strokes import BYTES, unpack
from qnet.util.label.teaching import unfinished
from qnet.util.label.tools import Proposal, proposed
from qnet.util.viewer.niivue import LICENSE, NOTICES, SCRIPT, niivue_script
from qnet.util.viewer.shared import KEYS, THEME

T = TypeVar("T")
PAGE = Path(__file__).with_name("page")
FILES = {path.name: path for path in (*(PAGE / name for name in ("page.css", "page.js", "viewer.js", "requests.js", "slices.js",
                                                                 "judging.js")), KEYS, THEME)}
KINDS = {".css": "text/css", ".js": "text/javascript"}
ABOUT = "/api"
MAX_JSON = 2**16            # bytes of a body that is no label map
MAX_HEADER = 2**20          # bytes of a label map besides a byte for each voxel
STATUS: dict[type[Exception], int] = {MissingError: 404, ConflictError: 409, TooLargeError: 413}


def make_app(session: Session, runner: Runner, port: int, token: str, advisor: Advisor) -> ASGIApp:
    """Return the ASGI application.

    Args:
        port: of 127.0.0.1 that it answers at.
        token: `qnet.util.label.gate.Gate` explains it.
    Raises:
        InputError: NiiVue's file is not as it should be.
    """
    niivue_script()     # its check sum
    app = Starlette(routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in ROUTES],
                    exception_handlers={InputError: _refuse, OSError: _fail, HTTPException: _refuse_path,
                                        ClientDisconnect: _leave})
    app.state.session, app.state.runner, app.state.advisor = session, runner, advisor
    app.state.ticket = secrets.token_urlsafe(32)        # of no report yet
    return Gate(app, port, token)


async def _refuse(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, STATUS.get(type(error), 400))


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND and path.startswith(f"{ABOUT}/"):
        return JSONResponse({"error": _no_request(path)}, error.status_code)
    return JSONResponse({"error": error.detail}, error.status_code)


def _no_request(path: str) -> str:
    """Return why there is no answer at a path: it is of another version of the requests, or of none."""
    version = path.removeprefix(f"{ABOUT}/").partition("/")[0]
    if version == API.rpartition("/")[2]:
        return f"request: got {path[:200]}, allowed: those that GET {ABOUT} tells"
    return (f"version of the requests: got {version[:20]!r}, allowed: 'v{VERSION}', as the page and the clients of qnet "
            f"{qnet.__version__} send them")


async def _fail(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": in_utf8(f"could not be saved or read: {error}")}, 507)


def _session(request: Request) -> Session:
    return request.app.state.session


def _name(request: Request) -> str:
    return request.path_params["name"]


async def _leave(_request: Request, _error: Exception) -> Response:
    return Response()       # nobody is there to get it


async def _body(request: Request, schema: type[T]) -> T:
    """Return what the JSON in a request's body says.

    Raises:
        InputError: it is not as the schema.
    """
    return parse_json(await read_body(request, MAX_JSON), "body", schema, limits=SMALL, plain=True)


class Done(Struct, forbid_unknown_fields=True):
    """The body of `decide`."""

    done: bool


class Stroke(Struct, forbid_unknown_fields=True):
    """What a message of `stroke` says."""

    drawn: Annotated[int, Meta(ge=0, le=2**31)]
    stroke: Annotated[str, Meta(min_length=1, max_length=64)]
    slices: OfClasses | None


class LeftOut(Struct, forbid_unknown_fields=True):
    """The body of `leave_out`."""

    left_out: bool


class Flagged(Struct, forbid_unknown_fields=True):
    """The body of `flag`."""

    flagged: bool


class Labels(Struct, forbid_unknown_fields=True):
    """The body of `load`."""

    labels: str


class Classes(Struct, forbid_unknown_fields=True):
    """The body of `classes`."""

    classes: list[Any]


class Export(Struct, forbid_unknown_fields=True):
    """The body of `export`."""

    formats: list[str]


class Run(Struct, forbid_unknown_fields=True):
    """The body of `run`."""

    careful: bool


def page(_request: Request) -> Response:
    """Answer with the page."""
    return FileResponse(PAGE / "index.html", media_type="text/html")


def page_file(request: Request) -> Response:
    """Answer with a file of the page."""
    if (name := _name(request)) not in FILES:
        raise MissingError(f"page: got {name!r}, allowed: {', '.join(FILES)}")
    return FileResponse(FILES[name], media_type=KINDS[FILES[name].suffix])


def niivue(_request: Request) -> Response:
    """Answer with NiiVue's script."""
    return FileResponse(SCRIPT, media_type="text/javascript")


def niivue_license(_request: Request) -> Response:
    """Answer with NiiVue's licence."""
    return FileResponse(LICENSE, media_type="text/plain")


def notices(_request: Request) -> Response:
    """Answer with the notices of the libraries in NiiVue's file."""
    return FileResponse(NOTICES, media_type="text/plain")


def about(request: Request) -> Response:
    """Answer with what the server is, and which requests it takes."""
    requests = [f"{method} {API}{path}" for method, path, _ in REQUESTS]
    return JSONResponse({"program": "qnet", "version": qnet.__version__, "api": [VERSION], "requests": requests,
                         "formats": list(FORMATS), "folder": in_utf8(str(_session(request).folder))})


def state(request: Request) -> Response:
    """Answer with all that the page shows."""
    shown = _session(request).overview()
    return JSONResponse({**shown, "run": request.app.state.runner.as_json(),
                         "advice": request.app.state.advisor.as_json(shown["scans"])})


def image(request: Request) -> Response:
    """Answer with a scan as NIfTI."""
    return FileResponse(_session(request).image_file(_name(request)), media_type="application/octet-stream")


def picture(request: Request) -> Response:
    """Answer with the small picture of a scan; with nothing (204) if there is none yet."""
    content = _session(request).picture(_name(request))
    return Response(status_code=204) if content is None else Response(content, media_type="image/png")


def outlines(request: Request) -> Response:
    """Answer with the present outlines of a scan; with nothing (204) if there are none."""
    content = _session(request).outlines(_name(request))
    return Response(status_code=204) if content is None else Response(content, media_type="application/octet-stream")


async def draw(request: Request) -> Response:
    """Save the outlines of a scan as a whole, from another program."""
    session, name = _session(request), _name(request)
    drawn = request.query_params.get("drawn", "")
    if not drawn.isdecimal() or len(drawn) > 9:
        raise InputError(f"drawn: got {drawn[:20]!r}, allowed: the number that the page was given")
    content = await read_body(request, await _n_voxels(request) + MAX_HEADER)
    return JSONResponse({"drawn": await run_in_threadpool(session.draw, name, content, int(drawn))})


async def _n_voxels(request: Request) -> int:
    reference = await run_in_threadpool(_session(request).image_file, _name(request))
    return math.prod(read_header(reference).get_data_shape())


async def stroke(request: Request) -> Response:
    """Save a stroke: the voxels that changed, and which slices a person made."""
    content = await read_body(request, BYTES * await _n_voxels(request) + MAX_JSON)
    said, changes = unpack(content, Stroke)
    note = Hand(said.drawn, said.stroke, said.slices)
    return JSONResponse({"drawn": await run_in_threadpool(_session(request).change, _name(request), changes, note)})


async def propose(request: Request) -> Response:
    """Answer with the voxels that a tool would change. Nothing is saved: the page shows them, and sends them as a stroke."""
    body = await _body(request, Proposal)
    return Response(await run_in_threadpool(proposed, _session(request), _name(request), body),
                    media_type="application/octet-stream")


async def scribble(request: Request) -> Response:
    """Answer with the voxels that scribbles inside and outside of a class would change. Nothing is saved, as by `propose`."""
    content = await read_body(request, 2 * BYTES * await _n_voxels(request) + MAX_JSON)
    said, sent = unpack(content, Scribbles)
    return Response(await run_in_threadpool(grown, _session(request), _name(request), said, sent),
                    media_type="application/octet-stream")


async def decide(request: Request) -> Response:
    """Note whether the outlines of a scan are done."""
    body = await _body(request, Done)
    await run_in_threadpool(_session(request).decide, _name(request), body.done)
    return JSONResponse({})


async def leave_out(request: Request) -> Response:
    """Leave a scan out, or take it back."""
    body = await _body(request, LeftOut)
    await run_in_threadpool(_session(request).leave_out, _name(request), body.left_out)
    return JSONResponse({})


async def flag(request: Request) -> Response:
    """Mark a scan for a second look, or take that back."""
    body = await _body(request, Flagged)
    await run_in_threadpool(_session(request).flag, _name(request), body.flagged)
    return JSONResponse({})


def unfinished_classes(request: Request) -> Response:
    """Answer with a line for each class of an example that is not finished."""
    return JSONResponse({"unfinished": unfinished(_session(request))})


def files(request: Request) -> Response:
    """Answer with the files that may hold outlines."""
    return JSONResponse({"files": list(_session(request).label_files())})


async def load(request: Request) -> Response:
    """Take the outlines of a scan from a file of the folder."""
    session, labels = _session(request), (await _body(request, Labels)).labels
    found = await run_in_threadpool(session.label_files)
    if labels not in found:
        raise MissingError(f"labels: got {labels[:200]!r}, allowed: a file of outlines in {session.folder}")
    await run_in_threadpool(session.load, _name(request), found[labels])
    return JSONResponse({})


async def classes(request: Request) -> Response:
    """Take names and colours of the classes."""
    body = await _body(request, Classes)
    await run_in_threadpool(_session(request).set_classes, body.classes)
    return JSONResponse({})


async def run(request: Request) -> Response:
    """Begin to outline the other scans."""
    body = await _body(request, Run)
    await run_in_threadpool(request.app.state.runner.start, body.careful)
    return JSONResponse({}, 202)


def stop(request: Request) -> Response:
    """Stop outlining."""
    request.app.state.runner.stop()
    return JSONResponse({}, 202)


async def write_export(request: Request) -> Response:
    """Write what the person takes away, and answer where it is."""
    formats = (await _body(request, Export)).formats
    written = await run_in_threadpool(export, _session(request), list(dict.fromkeys(formats)))
    return JSONResponse({"folder": in_utf8(str(written.folder)), "files": written.files, "problems": written.problems})


def make_report(request: Request) -> Response:
    """Write a report of all outlines, and answer where it is: on disk, and for this browser at a path that nobody can guess."""
    path, ticket = write_report(_session(request)), secrets.token_urlsafe(32)
    request.app.state.ticket = ticket
    return JSONResponse({"file": in_utf8(str(path)), "path": REPORTS + ticket})


def report(request: Request) -> Response:
    """Answer with the last report, to who knows its path. It has a policy of its own, which lets it ask nothing of the server."""
    if not secrets.compare_digest(request.path_params["ticket"].encode(), request.app.state.ticket.encode()):
        raise MissingError("report: allowed: the path of the last one, as the labelling page has it")
    return Response(_session(request).export_folder.read(REPORT), media_type="text/html", headers={POLICY_HEADER: FRAMELESS})


REQUESTS: tuple[tuple[str, str, Callable[..., Any]], ...] = (      # of the version; docs/api.md explains each
    ("GET", "/state", state), ("GET", "/files", files), ("GET", "/unfinished", unfinished_classes), ("PUT", "/classes", classes),
    ("GET", "/scans/{name}/image", image), ("GET", "/scans/{name}/picture", picture),
    ("GET", "/scans/{name}/outlines", outlines),
    ("PUT", "/scans/{name}/outlines", draw), ("PATCH", "/scans/{name}/outlines", stroke),
    ("POST", "/scans/{name}/propose", propose), ("POST", "/scans/{name}/scribble", scribble),
    ("POST", "/scans/{name}/done", decide),
    ("POST", "/scans/{name}/left_out", leave_out), ("POST", "/scans/{name}/flag", flag), ("POST", "/scans/{name}/load", load),
    ("POST", "/run", run), ("POST", "/stop", stop), ("POST", "/export", write_export),
    ("POST", "/report", make_report),
)
ROUTES = (
    ("GET", "/", page), ("GET", "/page/{name}", page_file), ("GET", REPORTS + "{ticket}", report),
    ("GET", "/niivue.js", niivue), ("GET", "/niivue.LICENSE", niivue_license), ("GET", "/notices.txt", notices),
    ("GET", ABOUT, about), *((method, API + path, answer) for method, path, answer in REQUESTS),
)
