"""What the platform checks before it builds the image: FastAPI, pydantic and pytest are enough.

The packages of `requirements.txt` are not installed there. So whatever needs CrewAI, NATS, Qdrant
or Gradio is tested beside this folder, and here is what stands without them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import app
from agent import prompts
from agent.journal import Changed
from agent.journal_local import LocalJournal
from agent.records import Record, load
from agent.rehearsal import Rehearsal
from agent.runs import Event, Run, Runs, segment
from agent.settings import HERE, Settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of(services: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app with as few services as a test needs; None is an app that starts."""
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

    served = {"/health", "/ready", "/metrics", "/api/crew", "/api/documents", "/api/runs"}
    of_a_run = {"/api/runs/{run_id}", "/api/runs/{run_id}/events", "/api/runs/{run_id}/approval"}
    assert served | of_a_run | {"/v1/models", "/v1/chat/completions"} <= set(paths)


async def test_a_request_that_is_too_large_or_makes_no_sense_is_a_problem_with_a_sentence() -> None:
    services = SimpleNamespace(settings=Settings(max_upload_mb=1), runs=Runs())
    async with client_of(services) as client:
        large = await client.post("/api/runs", content=b"x" * 2_000_000)
        empty = await client.post("/api/runs", json={"topic": " "})
        process = await client.post("/api/runs", json={"topic": "Heating", "process": "at random"})
        nowhere = await client.get("/api/nonsense")

    for answer, status in ((large, 413), (empty, 422), (process, 422), (nowhere, 404)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"].endswith(".")
        assert answer.json()["request_id"]


async def test_an_interrupted_stream_is_resumed_after_the_last_event_seen() -> None:
    async def work(_: Run) -> AsyncGenerator[Event, None]:
        yield Event("state", {"state": "running"})
        yield Event("task", {"task": "research", "status": "started"})
        yield Event("done", {"result": "A report."})

    run = Runs().start(work, 10)
    await run.wait(5)
    whole = "".join([part async for part in segment(run, 0)])
    rest = "".join([part async for part in segment(run, 2)])

    numbers = [line for line in whole.splitlines() if line.startswith("id:")]
    assert numbers == ["id: 1", "id: 2", "id: 3"]
    assert rest.endswith('id: 3\nevent: done\ndata: {"result": "A report."}\n\n')
    assert "id: 2" not in rest


async def test_a_run_that_nobody_has_finished_is_taken_up_at_the_next_start(tmp_path: Path) -> None:
    journal = LocalJournal(tmp_path, keep_days=30)
    await journal.start()
    record = await journal.create(Record("", "Heating", Settings().budget), key="once")
    again = await journal.create(Record("", "Heating", Settings().budget), key="once")
    older = await journal.read(record.id)
    record.outputs.append({"task": "research", "agent": "Researcher", "text": "Notes."})
    await journal.write(record)
    assert older
    with pytest.raises(Changed):
        await journal.write(older)
    await journal.close()

    journal = LocalJournal(tmp_path, keep_days=30)
    await journal.start()
    job = await journal.take()
    kept = await journal.read(job.run_id)
    await journal.close()

    assert again.id == record.id == job.run_id
    assert kept
    assert kept.outputs == record.outputs


def test_a_record_is_read_as_it_was_written() -> None:
    record = Record("someone", "Heating", Settings().budget, approve=["research"])

    assert load(record.dump(), record.revision) == record


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


def test_each_task_is_given_to_an_agent_that_is_in_the_crew() -> None:
    names = [step.name for step in prompts.TASKS]

    assert names, "a crew without a task does nothing"
    assert len(set(names)) == len(names)
    assert {step.agent for step in prompts.TASKS} <= set(prompts.AGENTS)


def test_the_crew_is_told_the_topic_and_what_people_say() -> None:
    assert any("{topic}" in step.description for step in prompts.TASKS)
    assert "{task}" in prompts.REVIEWED
    assert "{comment}" in prompts.REVIEWED


def test_no_agent_names_a_tool_that_does_not_exist() -> None:
    """The tools cannot be imported here, so their names are looked up in their file."""
    source = (HERE / "agent" / "tools.py").read_text()

    for role in prompts.AGENTS.values():
        for name in role.tools:
            assert f'"{name}":' in source, f"{role.role} names {name}; see TOOLS in tools.py"


async def test_a_rehearsal_says_that_it_is_one() -> None:
    said = await Rehearsal(pace_s=0).complete(
        [{"role": "user", "content": prompts.TASKS[-1].description.replace("{topic}", "Heating")}]
    )

    assert "no model is connected" in said.text


def test_every_requirement_is_pinned() -> None:
    lines = (HERE / "requirements.in").read_text().splitlines()

    assert all("==" in line for line in lines if line and not line.startswith("#"))
