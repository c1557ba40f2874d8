"""What every request to the labelling page passes: only this page, in a browser of this person, on this machine."""

from __future__ import annotations

import secrets
from http.cookies import SimpleCookie

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from util.base.errors import InputError

# NiiVue sets styles by script, which `style-src` does not forbid, and has its font as data: URLs. Its WebAssembly is for formats
# that are not used.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}
SAFE_METHODS = ("GET", "HEAD")


class TooLargeError(InputError):
    """The body of a request has too many bytes."""


class Gate:
    """ASGI middleware: asks for the right host, origin and token, and adds the headers that keep a browser in.

    A page elsewhere cannot pass: its requests carry another origin, its name, should it lead to this machine (DNS rebinding),
    is another host, and the cookie is not sent along (SameSite=Strict).

    Args:
        app: answers what passes.
        port: of 127.0.0.1.
        token: of the address that the person opens; a cookie from then on.
    """

    def __init__(self, app: ASGIApp, port: int, token: str):
        self.app, self.token = app, token
        self.host, self.origin = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"
        self.cookie = f"label-{port}"       # cookies of all ports of a host are in one jar

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        given = QueryParams(scope["query_string"]).get("token", "") if scope["path"] == "/" else ""
        refusal = self._refusal(scope, headers, given)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), keep=given if refusal is None else "")
            await send(message)

        await (self.app if refusal is None else JSONResponse({"error": refusal}, 403))(scope, receive, send_on)

    def _refusal(self, scope: Scope, headers: Headers, given: str) -> str | None:
        """Return why a request is refused; None if it passes."""
        origin = headers.get("origin")
        if headers.getlist("host") != [self.host]:
            return f"host: allowed: {self.host}"
        if origin is not None and origin != self.origin or origin is None and scope["method"] not in SAFE_METHODS:
            return f"origin: allowed: {self.origin}"
        if not (self._is_token(given) or self._is_token(self._in_cookie(headers))):
            return "token: open the address that label.sh printed when it started; each start has a new one"
        return None

    def _in_cookie(self, headers: Headers) -> str:
        jar = SimpleCookie()
        try:
            jar.load(headers.get("cookie", ""))
        except Exception:       # whatever a stranger sends is no token
            return ""
        return jar[self.cookie].value if self.cookie in jar else ""

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _add_headers(self, headers: MutableHeaders, keep: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        if keep:
            headers.append("Set-Cookie", f"{self.cookie}={keep}; HttpOnly; SameSite=Strict; Path=/")


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
