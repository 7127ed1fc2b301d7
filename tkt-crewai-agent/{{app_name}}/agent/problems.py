"""Errors as a client sees them: problem+json, with a request id and a sentence on what to do.

Also the two things that every request gets on its way in: its id, and a limit on its size.
"""

import errno
import logging
import time
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import Refused, Unavailable
from agent.logs import about

FULL = "There is no room on the app's disk; nothing was changed. Free some, and send it again."
LOGGED = ("/api/", "/v1/", "/mcp", "/auth/", "/metrics", "/ready")
"""Requests that get a line in the log; the page asks twice a second."""

log = logging.getLogger(__name__)


def problem(
    request: Request, status: int, detail: str, retry_after_s: int | None = None
) -> JSONResponse:
    """One problem document (RFC 9457). Never status 503: an edge on the way replaces its body."""
    request_id = request.scope.get("request_id", "")
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    headers = {"X-Request-Id": request_id}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if request.url.path.startswith("/v1/"):  # its clients know errors in this form
        kind = "invalid_request_error" if status < 500 else "api_error"
        body = {"error": {"message": detail, "type": kind, "param": None, "code": status}}
        return JSONResponse(body, status, headers)
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI, max_bytes: int) -> None:
    """Give `app` these answers, request ids and the limit on a request's size."""

    @app.exception_handler(Refused)
    async def _refused(request: Request, error: Refused) -> JSONResponse:
        return problem(request, error.status, str(error), error.retry_after_s)

    @app.exception_handler(Unavailable)
    async def _unavailable(request: Request, error: Unavailable) -> JSONResponse:
        return problem(request, 502, str(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        cause = error.__cause__  # FastAPI says 400 of whatever goes wrong while it reads a body
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return problem(request, 507, FULL)
        advice = "" if error.status_code == 413 else "; see /docs for what there is."
        return problem(request, error.status_code, f"{error.detail}{advice}")

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(request, 422, f"{place}: {first['msg']}; see /docs for the form.")

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> JSONResponse:
        if error.errno != errno.ENOSPC:
            return await _bug(request, error)
        log.error("the disk is full", exc_info=error)
        return problem(request, 507, FULL)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        request_id = request.scope.get("request_id", "")
        log.error("request %s failed", request_id, exc_info=error)
        return problem(request, 500, "This is a fault of the app; its log names the request's id.")

    app.add_middleware(Doorkeeper, max_bytes=max_bytes)


class Doorkeeper:
    """Gives each request an id and refuses one that is larger than `max_bytes`, with 413."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope["request_id"] = uuid.uuid4().hex
        about(request_id=scope["request_id"])
        begin = time.monotonic()
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            while (await receive()).get("more_body"):
                pass  # read on, or the client breaks off before it sees the answer
            return await self._too_large(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._sentence())
            return message

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.setdefault("X-Request-Id", scope["request_id"])
                _log(scope, message["status"], time.monotonic() - begin)
            await send(message)

        return await self._app(scope, counted, named)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problem(Request(scope), 413, self._sentence())(scope, receive, send)

    def _sentence(self) -> str:
        limit = self._max_bytes / 2**20
        return f"The request is larger than {limit:g} MiB; send less, or raise MAX_UPLOAD_MB."


def _log(scope: Scope, status: int, seconds: float) -> None:
    """One line a request, when its response begins; the query may hold words, so it is left out."""
    if status >= 400 or scope["path"].startswith(LOGGED):
        told = {"method": scope["method"], "path": scope["path"][:200], "status": status}
        user = scope.get("state", {}).get("user")
        who = {"user": user.id} if user and user.id else {}
        log.info("request", extra=told | who | {"seconds": round(seconds, 3)})
