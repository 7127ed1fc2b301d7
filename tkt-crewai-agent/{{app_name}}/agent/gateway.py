"""The chat model behind an OpenAI-compatible gateway, with tools.

Each call is one request and one whole answer: a crew can use half a sentence for nothing, and only
a whole answer tells what it has cost. A gateway may list models that do not answer, and answer 200
with nothing; both count as failures here. One sentence says what failed and what to check.
"""

import asyncio
import json
import math
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from agent.errors import Unavailable

Messages = list[dict[str, Any]]
PROBES = 8
"""Models that `auto` tries before it gives up."""
AGAIN = {429, 500, 502, 503, 504}
"""What may be well in a moment; a crew that has worked for an hour can wait for it."""
PAUSES_S = (0.5, 2, 8, 20)
"""Between the tries of one call; together as long as a server takes to start anew."""
LONGEST_PAUSE_S = 60
"""Whoever is told to wait longer is told so."""
ADVICE = {
    401: "check LITELLM_MASTER_KEY",
    403: "check what the key may use",
    404: "check CHAT_MODEL",
    429: "wait, or raise its limit",
}
_TOO_LONG = re.compile(r"context (length|window)|maximum context|too long|token limit", re.I)
COST = "x-litellm-response-cost"
"""LiteLLM's header with the price of an answer, in dollars."""


@dataclass
class Said:
    """A model's answer: text, or tools that it wants to be called."""

    text: str
    model: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    """As OpenAI has them: {"id": ..., "type": "function", "function": {"name", "arguments"}}."""
    input: int = 0
    output: int = 0
    """Tokens."""
    dollars: float | None = None


class ChatModel:
    """One gateway at `http.base_url`, which ends in `/v1/`, and one model of it."""

    rehearses = False
    pauses_s: tuple[float, ...] = PAUSES_S

    def __init__(
        self,
        http: httpx.AsyncClient,
        wanted: str,
        max_tokens: int,
        timeout_s: float,
        prices: tuple[float, float] = (0, 0),
    ) -> None:
        """`prices`: dollars a million tokens read and written, where the gateway tells none."""
        self._http, self._wanted, self._picked = http, wanted, ""
        self._max_tokens, self._timeout_s, self._prices = max_tokens, timeout_s, prices

    async def complete(
        self,
        messages: Messages,
        tools: list[dict[str, Any]] | None = None,
        stop: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Said:
        """The answer. What fails in a way that passes is asked again, with pauses."""
        model = await self.name()
        body = {"model": model, "messages": messages, "max_tokens": self._max_tokens}
        body |= ({"tools": tools} if tools else {}) | ({"stop": stop} if stop else {})
        try:
            response = await self._patiently(
                lambda: self._http.post(
                    "chat/completions", json=body, headers=headers, timeout=self._timeout_s
                )
            )
        except Wrong as wrong:
            self._picked = ""  # `auto` looks anew: it may be gone
            way = wrong.with_a_way_around(bool(tools))
            if way is wrong:
                raise
            raise way from wrong
        try:
            return self._said(json.loads(response.content), model, response.headers)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            self._picked = ""
            raise Unavailable(
                f"The model {model} at {self._http.base_url} gives no usable answer "
                f"({type(error).__name__}: {str(error)[:100]}); check that it is loaded.",
                "model",
            ) from error

    def _said(self, told: dict[str, Any], model: str, headers: httpx.Headers) -> Said:
        message = told["choices"][0]["message"]
        wanted, usage = message.get("tool_calls") or [], told.get("usage") or {}
        calls = [call for call in wanted if isinstance(call["function"]["name"], str)]
        text = str(message.get("content") or "")
        if not (calls or text.strip()):
            raise ValueError("it said nothing")
        read, written = (
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
        )
        dollars = _price(usage.get("cost"))
        if dollars is None:
            dollars = _price(headers.get(COST))
        if dollars is None and any(self._prices):
            dollars = (read * self._prices[0] + written * self._prices[1]) / 1e6
        return Said(text, model, calls, read, written, dollars)

    async def name(self) -> str:
        """The configured model, or for `auto` the first that answers."""
        if self._wanted != "auto":
            return self._wanted
        if not self._picked:
            for name in (await self.models())[:PROBES]:
                if await self._answers(name):
                    self._picked = name
                    break
            else:
                raise Unavailable("None of the gateway's models answers; name one in CHAT_MODEL.")
        return self._picked

    async def models(self) -> list[str]:
        response = await self._send(lambda: self._http.get("models", timeout=10))
        try:
            listed = json.loads(response.content).get("data") or []
            return [str(model["id"]) for model in listed if "id" in model]
        except (ValueError, TypeError, AttributeError) as error:
            raise self._broken(error) from error

    async def check(self) -> str:
        name = await self.name()
        if name not in await self.models():
            raise Unavailable(f"The gateway does not list {name}; check CHAT_MODEL.")
        return name

    async def close(self) -> None:
        await self._http.aclose()

    async def _answers(self, name: str) -> bool:
        message = {"role": "user", "content": "Hi"}
        body = {"model": name, "messages": [message], "max_tokens": 1}
        try:
            request = lambda: self._http.post("chat/completions", json=body, timeout=20)  # noqa: E731
            return bool(json.loads((await self._send(request)).content).get("choices"))
        except (Unavailable, ValueError, AttributeError):
            return False

    async def _patiently(self, request: Callable[[], Any]) -> httpx.Response:
        """Each pause is partly chance, so that many clients do not come back at one moment."""
        for pause_s in self.pauses_s:
            begin = time.monotonic()
            try:
                return await self._send(request)
            except Away as away:
                if away.wait_s > LONGEST_PAUSE_S or time.monotonic() - begin > LONGEST_PAUSE_S:
                    raise
                await asyncio.sleep(max(pause_s, away.wait_s) * random.uniform(1, 1.5))
        return await self._send(request)

    async def _send(self, request: Callable[[], Any]) -> httpx.Response:
        try:
            response: httpx.Response = await request()
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        if response.is_error:
            raise self._refused(response)
        return response

    def _refused(self, response: httpx.Response) -> Unavailable:
        status = response.status_code
        said = " ".join(response.text.split())[:300]
        sentence = (
            f"The gateway at {self._http.base_url} answers {status} ({said}); "
            f"{ADVICE.get(status, 'look into its log')}."
        )
        if status in (400, 404, 413, 422):
            return Wrong(sentence, "model")
        if status not in AGAIN:
            return Unavailable(sentence, "model")
        try:
            return Away(sentence, float(response.headers.get("retry-after", "0")))
        except ValueError:
            return Away(sentence)

    def _broken(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        return Away(
            f"The gateway at {self._http.base_url} gives no usable answer ({said}); "
            "check LITELLM_ENDPOINT and that it runs."
        )


def _price(told: Any) -> float | None:
    """Dollars, where that is what was told."""
    with suppress(TypeError, ValueError):
        dollars = float(told)
        return dollars if 0 <= dollars < math.inf else None
    return None


class Wrong(Unavailable):
    """The gateway does not take what was sent."""

    def with_a_way_around(self, tools: bool) -> "Unavailable":
        """`Adaptable` where CrewAI can ask otherwise, in words that it knows; else this."""
        said = str(self)
        if _TOO_LONG.search(said):
            return Adaptable(f"The maximum context length is exceeded: {said}")
        if tools and "tool" in said.lower():
            return Adaptable(f"The model does not support tools: {said}")
        return self


class Adaptable(Unavailable):
    """CrewAI knows a way around this: tools in words, or a talk that is summed up."""


class Away(Unavailable):
    """It may answer in a moment; `wait_s` is what it asks for."""

    def __init__(self, message: str, wait_s: float = 0) -> None:
        super().__init__(message, "model")
        self.wait_s = wait_s
