"""vLLM's own engine, on the CPU: the app starts it, hears it, speaks with it, and ends it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import cpu_engine
from tests.live import App, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
ADAPTER = """
import json, pathlib, sys, torch
from safetensors.torch import save_file
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
torch.manual_seed(0)
part = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
tensors = {}
for layer in range(30):
    for name, out in (("q_proj", 576), ("v_proj", 192)):
        tensors[part.format(layer, name, "A")] = torch.randn(8, 576) * 0.1
        tensors[part.format(layer, name, "B")] = torch.randn(out, 8) * 0.1
save_file(tensors, folder / "adapter_model.safetensors")
config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"],
          "bias": "none", "task_type": "CAUSAL_LM"}
(folder / "adapter_config.json").write_text(json.dumps(config))
"""
"""Weights of chance: what is seen is that they are used, not that they are good."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, str, str]]:
    folder = tmp_path_factory.mktemp("lora") / "odd"
    python, _ = cpu_engine.installed()
    subprocess.run([python, "-c", ADAPTER, folder], check=True)
    with cpu_engine.served(ADAPTERS=f"odd={folder}") as found:
        yield found


@pytest.fixture
def app(engine: tuple[App, str, str]) -> App:
    return engine[0]


def say(app: App, text: str, **more: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0} | more
    return app.http.post("/api/chat", json=body)


def done(app: App, text: str, **more: object) -> dict[str, Any]:
    """The answer, also when it took longer than an edge would wait."""
    reply = say(app, text, **more).json()
    if "answer" in reply:
        return dict(reply)
    path = f"/api/runs/{reply['run_id']}"
    ended = wait_until(lambda: (now := app.http.get(path).json())["state"] != "running" and now)
    return dict(ended["result"])


def running(app: App) -> int:
    """Answers that the engine is writing, as it says itself."""
    return int(app.http.get("/api/model").json()["load"]["running"])


def test_its_log_was_understood_on_the_way(app: App) -> None:
    for phase in ("starting", "weights", "graphs", "ready"):
        assert f"The engine: {phase}" in app.log
    told = app.http.get("/api/model").json()
    assert told["context"] == 1024
    assert told["cache_tokens"] > 10_000
    assert told["load"] == {"running": 0, "waiting": 0, "cache": 0.0}


def test_it_answers_through_each_door(app: App) -> None:
    answered = done(app, "What is the capital of France?", max_tokens=24)
    assert "Paris" in answered["answer"]
    assert answered["usage"]["output"] > 3
    assert answered["tokens_per_s"] > 1
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 24,
    }
    whole = app.http.post("/v1/chat/completions", json=body, timeout=60).json()
    assert whole["choices"][0]["message"]["content"] == answered["answer"]
    with app.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        chunks = [json.loads(x[6:]) for x in answer.iter_lines() if x.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == answered["answer"]


def test_an_adapter_answers_otherwise_and_can_go(app: App) -> None:
    wait_until(lambda: app.http.get("/api/model").json()["adapters"] == ["odd"])
    base = done(app, "Say hello.", max_tokens=12)["answer"]
    odd = done(app, "Say hello.", max_tokens=12, model="odd")["answer"]
    assert base != odd
    assert app.http.delete("/api/adapters/odd").status_code == 200
    gone = say(app, "Say hello.", max_tokens=12, model="odd")
    assert gone.status_code == 422
    assert "does not exist" in gone.json()["detail"]


def test_a_client_that_leaves_ends_the_request_in_the_engine(app: App) -> None:
    body = {"model": "model", "max_tokens": 900, "ignore_eos": True, "stream": True,
            "messages": [{"role": "user", "content": "Count."}]}  # fmt: skip
    with app.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
        wait_until(lambda: running(app) == 1)
    wait_until(lambda: running(app) == 0)
    assert 'finished_reason="abort"' in app.http.get("/metrics").text


def test_a_run_that_is_stopped_ends_in_the_engine_too(app: App) -> None:
    begun = say(app, "Count.", max_tokens=900, stream=True)
    run = begun.headers["x-run-id"]
    app.http.delete(f"/api/runs/{run}")
    wait_until(lambda: running(app) == 0)


def test_eight_at_once_get_their_own_answers(app: App) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [f"Repeat the number {n}." for n in range(8)]
        answers = list(threads.map(lambda text: say(app, text, max_tokens=16), asked))
    assert all(answer.status_code in (200, 202) for answer in answers)


def test_vllms_own_figures_are_shown(app: App) -> None:
    text = app.http.get("/metrics").text
    for name in ("vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_bucket"):
        assert name in text
    assert text.count("# TYPE process_cpu_seconds_total") == 1


def test_sigkill_leaves_none_of_its_processes_behind(engine: tuple[App, str, str]) -> None:
    """Nothing answers after it. By themselves vLLM's workers outlive its server."""
    app, _, _ = engine
    family = cpu_engine.descendants(app.process.pid)
    assert len(family) >= 3  # the guard, the server and its core at least
    app.process.kill()
    wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], 10)


def test_sigterm_ends_them_all_in_time() -> None:
    with cpu_engine.served() as (app, address, _):
        family = cpu_engine.descendants(app.process.pid)
        assert app.stop(29) < 25
        wait_until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], 10)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
