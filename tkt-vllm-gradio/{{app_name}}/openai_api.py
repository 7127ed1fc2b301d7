"""Door: the engine's own OpenAI API under `/v1`, handed on as it is.

Nothing is read or held back on the way: bytes go in, and come out as the engine sends them. A
client that leaves ends the request in the engine. Streams cannot be resumed, so they last as long
as the answer. What would change the engine (its adapters) is not handed on: see /api/adapters.
"""

import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from agent.engine import SILENCE_S
from agent.errors import Refused, Unavailable
from agent.problems import problem
from agent.runs import STREAM_HEADERS
from doors import OPENAI_PROBLEMS, CurrentUser, Services

POSTED = (
    "chat/completions", "completions", "responses", "embeddings", "messages",
    "messages/count_tokens", "rerank", "score", "audio/transcriptions", "audio/translations",
)  # fmt: skip
"""What is handed on; whether the engine has it depends on the model."""
HANDED_BACK = ("content-type", "x-request-id", "retry-after")
LIMITS = httpx.Timeout(10, read=SILENCE_S)

router = APIRouter(prefix="/v1", responses=OPENAI_PROBLEMS, tags=["OpenAI"])


def _described(**fields: Any) -> dict[str, Any]:
    """The request's body, for /docs: OpenAI's form, of which the engine checks each field."""
    fields = {"model": {"type": "string"}, "stream": {"type": "boolean"}} | fields
    schema = {"type": "object", "properties": fields, "required": ["model", next(reversed(fields))]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_MESSAGE = {
    "type": "object",
    "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    "required": ["role", "content"],
}
STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.get("/models")
async def models(request: Request, here: Services, user: CurrentUser) -> Response:
    """The model, its aliases and its adapters."""
    return _handed_on(request, here, user, b"")


@router.post(
    "/chat/completions",
    responses=STREAMS,
    openapi_extra=_described(messages={"type": "array", "items": _MESSAGE}),
)
async def chat_completions(request: Request, here: Services, user: CurrentUser) -> Response:
    """Answer a talk, with the model's own chat template."""
    return _handed_on(request, here, user, await request.body())


@router.post("/completions", responses=STREAMS, openapi_extra=_described(prompt={"type": "string"}))
async def completions(request: Request, here: Services, user: CurrentUser) -> Response:
    """Go on with a text."""
    return _handed_on(request, here, user, await request.body())


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def others(path: str, request: Request, here: Services, user: CurrentUser) -> Response:
    """What some models have: embeddings, responses, transcriptions."""
    if request.method != "POST" or path not in POSTED:
        raise Refused(f"There is no {request.method} {path[:100]!r} under /v1/; see /docs.", 404)
    return _handed_on(request, here, user, await request.body())


def _handed_on(request: Request, here: Any, user: Any, body: bytes) -> Response:
    here.limits.request(user)
    try:
        return HandedOn(request, here, here.engine.need(), body)
    except Unavailable:
        here.measures.passed.labels(request.url.path, 502).inc()
        raise


class HandedOn(Response):
    """The engine's answer, as it comes. It ends when the client leaves, and the engine's work with
    it."""

    def __init__(self, request: Request, here: Any, client: httpx.AsyncClient, body: bytes) -> None:
        self.background = None
        self._request, self._here, self._client, self._body = request, here, client, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passing = asyncio.create_task(self._pass(scope, receive, send))
        leaving = asyncio.create_task(_gone(receive))
        self._here.passing.add(passing)
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._here.passing.discard(passing)
            for task in (passing, leaving):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            with suppress(asyncio.CancelledError):
                await passing

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, streams = False, False
        path = scope["path"]
        try:
            async with self._client.stream(
                scope["method"],
                path,
                content=self._body,
                headers={"Content-Type": self._request.headers.get("content-type", "")},
                timeout=LIMITS,
            ) as answer:
                if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise Unavailable(_failed(answer.status_code, await answer.aread()))
                self._here.measures.passed.labels(path, answer.status_code).inc()
                streams = answer.headers.get("content-type", "").startswith("text/event-stream")
                await send(_start(answer, streams))
                begun = True
                async for data in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (httpx.HTTPError, Unavailable) as error:
            await self._here.engine.lost()
            engine = self._here.engine
            sentence = str(error) if isinstance(error, Unavailable) else engine.broken()
            if not begun:
                self._here.measures.passed.labels(path, 502).inc()
                return await problem(self._request, 502, sentence)(scope, receive, send)
            last = b""
            if streams:  # as the engine itself says what went wrong in mid-stream
                said = {"error": {"message": sentence, "type": "api_error", "code": 502}}
                last = f"data: {json.dumps(said)}\n\n".encode()
            await send({"type": "http.response.body", "body": last})


def _start(answer: httpx.Response, streams: bool) -> dict[str, Any]:
    headers = {n: v for n in HANDED_BACK if (v := answer.headers.get(n))}
    if streams:
        headers |= STREAM_HEADERS
    elif length := answer.headers.get("content-length"):
        headers["content-length"] = length
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": answer.status_code, "headers": raw}


def _failed(status: int, body: bytes) -> str:
    """Never 503: an edge on the way would replace its body."""
    try:
        error = json.loads(body)["error"]
        said = str(error["message"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace").strip()
    said = f": {said[:500].rstrip('.')}" if said else ""
    return f"The model's engine answers {status}{said}; ask again in a while."


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
