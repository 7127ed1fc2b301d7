"""How a message becomes an answer: one stream of events that the page and the API consume.

    token      {"text"}
    thought    {"text"}: what a model that reasons says to itself first
    done       {"answer", "thought", "model", "finish_reason", "usage", "first_token_s",
                "tokens_per_s", "run_id"}
    error      {"run_id", "detail"}, and "refused": true where the engine does not take the talk

The engine puts the talk into the form that the model knows (its own chat template).
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from agent.access import User
from agent.adapters import said
from agent.engine import SILENCE_S, Engine
from agent.errors import Unavailable
from agent.runs import Event, Run
from agent.services import Services


@dataclass(frozen=True)
class Talk:
    """`messages` in OpenAI's form; `model` is "" or an adapter's name; other fields as the model
    has them where they are None."""

    messages: list[dict[str, Any]]
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    user: User = field(default_factory=User)
    door: str = "api"


def begin(here: Services, talk: Talk) -> Run:
    """An answer as a run; `Refused` over a limit, `Unavailable` while there is no model."""
    here.limits.request(talk.user)
    here.limits.run(talk.user, here.runs)
    here.engine.need()
    return here.runs.start(
        partial(_measured, here, talk), here.settings.answer_timeout_s, talk.user.id
    )


async def _measured(here: Services, talk: Talk, run: Run) -> AsyncGenerator[Event, None]:
    async for event in here.measures.answers(talk.door, answer(here, talk, run)):
        yield event


async def answer(here: Services, talk: Talk, run: Run) -> AsyncGenerator[Event, None]:
    model = talk.model or here.engine.name
    body: dict[str, Any] = {
        "model": model,
        "messages": talk.messages,
        "max_tokens": talk.max_tokens or here.settings.answer_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if talk.temperature is not None:
        body["temperature"] = talk.temperature
    begun, first_at, last_at = time.monotonic(), 0.0, 0.0
    texts: dict[str, list[str]] = {"token": [], "thought": []}
    usage, finish = {"input": 0, "output": 0}, ""
    try:
        async for chunks in _chunks(here.engine, body):
            for kind, text in _texts(chunks):
                last_at = time.monotonic()
                first_at = first_at or last_at
                texts[kind].append(text)
                yield Event(kind, {"text": text})
            usage, finish = _counts(chunks, usage, finish)
    except Failed as error:
        told = {"run_id": run.id, "detail": str(error), "refused": error.refused}
        yield Event("error", told)
        return
    if not finish:
        await here.engine.lost()
        yield Event("error", {"run_id": run.id, "detail": here.engine.broken()})
        return
    seconds, further = last_at - first_at, usage["output"] - 1
    yield Event(
        "done",
        {
            "answer": "".join(texts["token"]),
            "thought": "".join(texts["thought"]),
            "model": model,
            "finish_reason": finish,
            "usage": usage,
            "first_token_s": round(first_at - begun, 3) if first_at else None,
            "tokens_per_s": round(further / seconds, 1) if seconds > 0 < further else None,
            "run_id": run.id,
        },
    )


class Failed(Exception):
    """The answer cannot go on: why, in a sentence; `refused` where it is the question's fault."""

    def __init__(self, sentence: str, refused: bool = False) -> None:
        super().__init__(sentence)
        self.refused = refused


async def _chunks(engine: Engine, body: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
    """The engine's chunks, those that arrived together at once."""
    limits = httpx.Timeout(10, read=SILENCE_S)
    try:
        asking = engine.need().stream("POST", "/v1/chat/completions", json=body, timeout=limits)
        async with asking as response:
            if response.is_error:
                await response.aread()
                refused = response.status_code in (400, 404, 413, 422)
                raise Failed(f"The engine refuses this: {said(response)}", refused)
            rest = b""
            async for data in response.aiter_raw():
                *lines, rest = (rest + data).split(b"\n")
                chunks: list[dict[str, Any]] = []
                try:
                    for line in lines:
                        if line.startswith(b"data: {"):
                            chunks.append(_chunk(line[6:]))
                finally:  # what came before a fault is handed on before it is raised
                    if chunks:
                        yield chunks
    except Unavailable as error:
        raise Failed(str(error)) from None
    except httpx.ReadTimeout:
        raise Failed(f"The engine was silent for {SILENCE_S} s; ask again.") from None
    except (httpx.HTTPError, ValueError):
        await engine.lost()
        raise Failed(engine.broken()) from None


def _chunk(line: bytes) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(line)
    if error := chunk.get("error"):
        words = str(error.get("message") if isinstance(error, dict) else error).rstrip(".")
        raise Failed(f"The engine failed: {words}.")
    return chunk


def _texts(chunks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(kind, text) of chunks, texts of the same kind put together."""
    found: list[tuple[str, str]] = []
    for chunk in chunks:
        for choice in chunk.get("choices", [])[:1]:
            delta = choice.get("delta", {})
            thought = delta.get("reasoning") or delta.get("reasoning_content")
            for kind, text in (("thought", thought), ("token", delta.get("content"))):
                if text and found and found[-1][0] == kind:
                    found[-1] = kind, found[-1][1] + text
                elif text:
                    found.append((kind, text))
    return found


def _counts(
    chunks: list[dict[str, Any]], usage: dict[str, int], finish: str
) -> tuple[dict[str, int], str]:
    for chunk in chunks:
        for choice in chunk.get("choices", [])[:1]:
            finish = choice.get("finish_reason") or finish
        if counted := chunk.get("usage"):
            usage = {"input": counted["prompt_tokens"], "output": counted["completion_tokens"]}
    return usage, finish
