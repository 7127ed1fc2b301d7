"""What the tests are made of: services in memory, and models that do as they are told."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from nats.aio.client import Client

import agent.crew  # noqa: F401 # now, or the first run's worker would be taken for lost
from agent.access import User
from agent.documents import Documents
from agent.gateway import Said
from agent.journal import Journal
from agent.journal_local import LocalJournal
from agent.journal_nats import NatsJournal
from agent.limits import Limits
from agent.measures import Measures
from agent.nats_server import NatsServer
from agent.qdrant_embedded import Embedded
from agent.records import Budget, Record
from agent.rehearsal import Rehearsal
from agent.runs import Event, Runs
from agent.services import Services
from agent.settings import Settings
from agent.tools import Toolbox
from agent.tracing import Tracing
from agent.work import Ask, begin, follow
from agent.worker import Worker

TASKS = ["research", "analysis", "draft", "edit"]
ANA = User("ana", "Ana")
BO = User("bo", "Bo")
PLENTY = Budget(60, 500_000, 2.0, 1800.0)
BESIDE = Path(sys.executable).with_name("nats-server")
NATS_SERVER = shutil.which("nats-server") or (str(BESIDE) if BESIDE.exists() else "")


# Models


@dataclass
class Asked:
    """What a model was asked in one call."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    @property
    def text(self) -> str:
        return "\n".join(str(message.get("content") or "") for message in self.messages)

    @property
    def tool_names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.tools or []]


class FakeModel:
    """A model without a network: it remembers what it was asked.

    `enqueue` says what it answers next: a text, or a whole `Said`; an Exception is raised, an
    `asyncio.Event` is waited for, and a function is asked with what the model was asked. With
    nothing in the queue it says "Noted."
    """

    rehearses = False

    def __init__(self, seconds: float = 0, dollars: float | None = 0.001) -> None:
        self.asked: list[Asked] = []
        self.stopped = 0
        """Calls that were cancelled."""
        self.now = 0
        """Calls that are being answered."""
        self.otherwise: Any = "Noted."
        self._seconds, self._dollars, self._queue = seconds, dollars, deque[Any]()

    def enqueue(self, *replies: Any) -> None:
        self._queue += replies

    async def complete(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        stop: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Said:
        asked = Asked(messages, tools)
        self.asked.append(asked)
        reply = self._queue.popleft() if self._queue else self.otherwise
        self.now += 1
        try:
            await asyncio.sleep(self._seconds)
            if isinstance(reply, asyncio.Event):
                await reply.wait()
                reply = self.otherwise
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        finally:
            self.now -= 1
        if callable(reply):
            reply = reply(asked)
        if isinstance(reply, BaseException):
            raise reply
        return reply if isinstance(reply, Said) else self._say(reply)

    def _say(self, text: str) -> Said:
        return Said(text, "fake", input=10, output=5, dollars=self._dollars)

    async def name(self) -> str:
        return "fake"

    async def check(self) -> str:
        return "fake"


def wants(tool: str, /, **arguments: Any) -> Said:
    """The answer of a model that wants a tool to be used."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{tool}_{len(str(arguments))}", "type": "function", "function": function}
    return Said("", "fake", [call], 10, 5, 0.001)


class FakeGateway:
    """An OpenAI-compatible gateway without a network: it remembers what it was asked.

    `enqueue` says what the next chat completions are: a text, an Exception that is raised, bytes
    as a raw body, an httpx.Response. With nothing in the queue it says "Yes."
    """

    def __init__(self) -> None:
        self.chat_models = ["chat"]
        self.listed: Any = ["chat"]
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        """Of every answer that is a text."""
        self.usage: Any = {"prompt_tokens": 7, "completion_tokens": 3}
        self._queue: list[Any] = []

    def enqueue(self, *replies: Any) -> None:
        self._queue += replies

    @property
    def http(self) -> httpx.AsyncClient:
        transport = httpx.MockTransport(self._answer)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway.test/v1/")

    def chats(self) -> list[dict[str, Any]]:
        return [body for path, body in self.requests if path == "chat/completions"]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        body = json.loads(request.content or b"{}")
        self.requests.append((path, body))
        if path == "models":
            if isinstance(self.listed, httpx.Response):
                return self.listed
            return httpx.Response(200, json={"data": [{"id": name} for name in self.listed]})
        if body["model"] not in self.chat_models:
            return httpx.Response(404, json={"error": "no such chat model"})
        if body["max_tokens"] == 1:  # `auto` only asks whether it answers
            return self.completion({"content": "Y"})
        reply = self._queue.pop(0) if self._queue else "Yes."
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, bytes):
            return httpx.Response(200, content=reply)
        if isinstance(reply, httpx.Response):
            return reply
        return self.completion({"content": reply})

    def completion(self, message: dict[str, Any]) -> httpx.Response:
        body: dict[str, Any] = {"choices": [{"message": message}], "usage": self.usage}
        return httpx.Response(200, json=body, headers=self.headers)


# Services


async def make_services(
    folder: Path, model: Any = None, journal: Journal | None = None, **settings: Any
) -> Services:
    """Services over `folder`, with a worker that is not at work yet."""
    if isinstance(journal, NatsJournal):
        settings.setdefault("ack_wait_s", journal._ack_wait_s)
    folder.mkdir(exist_ok=True)
    chosen = Settings(_env_file=None, data_dir=folder, **settings)
    if journal is None:
        journal = LocalJournal(folder / "runs", chosen.keep_days)
        await journal.start()
    (folder / "qdrant").mkdir(exist_ok=True)
    limits = Limits(chosen.requests_per_minute, chosen.concurrent_runs, chosen.upload_mb_per_hour)
    return Services(
        chosen,
        journal,
        Worker(chosen.runs_at_once, chosen.ack_wait_s),
        model or Rehearsal(0),
        Toolbox(Documents(Embedded(folder / "qdrant"), chosen.app_name)),
        Tracing(),
        Runs(),
        limits,
        Measures(limits),
    )


def with_worker(services: Services) -> Services:
    """The same services with a worker of its own, as another process would have."""
    worker = Worker(services.settings.runs_at_once, services.settings.ack_wait_s)
    return replace(services, worker=worker)


async def ask(services: Services, topic: str = "Which heating?", **wanted: Any) -> Record:
    """Begin a run."""
    return await begin(services, Ask(topic, **{"user": ANA} | wanted))


async def ended(services: Services, record: Record, seconds: float = 8) -> Record:
    """The record of a run that has come to its end."""
    run = await follow(services, record.id, User(record.owner))
    last = await run.wait(seconds)
    assert last, f"the run has not ended: {[e.type for e in run.events]}"
    return await kept(services.journal, record.id)


async def in_state(services: Services, record: Record, state: str, seconds: float = 8) -> Record:
    """The record of a run once it is in this state."""

    async def there() -> bool:
        return (await kept(services.journal, record.id)).state == state

    await until(there, seconds)
    return await kept(services.journal, record.id)


async def kept(journal: Journal, run_id: str) -> Record:
    record = await journal.read(run_id)
    assert record
    return record


async def happened(journal: Journal, run_id: str, count: int) -> list[Event]:
    """The first `count` events of a run."""
    found: list[Event] = []
    async with asyncio.timeout(8):
        async for event in journal.events(run_id):
            found.append(event)
            if len(found) == count:
                break
    return found


async def until(condition: Callable[[], Any], seconds: float = 8) -> None:
    """Wait for a condition, which may be a coroutine's result."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < deadline, "this did not come about"
        await asyncio.sleep(0.01)


def a_record(owner: str = "ana", topic: str = "Which heating?", **fields: Any) -> Record:
    return Record(owner, topic, PLENTY, **fields)


# Journals


class Jetstream:
    """A NATS server that can be stopped and started again at the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._options = options or ("-js", "-sd", str(folder))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        place = ["-a", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            [NATS_SERVER, *place, *self._options], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError("the NATS server does not start")

    async def connect(self, app: str = "crew", token: str = "") -> NatsServer:
        server = NatsServer(Client(), self.url, token, app)
        await server.connect()
        return server

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class Journals:
    """Opens one and the same journal, as often as one wants; a local one once at a time."""

    folder: Path
    server: Jetstream | None
    stack: AsyncExitStack
    ack_wait_s: float = 1
    _open: list[Any] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        return self.server is not None

    async def open(self) -> Any:
        journal: Any = LocalJournal(self.folder, 30)
        if self.server:
            connection = await self.server.connect()
            journal = NatsJournal(connection, 30, self.ack_wait_s)
        await journal.start()
        self._open.append(journal)
        self.stack.push_async_callback(self.close, journal)
        return journal

    async def services(self, model: Any = None, **settings: Any) -> Services:
        """As one process more has them."""
        journal = await self.open()
        self._open.remove(journal)  # its services close it
        folder = self.folder.with_name(f"process-{id(journal)}")
        made = await make_services(folder, model, journal, **settings)
        self._open.append(made)
        self.stack.push_async_callback(self.close, made)
        return made

    async def close(self, opened: Any) -> None:
        if opened in self._open:
            self._open.remove(opened)
            await opened.close()


# The app


@asynccontextmanager
async def api(services: Services | None, **client: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app that runs with `services`; what the page shows is another matter."""
    from fastapi import FastAPI

    import app

    built, app._build_page = app._build_page, lambda _: FastAPI()
    application = app.create_app(services)
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    try:
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://app.test", **client) as opened,
        ):
            if services:
                application.state.started.set()  # without the wait for the first /health
            await application.state.started.wait()
            yield opened
    finally:
        app._build_page = built
