"""The platform's edge: a reverse proxy that cuts, buffers and replaces what an app answers.

    python -m tests.doubles.edge --port 8443 --target http://127.0.0.1:7860

It is the worse of the platform's two eras in each respect: a deadline for the whole response, as
Envoy Gateway sets it, and the buffers, body limit and 503 page of ingress-nginx.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount

from tests.doubles import serve
from tests.doubles.serve import Cut, Stream

BUFFER = 64 * 1024
OF_ONE_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip


class Edge:
    """The proxy in front of `target`, a URL; all attributes can be changed while it runs.

    deadline_s: seconds after the request came at which the response ends: 504 when no header was
    sent yet, else the connection closes in mid-body. None waits for ever.
    buffer: a response is held back until it is complete or has 64 KiB, unless its header
    `X-Accel-Buffering: no` forbids it; ignore_accel holds it back even then.
    max_body: bytes of a request's body, more is 413. None takes all.
    swallow_503: the body of a 503 is replaced by a page of the edge.
    cuts: responses that the deadline ended.
    """

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float | None = 15,
        buffer: bool = True,
        ignore_accel: bool = False,
        max_body: int | None = None,
        swallow_503: bool = True,
    ) -> None:
        self.target = target
        self.deadline_s = deadline_s
        self.buffer = buffer
        self.ignore_accel = ignore_accel
        self.max_body = max_body
        self.swallow_503 = swallow_503
        self.cuts = 0
        routes = [Mount("/", app=self._proxy)]
        self.app: Starlette = Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncHTTPTransport(limits=limits, retries=0) as self._upstream:
            yield

    async def _proxy(self, scope: Any, receive: Any, send: Any) -> None:
        until = None
        if self.deadline_s is not None:
            until = asyncio.get_running_loop().time() + self.deadline_s
        request = Request(scope, receive)
        if "upgrade" in request.headers:
            return await _page(501, "This edge passes no websockets.")(scope, receive, send)
        body = await self._body(request)
        if body is None:
            return await _page(413, "Request Entity Too Large")(scope, receive, send)
        stream = _Passed(self, _upstream_request(self.target, request, body), until)
        await stream(scope, receive, send)
        if stream.late:
            self.cuts += 1
            if not stream.started:
                await _page(504, "upstream request timeout")(scope, receive, send)

    async def _body(self, request: Request) -> bytes | None:
        """The whole body, as nginx collects it before it asks the app; None when it is too big."""
        body = bytearray()
        limit = float("inf") if self.max_body is None else self.max_body
        if int(request.headers.get("content-length", 0)) > limit:
            return None
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                return None
        return bytes(body)

    async def fetch(self, request: httpx.Request) -> httpx.Response:
        return await self._upstream.handle_async_request(request)

    def holds(self, response: httpx.Response) -> bool:
        """Whether the response waits in the buffer."""
        allowed = response.headers.get("x-accel-buffering", "").lower() == "no"
        return self.buffer and (self.ignore_accel or not allowed)


class _Passed(Stream):
    """The app's response on its way to the client; the app learns when the client leaves."""

    def __init__(self, edge: Edge, request: httpx.Request, until: float | None) -> None:
        self._edge, self._request = edge, request
        super().__init__(self._relay(), until=until)

    async def _relay(self) -> AsyncGenerator[bytes, None]:
        try:
            response = await self._edge.fetch(self._request)
        except httpx.TransportError:
            yield self._instead(502, "Bad Gateway")
            return
        try:
            if response.status_code == 503 and self._edge.swallow_503:
                yield self._instead(503, "Service Temporarily Unavailable")
                return
            self.status_code = response.status_code
            self.raw_headers = _kept(response.headers.raw, {"x-accel-buffering", "server", "date"})
            held = b""
            if not self._edge.holds(response):
                yield b""  # the headers
            async for piece in _raw(response):
                held += piece
                if len(held) >= BUFFER or not self._edge.holds(response):
                    yield held
                    held = b""
            yield held
        except httpx.TransportError:
            raise Cut from None
        finally:
            await response.aclose()

    def _instead(self, status: int, text: str) -> bytes:
        page = _page(status, text)
        self.status_code, self.raw_headers = status, page.raw_headers
        return bytes(page.body)


async def _raw(response: httpx.Response) -> AsyncIterator[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        yield piece


def _upstream_request(target: str, request: Request, body: bytes) -> httpx.Request:
    """The request as the app gets it: its Host kept, whence it came added."""
    path = request.scope["raw_path"]
    query = request.scope["query_string"]
    url = httpx.URL(target).copy_with(raw_path=path + (b"?" + query if query else b""))
    headers = _kept(request.headers.raw, {"x-forwarded-for", "x-forwarded-proto"})
    came_by = request.headers.get("x-forwarded-for", "")
    came_from = request.client.host if request.client else "127.0.0.1"
    chain = f"{came_by}, {came_from}" if came_by else came_from
    headers += [(b"x-forwarded-for", chain.encode()), (b"x-forwarded-proto", b"https")]
    return httpx.Request(request.method, url, headers=headers, content=body)


def _kept(headers: list[tuple[bytes, bytes]], dropped: set[str]) -> list[tuple[bytes, bytes]]:
    gone = OF_ONE_HOP | dropped
    return [(name.lower(), value) for name, value in headers if name.decode().lower() not in gone]


def _page(status: int, text: str) -> Response:
    return HTMLResponse(f"<html><body><h1>{status} {text}</h1></body></html>\n", status)


if __name__ == "__main__":
    options = serve.arguments(__doc__, 8443)
    options.add_argument("--target", required=True)
    options.add_argument("--deadline-s", type=float, default=15)
    options.add_argument("--max-body", type=int)
    options.add_argument("--no-buffer", dest="buffer", action="store_false")
    options.add_argument("--ignore-accel", action="store_true")
    given = vars(options.parse_args())
    by_hand_port = given.pop("port")
    serve.by_hand(Edge(given.pop("target"), **given).app, by_hand_port)
