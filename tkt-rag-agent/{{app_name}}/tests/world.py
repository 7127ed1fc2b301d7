"""What the tests are made of: services in memory, and a model gateway that does as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from agent.gateway import ChatModel, EmbeddingModel, Gateway
from agent.index import Index
from agent.ingest import Outcome, Source, ingest
from agent.limits import Limits
from agent.measures import Measures
from agent.qdrant_embedded import Embedded
from agent.runs import Runs
from agent.services import Services
from agent.settings import Settings
from agent.store import Store
from agent.tracing import Tracing

LEASE = (
    "# Lease of Mill Lane\n\n## Rent\n\nThe monthly rent is 1,250 pounds, due on the first day.\n\n"
    "## Pets\n\nThe tenant may keep one small dog with the landlord's consent."
)


class FakeGateway:
    """An OpenAI-compatible gateway without a network: it remembers what it was asked.

    `enqueue` says what the next chat completions stream: a text or its tokens, among which an
    Exception is raised and an `asyncio.Event` waited for; bytes are a raw body; an httpx.Response
    goes out as it is. With nothing in the queue it says "Yes [1]."
    """

    def __init__(self) -> None:
        self.chat_models = ["chat"]
        self.embedding_models = {"embed": 8}
        self.listed = ["chat", "embed"]
        self.away: set[str] = set()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.stopped = 0
        self._queue: list[Any] = []

    def enqueue(self, *replies: Any) -> None:
        self._queue += replies

    @property
    def http(self) -> httpx.AsyncClient:
        transport = httpx.MockTransport(self._answer)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway.test/v1/")

    def chats(self) -> list[dict[str, Any]]:
        """The streamed chat completions that were asked for."""
        return [body for path, body in self.requests if body.get("stream")]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        body = json.loads(request.content or b"{}")
        self.requests.append((path, body))
        if path in self.away:
            raise httpx.ConnectError("connection refused")
        if path == "models":
            return httpx.Response(200, json={"data": [{"id": name} for name in self.listed]})
        if path == "embeddings":
            return self._embeddings(body)
        if body["model"] not in self.chat_models:
            return httpx.Response(404, json={"error": "no such chat model"})
        return self._stream(body) if body.get("stream") else _completion()

    def _embeddings(self, body: dict[str, Any]) -> httpx.Response:
        if body["model"] not in self.embedding_models:
            return httpx.Response(400, json={"error": "no embedding model"})
        size = self.embedding_models[body["model"]]
        data = [{"embedding": embed(text, size)} for text in body["input"]]
        return httpx.Response(200, json={"data": data})

    def _stream(self, body: dict[str, Any]) -> httpx.Response:
        reply = self._queue.pop(0) if self._queue else "Yes [1]."
        if isinstance(reply, httpx.Response):
            return reply
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, bytes):
            return httpx.Response(200, content=reply)
        parts = re.findall(r"\S+\s*|\s+", reply) if isinstance(reply, str) else reply
        return httpx.Response(200, content=self._chunks(parts))

    async def _chunks(self, parts: Iterable[Any]) -> AsyncIterator[bytes]:
        try:
            for part in parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    yield sse({"choices": [{"delta": {"content": part}}]})
                    await asyncio.sleep(0.001)  # what comes at once is one token to the app
            yield sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.stopped += 1
            raise


def sse(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def embed(text: str, size: int) -> list[float]:
    """A vector that is near to that of a text with the same words."""
    vector = [0.01] * size
    for word in re.findall(r"\w+", text.lower()):
        vector[hashlib.sha256(word.encode()).digest()[0] % size] += 1
    return vector


def _completion() -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": "Hi"}}]})


def make_services(folder: Path, gateway: FakeGateway | None = None, **settings: Any) -> Services:
    """Services over `folder`; with a gateway its models `chat` and `embed`, or those in force."""
    chosen = Settings(_env_file=None, data_dir=folder, **settings)
    model = embedding = None
    if gateway:
        at = Gateway(gateway.http)
        model = ChatModel(at, settings.get("chat_model", "chat"), 100)
        embedding = EmbeddingModel(at, settings.get("embedding_model", "embed"))
    store, runs = Store(Embedded(folder), chosen.app_name, Index(embedding)), Runs()
    limits = Limits(chosen.requests_per_minute, chosen.concurrent_runs, chosen.upload_mb_per_hour)
    measures = Measures(runs, limits)
    return Services(chosen, store, model, embedding, Tracing(), runs, limits, measures)


async def take_in(services: Services, folder: Path, **texts: str) -> list[Outcome]:
    """Ingest `texts` as Markdown files, named by their keyword."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    sources = [Source(f"{name}.md", folder / f"{name}.md") for name in texts]
    return [outcome async for outcome in ingest(services, sources)]


@asynccontextmanager
async def api(services: Services | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app that runs with `services`; what the page shows is another matter."""
    from fastapi import FastAPI

    import app

    built, app._build_page = app._build_page, lambda _: FastAPI()
    application = app.create_app(services)
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    try:
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://app.test") as client,
        ):
            if services:
                application.state.started.set()  # without the wait for the first /health
            await application.state.started.wait()
            yield client
    finally:
        app._build_page = built
