"""The models behind an OpenAI-compatible gateway: chat and embeddings.

Tokens are passed through as they arrive: no framework stands in the loop that runs once a token.
A gateway may list models that do not answer, and answer 200 with an empty stream; both count as
failures here. One sentence says which service failed and what to check.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from agent.errors import FAILURES, Unavailable

Messages = list[dict[str, Any]]
PROBES = 8
"""Models that `auto` tries before it gives up."""
PAUSE_S = 15
"""How long a failed embedding service is left alone; meanwhile words alone are searched."""
FIRST_TOKEN_S = 120
"""A model that says nothing for longer is taken for hung."""
AGAIN = {429, 502, 503, 504}
"""What a gateway answers before a model has begun; asking again costs nothing."""
PAUSE_BEFORE_RETRY_S = 0.3
LONGEST_PAUSE_S = 3
"""Whoever is told to wait longer is told so."""


async def patiently(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The response to a request that is sent once more where nobody took it: no connection, too
    many requests, no server behind the gateway. The pause is partly chance, so that many clients
    do not come back at the same moment."""
    pause_s = PAUSE_BEFORE_RETRY_S
    with suppress(httpx.ConnectError):
        response = await send()
        if response.status_code not in AGAIN:
            return response
        with suppress(ValueError):
            pause_s = float(response.headers.get("retry-after", ""))
        if pause_s > LONGEST_PAUSE_S:
            return response
        await response.aclose()
    await asyncio.sleep(pause_s * random.uniform(1, 1.5))
    return await send()


class Gateway:
    """One gateway at `http.base_url`, which ends in `/v1/`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def models(self) -> list[str]:
        answer = await self.post("models", None)
        return [str(model["id"]) for model in answer.get("data") or [] if "id" in model]

    async def post(self, path: str, body: dict[str, Any] | None, timeout: float = 10) -> Any:
        """One request, its JSON answer; a body of None asks by GET."""
        try:
            method = "GET" if body is None else "POST"
            response = await patiently(
                lambda: self._http.request(method, path, json=body, timeout=timeout)
            )
            if response.is_error:
                raise self._refused(response.status_code, response.content)
            return _object(response.content)
        except (httpx.HTTPError, ValueError) as error:
            raise self._broken(error) from error

    async def stream(
        self, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The chunks of a streamed chat completion, as many at a time as have come; none of an
        empty one. Raises when it is cut.

        Asked again where the gateway did not begin to answer: what has begun is paid for.
        """
        timeout = httpx.Timeout(10, read=FIRST_TOKEN_S)
        begun = finished = False
        try:
            request = self._http.build_request(
                "POST", "chat/completions", json=body, headers=headers, timeout=timeout
            )
            response = await patiently(lambda: self._http.send(request, stream=True))
            async with aclosing(response):
                if response.is_error:
                    raise self._refused(response.status_code, await response.aread())
                async with aclosing(_lines(response)) as pieces:
                    async for lines in pieces:
                        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
                        begun, finished = begun or bool(data), b"[DONE]" in data
                        whole = data[: data.index(b"[DONE]")] if finished else data
                        found: list[dict[str, Any]] = []
                        try:
                            for text in whole:
                                found.append(_object(text))
                        finally:  # what came before a fault is handed on before it is raised
                            yield found
                        if finished:
                            break
        except (httpx.HTTPError, ValueError) as error:
            raise self._broken(error) from error
        if begun and not finished:
            raise Unavailable(f"The model at {self._http.base_url} broke off; ask again.", "model")

    def _refused(self, status: int, body: bytes) -> Unavailable:
        advice = {
            401: "check LITELLM_MASTER_KEY",
            403: "check what the key may use",
            404: "check CHAT_MODEL and EMBEDDING_MODEL",
            429: "wait, or raise its limit",
        }.get(status, "look into its log")
        said = " ".join(body.decode(errors="replace").split())[:200]
        where = f"The gateway at {self._http.base_url}"
        return Unavailable(f"{where} answers {status} ({said}); {advice}.", "model")

    def _broken(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        return Unavailable(
            f"The gateway at {self._http.base_url} gives no usable answer ({said}); "
            "check LITELLM_ENDPOINT and that it runs.",
            "model",
        )


async def _lines(response: httpx.Response) -> AsyncGenerator[list[bytes], None]:
    """Cut at line feeds alone: httpx cuts at U+2028 as well, which may stand in a token."""
    held = b""
    async with aclosing(_pieces(response)) as pieces:
        async for data in pieces:
            *lines, held = (held + data).split(b"\n")
            yield lines
    yield [held]


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes. What came while the last piece was worked on is one piece, so that a
    fast model costs less than a step of the loop for each token."""
    waiting: list[bytes] = []
    news = asyncio.Event()

    async def read() -> None:
        try:
            async for data in response.aiter_bytes():
                waiting.append(data)
                news.set()
        finally:
            news.set()

    reading = asyncio.create_task(read())
    try:
        while waiting or not reading.done():
            await news.wait()
            news.clear()
            if waiting:
                data = b"".join(waiting)
                waiting.clear()
                yield data
        await reading  # raises what went wrong
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"no JSON object but {text[:50]!r}")
    return found


@dataclass
class Usage:
    """Tokens of one or more calls, and their price in dollars where the gateway tells it."""

    input: int = 0
    output: int = 0
    dollars: float | None = None

    @property
    def tokens(self) -> dict[str, int]:
        return {"input": self.input, "output": self.output}

    def add(self, other: "Usage") -> None:
        self.input += other.input
        self.output += other.output
        if other.dollars is not None:
            self.dollars = (self.dollars or 0.0) + other.dollars

    def as_fields(self) -> dict[str, Any]:
        """For a step of a trace."""
        cost = {} if self.dollars is None else {"cost_details": {"total": self.dollars}}
        return {"usage_details": self.tokens} | cost


class Picker:
    """Which model to use: the configured one, or for `auto` the first that answers a probe."""

    def __init__(self, gateway: Gateway, wanted: str) -> None:
        self._gateway = gateway
        self._wanted = wanted
        self._picked = ""

    async def pick(
        self, probe: Callable[[str], Coroutine[Any, Any, Any]], first: str | None = None
    ) -> str:
        if self._wanted != "auto":
            return self._wanted
        if not self._picked:
            listed = await self._gateway.models()
            listed.sort(key=lambda name: name != first)
            for name in listed[:PROBES]:
                try:
                    await probe(name)
                except Unavailable:
                    continue
                self._picked = name
                break
            else:
                raise Unavailable("None of the gateway's models answers; name one in CHAT_MODEL.")
        return self._picked

    def forget(self) -> None:
        """Let `auto` pick anew: the model that was picked does not answer any more."""
        self._picked = ""


class ChatModel:
    """The chat model: messages in, pieces of the answer out."""

    def __init__(self, gateway: Gateway, wanted: str, max_tokens: int) -> None:
        self._gateway = gateway
        self._picker = Picker(gateway, wanted)
        self._max_tokens = max_tokens
        self.used = wanted

    async def name(self) -> str:
        return await self._picker.pick(self._probe)

    async def stream(
        self, messages: Messages, usage: Usage, headers: dict[str, str] | None = None
    ) -> AsyncIterator[str]:
        """Pieces of the answer; `usage` gets the counts that the gateway gives at the end."""
        self.used = await self.name()
        body = {
            "model": self.used,
            "messages": messages,
            "max_tokens": self._max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        said = False
        async for chunks in self._gateway.stream(body, headers):
            text = ""
            try:
                for chunk in chunks:
                    text += _text(chunk, usage, self.used)
            finally:  # the same
                if text:
                    said = True
                    yield text
        if not said:
            self._picker.forget()
            said_nothing = f"The model {self.used} answered with nothing"
            raise Unavailable(f"{said_nothing}; check that it is loaded.", "model")

    async def complete(self, messages: Messages) -> str:
        return "".join([text async for text in self.stream(messages, Usage())])

    async def check(self) -> str:
        name = await self.name()
        listed = await self._gateway.models()
        if name not in listed:
            raise Unavailable(f"The gateway does not list {name}; check CHAT_MODEL.")
        return name

    async def _probe(self, name: str) -> None:
        message = {"role": "user", "content": "Hi"}
        body = {"model": name, "messages": [message], "max_tokens": 1}
        answer = await self._gateway.post("chat/completions", body, timeout=20)
        if not answer.get("choices"):
            raise Unavailable(f"The model {name} gives no choice.")


def _text(chunk: dict[str, Any], usage: Usage, model: str) -> str:
    """What a chunk adds to the answer; `usage` gets the counts of the one that has them."""
    if error := chunk.get("error"):
        raise Unavailable(f"The model {model} failed in mid-answer ({error}).", "model")
    if counts := chunk.get("usage"):
        usage.input = counts.get("prompt_tokens") or 0
        usage.output = counts.get("completion_tokens") or 0
        usage.dollars = counts.get("cost")
    choices = chunk.get("choices") or []
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)


class EmbeddingModel:
    """Texts to vectors; None while the service is away, which is asked again after a pause."""

    def __init__(self, gateway: Gateway, wanted: str) -> None:
        self._gateway = gateway
        self._picker = Picker(gateway, wanted)
        self._away_until = 0.0
        self._resolved: tuple[str, int] | None = None
        self.trouble = ""

    async def resolve(self, recorded: str | None) -> tuple[str, int] | None:
        """Model and dimension in force, None while no model answers; `recorded` is preferred."""
        if self._resolved is None and time.monotonic() >= self._away_until:
            try:
                name = await self._picker.pick(self._request, recorded)
                vectors = await self._request(name)
                self._resolved = name, len(vectors[0])
                self.trouble = ""
            except Unavailable as error:
                self._rest(error)
        return self._resolved

    async def embed(self, texts: Sequence[str]) -> list[list[float]] | None:
        if self._resolved is None or time.monotonic() < self._away_until:
            return None
        try:
            vectors = await self._request(self._resolved[0], texts)
            self.trouble = ""
            return vectors
        except Unavailable as error:
            self._rest(error)
            return None

    async def check(self) -> str:
        if self._resolved is None:
            raise Unavailable(self.trouble or "No embedding model has answered yet.")
        await self._request(self._resolved[0])
        return f"{self._resolved[0]}, {self._resolved[1]} dimensions"

    def _rest(self, error: Unavailable) -> None:
        FAILURES["embedding"] += 1
        self.trouble = str(error)
        self._away_until = time.monotonic() + PAUSE_S

    async def _request(self, name: str, texts: Sequence[str] = ("dimension",)) -> list[list[float]]:
        body = {"model": name, "input": list(texts), "encoding_format": "float"}
        answer = await self._gateway.post("embeddings", body, timeout=60)
        try:
            return [item["embedding"] for item in answer["data"]]
        except (KeyError, TypeError) as error:
            raise Unavailable(f"The model {name} gives no embeddings.") from error
