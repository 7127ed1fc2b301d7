"""What the platform checks before it builds the image: FastAPI, pydantic and pytest are enough.

The packages of `requirements.txt` are not installed there. So whatever needs LangChain, Qdrant,
Gradio or a parser is tested beside this folder, and here is what stands without them.
"""

from __future__ import annotations

import string
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import app
from agent import prompts
from agent.extract import Extracted, Mark, extract
from agent.runs import Event, Run, Runs
from agent.settings import HERE, Settings
from agent.split import split

pytestmark = pytest.mark.anyio


class Few(SimpleNamespace):
    """As few services as a test needs, the same for everybody."""

    def of(self, _: Any) -> Few:
        return self


@asynccontextmanager
async def client_of(services: Any) -> AsyncIterator[httpx.AsyncClient]:
    application = app.create_app(services)
    if services:
        application.state.started.set()
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test") as client:
        yield client


async def test_health_answers_and_names_the_app() -> None:
    async with client_of(None) as client:
        answer = await client.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    assert answer.json()["component"] == "app"
    assert answer.json()["service"] == Settings().app_name


async def test_ready_is_200_also_while_the_app_starts() -> None:
    async with client_of(None) as client:
        answer = await client.get("/ready")

    assert answer.status_code == 200
    assert answer.json()["ready"] is False


async def test_the_api_describes_itself() -> None:
    async with client_of(None) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]

    assert {"/health", "/ready", "/api/documents", "/api/search", "/api/chat"} <= set(paths)


async def test_a_request_that_is_too_large_or_makes_no_sense_is_a_problem_with_a_sentence() -> None:
    services = Few(settings=Settings(max_upload_mb=1), runs=Runs())
    async with client_of(services) as client:
        large = await client.post("/api/chat", content=b"x" * 2_000_000)
        wrong = await client.post("/api/chat", json={"question": ""})
        unknown = await client.get("/api/runs/nonsense")

    for answer, status in ((large, 413), (wrong, 422), (unknown, 404)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"].endswith(".")
        assert answer.json()["request_id"]


async def test_an_interrupted_stream_is_resumed_after_the_last_event_seen() -> None:
    async def work(_: Run) -> AsyncGenerator[Event, None]:
        for text in ("The ", "rent "):
            yield Event("token", {"text": text})
        yield Event("done", {"answer": "The rent "})

    services = Few(settings=Settings(), runs=Runs())
    run = services.runs.start(work, 10)
    await run.wait(5)
    async with client_of(services) as client:
        path = f"/api/runs/{run.id}/events"
        whole = await client.get(path)
        rest = await client.get(path, headers={"Last-Event-ID": "2"})
        none = await client.get(path, headers={"Last-Event-ID": "3"})

    assert [line for line in whole.text.splitlines() if line.startswith("id:")] == [
        "id: 1",
        "id: 2",
        "id: 3",
    ]
    assert rest.text.endswith('id: 3\nevent: done\ndata: {"answer": "The rent "}\n\n')
    assert "id: 2" not in rest.text
    assert none.status_code == 204


@pytest.mark.skipif(not (HERE / "app.env").exists(), reason="no app.env: all is at its default")
def test_app_env_is_read_and_holds_only_settings_that_exist() -> None:
    lines = [line for line in (HERE / "app.env").read_text().splitlines() if "=" in line]
    given = {line.split("=", 1)[0].lower() for line in lines if not line.startswith("#")}

    assert given <= set(Settings.model_fields), "a setting that does not exist; see settings.py"
    for line in lines:
        if line.startswith("APP_NAME="):
            assert Settings().app_name == line.split("=", 1)[1].strip("\"'")


def test_the_environment_wins_over_app_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_NAME", "from-the-environment")

    assert Settings().app_name == "from-the-environment"


def test_passages_are_spans_of_the_text() -> None:
    text = "First page. " * 100 + "\n\n" + "Second page. " * 100
    document = Extracted(text, (Mark(0, 1, None), Mark(text.index("Second"), 2, "Two")))

    passages = split(document)

    assert {passage.page for passage in passages} == {1, 2}
    assert all(text[passage.start : passage.end] == passage.text for passage in passages)


def test_a_markdown_file_is_read() -> None:
    found = extract("a.md", b"# Lease\n\nRent is due.")

    assert "Rent is due." in found.text


@pytest.mark.parametrize(
    ("name", "needed", "also"),
    [
        ("ANSWER", set(), {"unknown"}),
        ("PASSAGES", {"passages", "question"}, set()),
        ("CONDENSE", {"history", "question"}, set()),
    ],
)
def test_a_prompt_holds_the_placeholders_that_it_needs_and_no_unknown_ones(
    name: str, needed: set[str], also: set[str]
) -> None:
    found = {field for _, field, _, _ in string.Formatter().parse(getattr(prompts, name)) if field}

    assert needed <= found <= needed | also


def test_every_requirement_is_pinned() -> None:
    lines = (HERE / "requirements.in").read_text().splitlines()

    assert all("==" in line for line in lines if line and not line.startswith("#"))
