"""Door: the crew as a model, for what speaks OpenAI's chat API (Open WebUI, LiteLLM, `openai`).

The last message is the topic. What the crew does meanwhile comes as `reasoning_content`, the report
as the answer. These streams cannot be resumed, so they last as long as the run; a client that
leaves cancels it. Whoever wants to come back later starts the run at `/api/runs`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from agent.access import User
from agent.errors import Refused, Unavailable
from agent.runs import HEARTBEAT_S, STREAM_HEADERS, Event, Run
from doors import OPENAI_PROBLEMS, CurrentUser, Services

MODEL = "crew"
"""The name that clients ask for."""
LOOK_S = 1
"""How often is looked whether a client is still there that gets its answer whole."""
RESTART = "The app is being restarted. The run goes on: ask for it at /api/runs/{run_id}."

router = APIRouter(prefix="/v1", responses=OPENAI_PROBLEMS, tags=["OpenAI"])


class Part(BaseModel):
    type: str
    text: str = ""


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(BaseModel):
    include_usage: bool | None = False


class Completion(BaseModel):
    """What is used of a chat completion's body; the rest is allowed and ignored."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=400)
    stream: bool | None = False
    stream_options: StreamOptions | None = None


@router.get("/models")
async def models(here: Services) -> dict[str, Any]:
    """The crew, as the one model there is."""
    owner = here.settings.app_name
    return {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": owner}],
    }


@router.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
async def chat_completions(
    body: Completion,
    request: Request,
    here: Services,
    user: CurrentUser,
    traceparent: Annotated[str, Header()] = "",
) -> Response:
    """Let the crew work on the last user message."""
    from agent.work import Ask, begin, follow

    if body.model != MODEL:
        raise Refused(f"There is no model {body.model[:100]!r} here; {MODEL!r} is the one.", 404)
    last = body.messages[-1]
    if last.role != "user" or not last.text.strip():
        raise Refused("The last message must be the user's, and hold text.", 400)
    ask = Ask(last.text, user=user, door="v1", traceparent=traceparent)
    record = await begin(here, ask)
    run = await follow(here, record.id, user)
    reply = _Reply(here, run)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _until_left(here, run, user, reply.chunks(usage))
        return StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")
    return JSONResponse(await _whole(here, run, user, reply, request))


async def _until_left(
    here: Any, run: Run, user: User, parts: AsyncIterator[str]
) -> AsyncIterator[str]:
    """The parts; whoever leaves before the end cancels the run."""
    try:
        async for part in parts:
            yield part
    finally:
        await _left(here, run, user)


async def _left(here: Any, run: Run, user: User) -> None:
    from agent.work import cancel

    if not run.ended and not here.worker.draining:
        await asyncio.shield(cancel(here, run.id, user))


async def _whole(
    here: Any, run: Run, user: User, reply: "_Reply", request: Request
) -> dict[str, Any]:
    try:
        while (last := await run.wait(LOOK_S)) is None:
            if await request.is_disconnected():
                raise Unavailable("The client has left.")
            if here.worker.draining:
                raise Unavailable(RESTART.format(run_id=run.id))
    finally:
        await _left(here, run, user)
    if last.type == "error":
        raise Unavailable(last.data["detail"])
    return reply.completion(last.data)


class _Reply:
    """A run in OpenAI's words."""

    def __init__(self, here: Any, run: Run) -> None:
        self._here, self._run = here, run
        self._common = {"id": f"chatcmpl-{run.id}", "created": int(time.time()), "model": MODEL}

    def completion(self, done: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": done["result"]}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        kind = {"object": "chat.completion"}
        return self._common | kind | {"choices": [choice], "usage": usage(done)}

    async def chunks(self, with_usage: bool) -> AsyncIterator[str]:
        yield self._chunk({"role": "assistant", "content": ""})
        seen = 0
        while True:
            changed = self._run.changed
            for event in self._run.fresh(seen):
                seen += 1
                for part in self._said(event, with_usage):
                    yield part
            if self._run.ended:
                return
            if self._here.worker.draining:
                yield _line({"error": _error(RESTART.format(run_id=self._run.id))})
                return
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield ": still working\n\n"

    def _said(self, event: Event, with_usage: bool) -> list[str]:
        if event.type == "done":
            told = self._chunk({"content": event.data["result"]})
            end = self._chunk({}, "stop")
            counts = [self._line({"choices": [], "usage": usage(event.data)})] if with_usage else []
            return [told, end, *counts, "data: [DONE]\n\n"]
        if event.type == "error":
            return [_line({"error": _error(event.data["detail"])})]
        progress = in_words(event)
        return [self._chunk({"reasoning_content": f"{progress}\n"})] if progress else []

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> str:
        return self._line({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _line(self, data: dict[str, Any]) -> str:
        return _line(self._common | {"object": "chat.completion.chunk"} | data)


def in_words(event: Event) -> str:
    """What happened, on a line; "" where a reader need not know."""
    data = event.data
    if event.type == "task" and data["status"] == "started":
        return f"{data['agent']} begins with {data['task']}."
    if event.type == "step":
        return f"{data['agent']}: {data['summary']}"
    if event.type == "tool":
        return f"{data['agent']} used {data['tool']}: {data['result']}"
    return ""


def _error(message: str) -> dict[str, Any]:
    return {"message": message, "type": "api_error", "code": 502}


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def usage(done: dict[str, Any]) -> dict[str, int]:
    read, written = done["spent"]["input"], done["spent"]["output"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
