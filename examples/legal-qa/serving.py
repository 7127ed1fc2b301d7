"""The model's server: a rendered tkt-vllm-gradio with vLLM behind it, on a GPU or on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from plan import Plan

from parts import apps
from parts.environments import environment
from parts.litellm import Model

GREEDY = """--override-generation-config '{"temperature": 0}'"""
"""The likeliest word each time: the agent sends no temperature, and a tiny model strays at 1."""
READY_S = 900
"""A large model on a GPU is compiled for minutes."""


@contextmanager
def served(app: Path, folder: Path, plan: Plan, model: Path | str, **env: Any) -> Iterator[Model]:
    """The server of a model (a folder, a hub id, or `models:/…` of MLflow), ready to answer."""
    given = {"MODEL_ID": model, "ENGINE": "vllm", "ALIASES": "model", "LOG_FORMAT": "text", **env}
    given |= _engine_on_a_gpu(app) if plan.on_gpu else _engine_on_the_cpu()
    given["ENGINE_ARGS"] = f"{given.get('ENGINE_ARGS', '')} {GREEDY}"
    with apps.launched(app, "tkt-vllm-gradio", folder, **given) as url:
        _wait_until_ready(url, folder / "log")
        yield Model(f"{url}/v1", "none", "model")


def _engine_on_the_cpu() -> dict[str, Any]:
    from parts import vllm_cpu

    return {"ENGINE_COMMAND": vllm_cpu.command(), **vllm_cpu.ENV, "MAX_MODEL_LEN": 3072}


def _engine_on_a_gpu(app: Path) -> dict[str, Any]:
    """vLLM with the app's own pins, in an environment of its own. Not verified: no GPU was at
    hand."""
    pins = ["--requirement", app / "requirements-engine.txt"]
    python = environment("engine", pins) / "python"
    hub = {"HF_HOME": Path.home() / ".cache" / "huggingface"}  # downloaded once for all servers
    hub |= {name: os.environ[name] for name in ("HF_HOME", "HF_TOKEN") if name in os.environ}
    return {
        "ENGINE_COMMAND": f"{python} -m vllm.entrypoints.openai.api_server",
        "GPU_MEMORY_UTILIZATION": 0.42,  # while an alias moves, two of them share the card
        **hub,
    }


def _wait_until_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while (state := httpx.get(f"{url}/ready", timeout=30).json())["state"] != "ready":
        if state["state"] == "failed" or time.monotonic() > deadline:
            raise RuntimeError(f"The model server does not start: {state['detail']} Its log: {log}")
        time.sleep(0.5)
