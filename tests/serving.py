"""A rendered tkt-vllm-gradio to live in, with an engine double in the place of vLLM.

    with served(folder, {"step_s": 0.2}) as app:
        app.say("Hello")

`served` waits until the model answers; `loading` does not.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.live import READY_S, VLLM, App, launched, wait_until
from tests.rendering import ROOT

ENGINE = ROOT / "tests" / "doubles" / "engine.py"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
"""Of a model with about 7 billion parameters."""


@dataclass
class Served:
    """A running app and the double behind it; `state` is what the double wrote at its start."""

    app: App
    place: Path

    @property
    def http(self) -> httpx.Client:
        return self.app.http

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.place.read_text())) if self.place.exists() else {}

    @property
    def words(self) -> list[str]:
        """The engine's command line."""
        return list(self.state["argv"])

    def flag(self, name: str) -> str | None:
        words = self.words
        return words[words.index(name) + 1] if name in words else None

    def double(self, **set_to: Any) -> dict[str, Any]:
        """What the double has counted; with words, set them."""
        url = f"http://127.0.0.1:{self.state['port']}/_double"
        return dict((httpx.post(url, json=set_to) if set_to else httpx.get(url)).json())

    def ready(self) -> dict[str, Any]:
        return dict(self.http.get("/ready").json())

    def until(self, state: str, limit_s: float = READY_S) -> dict[str, Any]:
        """/ready, once it says so."""
        return dict(wait_until(lambda: (now := self.ready())["state"] == state and now, limit_s))

    def say(self, text: str = "Hello there", **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}]} | more
        return self.http.post("/api/chat", json=body)

    def chat(self, text: str = "Hello there", **more: Any) -> httpx.Response:
        """At /v1, as the openai client asks."""
        body = {"model": "model", "messages": [{"role": "user", "content": text}]} | more
        return self.http.post("/v1/chat/completions", json=body)


def model_folder(folder: Path, **config: Any) -> Path:
    """A model as far as it is read before it is loaded: its configuration, and how large it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    weights = folder / "model.safetensors"
    weights.touch()
    with weights.open("r+b") as file:
        file.truncate(15 * 2**30)  # a hole, which takes no room on the disk
    return folder


def adapter_folder(folder: Path, rank: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    return folder


@contextmanager
def loading(folder: Path, double: dict[str, Any] | None = None, **env: Any) -> Iterator[Served]:
    """An app that was just started."""
    place = folder / "engine.json"
    options = {"state": str(place), "tokens_per_second": 500} | (double or {})
    given = {
        "ENGINE": "vllm",
        "ENGINE_COMMAND": shlex.join([sys.executable, str(ENGINE)]),
        "MODEL_ID": model_folder(folder / "model"),
        "ENGINE_ARGS": shlex.join(["--double", json.dumps(options)]),
        "LOG_FORMAT": "text",
    } | env
    with launched(template=VLLM, **given) as app:
        wait_until(lambda: _answers(app))
        yield Served(app, place)


def _answers(app: App) -> bool:
    assert app.process.poll() is None, f"It did not start:\n{app.log}"
    try:
        return app.http.get("/health").is_success
    except httpx.TransportError:
        return False


@contextmanager
def served(folder: Path, double: dict[str, Any] | None = None, **env: Any) -> Iterator[Served]:
    """An app whose model answers."""
    with loading(folder, double, **env) as here:
        here.until("ready")
        yield here
