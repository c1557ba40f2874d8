"""What every request to the labelling page passes: only this page, in a browser of this person, on this machine."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qnet.util.base.errors import InputError
from qnet.util.clients.client import TOKEN_HEADER

# NiiVue sets styles by script, which `style-src` does not forbid, and has its font as data: URLs. Its WebAssembly is for formats
# that are not used.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
POLICY_HEADER = "Content-Security-Policy"
FRAMELESS = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"       # of a report, which has the rest in itself
REPORTS = "/report/"        # a report is opened by a link, which sends no token: its path is known to its page alone
HEADERS = {
    POLICY_HEADER: POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}
SAFE_METHODS = ("GET", "HEAD")


class TooLargeError(InputError):
    """The body of a request has too many bytes."""


class Gate:
    """ASGI middleware: asks for the right host, origin and token, and adds the headers that keep a browser in.

    The token is in the part of the address that no browser sends, and the page's own code sends it in a header. So no other page
    and no other server of this machine ever gets it: a cookie would go to every port of 127.0.0.1. A page elsewhere cannot pass:
    its requests carry another origin, its name, should it lead to this machine (DNS rebinding), is another host, and the header
    is one that a browser lets no other origin send. Without the token there is nothing but the page's code.

    Args:
        app: answers what passes.
        port: of 127.0.0.1.
        token: of the address that the person opens, behind "#token=".
    """

    def __init__(self, app: ASGIApp, port: int, token: str):
        self.app, self.token = app, token
        self.host, self.origin = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope, Headers(scope=scope))

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self.app if refusal is None else JSONResponse({"error": refusal}, 403))(scope, receive, send_on)

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        """Return why a request is refused; None if it passes."""
        origin, is_safe = headers.get("origin"), scope["method"] in SAFE_METHODS
        if headers.getlist("host") != [self.host]:
            return f"host: allowed: {self.host}"
        if (origin is not None and origin != self.origin) or (origin is None and not is_safe):
            return f"origin: allowed: {self.origin}"
        is_open = is_safe and (is_code(scope["path"]) or scope["path"].startswith(REPORTS))
        if not is_open and not self._has_token(headers):
            return "token: open the address that the program printed when it started"
        return None

    def _has_token(self, headers: Headers) -> bool:
        return secrets.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self.token.encode())


def is_code(path: str) -> bool:
    """Return whether a path is of the page's own code, the same for everybody, and of nobody's scans."""
    return path in ("/", "/niivue.js", "/niivue.LICENSE", "/notices.txt") or path.startswith("/page/")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Args:
        limit: largest number of bytes.
    Raises:
        TooLargeError: it has more, or says so. No more than that is read.
    """
    declared = request.headers.get("content-length", "0")
    content = bytearray()
    if not declared.isdecimal() or int(declared) > limit:
        raise TooLargeError(f"body: got {declared[:20]} bytes, allowed: at most {limit}")
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise TooLargeError(f"body: got more than {limit} bytes, allowed: at most {limit}")
    return bytes(content)
