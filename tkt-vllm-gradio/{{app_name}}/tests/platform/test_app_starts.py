"""What the platform checks before it builds the image: FastAPI, pydantic and pytest are enough.

The packages of `requirements.txt` are not installed there. So whatever needs Gradio, the hub or a
GPU is tested beside this folder, and here is what stands without them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

import app
from agent.engine import Engine
from agent.errors import Refused
from agent.fit import fit, needs
from agent.gpu import GIB, Card
from agent.hub import Hub
from agent.limits import Limits
from agent.runs import Event, Run, Runs
from agent.settings import HERE, Settings
from agent.weights import Sources

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
    assert answer.json()["state"] == "loading"


async def test_the_api_describes_itself() -> None:
    async with client_of(None) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]

    served = {"/health", "/ready", "/metrics", "/api/chat", "/api/model", "/api/adapters"}
    assert served | {"/v1/models", "/v1/chat/completions", "/v1/completions"} <= set(paths)


async def test_a_request_that_is_too_large_or_makes_no_sense_is_a_problem_with_a_sentence() -> None:
    services = SimpleNamespace(settings=Settings(max_upload_mb=1), runs=Runs())
    async with client_of(services) as client:
        large = await client.post("/api/chat", content=b"x" * 2_000_000)
        wrong = await client.post("/api/chat", json={"messages": []})
        unknown = await client.get("/api/runs/nonsense")
        nowhere = await client.get("/api/nonsense")

    for answer, status in ((large, 413), (wrong, 422), (unknown, 404), (nowhere, 404)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"].endswith(".")
        assert answer.json()["request_id"]


async def test_an_interrupted_stream_is_resumed_after_the_last_event_seen() -> None:
    async def work(_: Run) -> AsyncGenerator[Event, None]:
        for text in ("A ", "lighthouse "):
            yield Event("token", {"text": text})
        yield Event("done", {"answer": "A lighthouse "})

    services = SimpleNamespace(settings=Settings(), runs=Runs())
    run = services.runs.start(work, 10)
    await run.wait(5)
    async with client_of(services) as client:
        path = f"/api/runs/{run.id}/events"
        whole = await client.get(path)
        rest = await client.get(path, headers={"Last-Event-ID": "2"})
        none = await client.get(path, headers={"Last-Event-ID": "3"})

    numbers = [line for line in whole.text.splitlines() if line.startswith("id:")]
    assert numbers == ["id: 1", "id: 2", "id: 3"]
    assert rest.text.endswith('id: 3\nevent: done\ndata: {"answer": "A lighthouse "}\n\n')
    assert "id: 2" not in rest.text
    assert none.status_code == 204


async def test_while_the_model_loads_v1_says_so_in_the_form_that_its_clients_know() -> None:
    settings = Settings(model_id="Qwen/Qwen2.5-7B-Instruct")
    engine = Engine(settings, Sources(Hub(""), None), lambda *_: httpx.AsyncClient(), list)
    engine.phase, engine.detail = "weights", "50 %"
    counted = MagicMock()  # what counts is not installed here
    services = SimpleNamespace(
        settings=settings, engine=engine, limits=Limits(0, 0, 0), measures=counted
    )
    async with client_of(services) as client:
        answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": []})
        other = await client.post("/v1/load_lora_adapter", json={})

    sentence = "The model Qwen/Qwen2.5-7B-Instruct is being loaded (50 %); ask again in a while."
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == sentence
    counted.passed.labels.assert_called_once_with("/v1/chat/completions", 502)
    assert other.status_code == 404, "what changes the engine is not handed on"


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    config = {
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    }  # fmt: skip
    card = Card("NVIDIA GeForce RTX 4090", 24 * GIB, 24 * GIB, (8, 9))

    with pytest.raises(Refused) as refusal:
        fit("Llama-3-70B", needs(config, 141_000_000_000), [card])

    sums = r"131\.3 GiB of weights .* out of 21\.6 GiB \(0\.90 of NVIDIA GeForce RTX 4090 with 24"
    assert re.search(sums, str(refusal.value))


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
    monkeypatch.setenv("MODEL_ID", "from/the-environment")

    settings = Settings()

    assert settings.app_name == "from-the-environment"
    assert settings.model_id == "from/the-environment"


@pytest.mark.parametrize(
    "name", ["requirements.in", "requirements-engine.in", "requirements-small.txt"]
)
def test_every_requirement_is_pinned(name: str) -> None:
    lines = (HERE / name).read_text().splitlines()
    required = [line for line in lines if line and not line.startswith("#")]

    assert required
    assert all("==" in line for line in required)
