"""The real LiteLLM proxy stands between the app and the model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from parts.environments import environment
from parts.programs import free_port
from tests import live
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import App, ask, load, started, status, wait_until

pytestmark = pytest.mark.slow
LITELLM = [
    "litellm[proxy]==1.106.2",  # newer ones want a certifi that is not on the index yet
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp-proto-http==1.45.2",
]
KEY = "sk-litellm"
LEASE = {"lease.txt": "The rent is 900 pounds a month.\n\nNo dogs are allowed."}
QUESTION = "What is the rent a month?"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Gateway]]:
    """The proxy's URL and the double behind it."""
    gateway = Gateway()
    folder = tmp_path_factory.mktemp("litellm")
    with running(gateway.app) as url:
        port = free_port()
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(url)))
        command = ["litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        path = f"{environment('litellm', LITELLM)}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        log = (folder / "log").open("wb")
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(process, folder / "log", f"{address}/health/liveliness"))
            yield address, gateway
        finally:
            process.kill()
            process.wait()


def configuration(url: str) -> dict[str, Any]:
    behind = {"api_base": f"{url}/v1", "api_key": "sk-double"}
    return {
        "model_list": [
            {"model_name": "meaning", "litellm_params": {"model": "openai/double-embed", **behind}},
            {"model_name": "talk", "litellm_params": {"model": "openai/double", **behind}},
        ],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"num_retries": 0},
    }


def answers(process: subprocess.Popen[bytes], log: Path, address: str) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def app(proxy: tuple[str, Gateway]) -> Iterator[App]:
    with started(LITELLM_ENDPOINT=proxy[0], LITELLM_MASTER_KEY=KEY) as app:
        load(app, LEASE)
        yield app


def test_auto_finds_the_model_that_chats_and_the_one_that_embeds(app: App) -> None:
    ready = status(app, "/ready")
    assert ready["ready"] is True
    assert ready["services"]["model"]["detail"] == "talk"
    assert ready["services"]["embedding"]["detail"].startswith("meaning, 256 dimensions")
    assert [document["embedding"] for document in status(app, "/api/documents")] == ["meaning"]


def test_an_answer_is_streamed_through_it(
    app: App, proxy: tuple[str, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy[1], "tokens_per_second", 10)  # what comes at once is one piece
    body = {"question": QUESTION, "stream": True}
    with app.http.stream("POST", "/api/chat", json=body) as response:
        events = list(live.frames(response.iter_lines()))
    tokens = [data["text"] for _, kind, data in events if kind == "token"]
    assert len(tokens) > 3
    assert "".join(tokens) == "The rent is 900 pounds a month [1]."
    assert events[-1][2]["mode"] == "model"
    chats = [request.body for request in proxy[1].requests if "messages" in request.body]
    assert chats[-1]["stream"] is True


def test_a_wrong_key_gives_a_quotation_that_says_so(proxy: tuple[str, Gateway]) -> None:
    with started(LITELLM_ENDPOINT=proxy[0], LITELLM_MASTER_KEY="sk-wrong") as app:
        load(app, LEASE)
        answer = ask(app, QUESTION)
        assert answer["mode"] == "extractive"
        assert "900 pounds" in answer["answer"]
        # 400 from a LiteLLM without a database of keys, 401 from the platform's.
        assert "answers 400" in answer["answer"] or "answers 401" in answer["answer"]
