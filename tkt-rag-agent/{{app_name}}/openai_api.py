"""Door: the agent as a model, for what speaks OpenAI's chat API (Open WebUI, LiteLLM, `openai`).

What was found is cited as `[n]` in the text and, whole, in `annotations`. System messages and
sampling settings are taken and not used: what the model is told stands in `agent/prompts.py`. These
streams cannot be resumed, so they last as long as the answer; a client that leaves cancels it.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from agent.errors import Refused, Unavailable
from agent.runs import HEARTBEAT_S, STREAM_HEADERS, Event, Run
from doors import OPENAI_PROBLEMS, CurrentUser, Services

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
    """The agent, as the one model there is."""
    name = here.settings.app_name
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": name}],
    }


@router.post("/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
async def chat_completions(
    body: Completion,
    here: Services,
    user: CurrentUser,
    traceparent: Annotated[str, Header()] = "",
) -> Response:
    """Answer the last user message; those before it are the talk that it belongs to."""
    from agent.chain import Question, begin

    if body.model != (name := here.settings.app_name):
        raise Refused(f"There is no model {body.model[:100]!r} here; {name!r} is the one.", 404)
    talk = [m for m in body.messages if m.role in ("user", "assistant")]
    if not talk or talk[-1].role != "user" or not talk[-1].text.strip():
        raise Refused("The last message must be the user's, and hold text.", 400)
    history = [{"role": m.role, "content": m.text} for m in talk[:-1]]
    text = talk[-1].text.strip()
    run = begin(here, Question(text, history, user=user, door="v1", traceparent=traceparent))
    reply = _Reply(run, name)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _until_left(here, run, reply.chunks(usage))
        return StreamingResponse(events, headers=STREAM_HEADERS, media_type="text/event-stream")
    return JSONResponse(await _whole(here, run, reply))


async def _until_left(here: Any, run: Run, parts: AsyncIterator[str]) -> AsyncIterator[str]:
    """The parts; whoever leaves before the end cancels the answer."""
    try:
        async for part in parts:
            yield part
    finally:
        await here.runs.cancel(run)


async def _whole(here: Any, run: Run, reply: "_Reply") -> dict[str, Any]:
    try:
        while (last := await run.wait(HEARTBEAT_S)) is None:
            pass
    finally:
        await here.runs.cancel(run)
    if last.type == "error":
        raise Unavailable(last.data["detail"])
    return reply.completion(last.data)


class _Reply:
    """A run in OpenAI's words."""

    def __init__(self, run: Run, model: str) -> None:
        self._run = run
        self._common = {"id": f"chatcmpl-{run.id}", "created": int(time.time()), "model": model}

    def completion(self, done: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": done["answer"], "annotations": annotations(done)}
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
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield ": still working\n\n"

    def _said(self, event: Event, with_usage: bool) -> list[str]:
        if event.type == "token":
            return [self._chunk({"content": event.data["text"]})]
        if event.type == "error":
            error = {"message": event.data["detail"], "type": "api_error", "code": 502}
            return [_line({"error": error})]
        if event.type == "done":
            end = self._chunk({"annotations": annotations(event.data)}, "stop")
            counts = [self._line({"choices": [], "usage": usage(event.data)})] if with_usage else []
            return [end, *counts, "data: [DONE]\n\n"]
        return []

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> str:
        return self._line({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _line(self, data: dict[str, Any]) -> str:
        return _line(self._common | {"object": "chat.completion.chunk"} | data)


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def usage(done: dict[str, Any]) -> dict[str, int]:
    read, written = done["usage"]["input"], done["usage"]["output"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def annotations(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the answer cites what: OpenAI's form for a source, and all that is known beside it."""
    cited = {citation["n"]: citation for citation in done["citations"]}
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": place.start(),
                "end_index": place.end(),
                "title": cited[int(place[1])]["document"],
                "url": f"#{cited[int(place[1])]['document']}",
            },
            "citation": cited[int(place[1])],
        }
        for place in re.finditer(r"\[(\d+)\]", done["answer"])
        if int(place[1]) in cited
    ]
