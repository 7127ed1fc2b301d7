"""Which servers the notebooks talk to: the platform's where their variables are set, else the same
programs on this machine, from packages.

    gateway = litellm()     # a model behind LiteLLM
    address = nats()
    uri = mlflow()
    url = qdrant()
    traced = langfuse()     # it has no package, so without its keys nothing is traced
    folder = app("tkt-rag-agent")   # that template, rendered

Each says in a line what is used. What was started ends with the notebook's kernel.
"""

from __future__ import annotations

import atexit
import base64
import importlib.metadata
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".laptop"
"""What outlives a kernel on a laptop: MLflow's store."""
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its makers need not hear of this
_started = ExitStack()
atexit.register(_started.close)


def install(requirements: str) -> None:
    """Install the pins of a file beside the notebook where they are not there already."""
    wanted = [line.split("#")[0].strip() for line in Path(requirements).read_text().splitlines()]
    missing = [pin for pin in wanted if pin and not _there(pin)]
    if not missing:
        print(f"{requirements}: everything is installed.")
        return
    print(f"{requirements}: installing {len(missing)} packages ...")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--requirement", requirements], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{requirements} could not be installed: {done.stderr[-500:]}")
    print("Installed. If one of them was imported before, restart the kernel.")


def _there(pin: str) -> bool:
    name, _, version = pin.partition(";")[0].partition("==")
    try:
        return importlib.metadata.version(name.partition("[")[0].strip()) == version.strip()
    except importlib.metadata.PackageNotFoundError:
        return False


@dataclass(frozen=True)
class Gateway:
    """An OpenAI-compatible gateway at `url`, which ends in /v1."""

    url: str
    key: str = field(repr=False)
    chat: str
    """A model that chats."""
    embedding: str = ""
    """A model that embeds; "" where there is none."""
    small: bool = False
    """The tiny model of a laptop answers: fluent, and mostly wrong."""


def litellm(script: Callable[[dict[str, Any]], Any] | None = None) -> Gateway:
    """LiteLLM with a model behind it. On a laptop the model is SmolLM2-135M, or `script`, which
    gets the body of a request and gives text or tool calls, where a model must use tools."""
    if not (endpoint := os.environ.get("LITELLM_ENDPOINT", "")):
        return _litellm_here(script)
    url = endpoint.rstrip("/").removesuffix("/v1") + "/v1"
    key = os.environ.get("LITELLM_MASTER_KEY", "")
    listed = [row["id"] for row in _ask(url, key, "models")["data"]]
    wanted = [
        os.environ[name] for name in ("CHAT_MODEL", "EMBEDDING_MODEL") if os.environ.get(name)
    ]
    if unknown := [name for name in wanted if name not in listed]:
        raise RuntimeError(
            f"LiteLLM at {url} has no model {unknown[0]}, but {', '.join(listed) or 'none'}: "
            "correct CHAT_MODEL or EMBEDDING_MODEL."
        )
    chat = os.environ.get("CHAT_MODEL") or _first(url, key, listed, "chat/completions")
    if not chat:
        raise RuntimeError(
            f"No model at {url} answers, of {', '.join(listed) or 'none'}: load one there, or name "
            "it in CHAT_MODEL."
        )
    others = [name for name in listed if name != chat]
    embedding = os.environ.get("EMBEDDING_MODEL") or _first(url, key, others, "embeddings")
    print(f"LiteLLM: {url}, model {chat}, embeddings {embedding or 'none'}.")
    return Gateway(url, key, chat, embedding)


def _first(url: str, key: str, names: list[str], path: str) -> str:
    """The first of these models that answers there; "" when none does."""
    asked = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
    body = {"input": "yes"} if path == "embeddings" else asked
    for name in names[:8]:
        try:
            _ask(url, key, path, {"model": name, **body})
        except RuntimeError:
            continue
        return name
    return ""


def _ask(url: str, key: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = Request(f"{url}/{path}", data, {"Authorization": f"Bearer {key}"})
    request.add_header("Content-Type", "application/json")
    return _answer("LiteLLM", request, "LITELLM_ENDPOINT", "LITELLM_MASTER_KEY")


def _answer(service: str, request: Request, address: str, key: str) -> Any:
    """The JSON that a service answers with; RuntimeError that names the variables to look at."""
    at = f"{service} at {request.type}://{request.host}"
    try:
        with urlopen(request, timeout=60) as response:
            return json.load(response)
    except HTTPError as error:
        hint = f"check {key}" if error.code in (400, 401, 403) else "look at its log"
        raise RuntimeError(f"{at} answers {error.code}; {hint}.") from None
    except (URLError, OSError, ValueError) as error:
        raise RuntimeError(
            f"{at} does not answer ({error}); check {address}, or unset it to use this machine."
        ) from None


def _litellm_here(script: Callable[[dict[str, Any]], Any] | None) -> Gateway:
    from parts.litellm import Model, proxy

    folder = Path(tempfile.mkdtemp(prefix="litellm-"))
    models = {"script" if script else "small": _scripted(script) if script else _small(folder)}
    if script:
        models["embeddings"] = Model(models["script"].url, models["script"].key, "double-embed")
    here = _started.enter_context(proxy(folder, models))
    chat = next(iter(models))
    what = "a script that plays the model" if script else "SmolLM2-135M"
    print(f"LiteLLM: on this machine, with {what} behind it.")
    return Gateway(
        f"{here.url}/v1", here.key, chat, "embeddings" if script else "", small=not script
    )


def _small(folder: Path) -> Any:
    """SmolLM2-135M on the CPU, as tkt-vllm-gradio starts it where there is no GPU."""
    from parts.apps import programs
    from parts.litellm import Model
    from parts.programs import answers, free_port, running

    template = "tkt-vllm-gradio"
    home = app(template)
    port, key = free_port(), secrets.token_hex(8)
    command = [programs(home, template) / "python", "-m", "agent.small", "--host", "127.0.0.1"]
    command += ["--port", port, "--served-model-name", "small"]
    env = {"PATH": os.environ["PATH"], "VLLM_API_KEY": key}
    url = f"http://127.0.0.1:{port}"
    server = running(
        command, folder / "small.log", lambda: answers(f"{url}/health"), env=env, cwd=home
    )
    _started.enter_context(server)
    return Model(f"{url}/v1", key, "small")


def _scripted(script: Callable[[dict[str, Any]], Any]) -> Any:
    from parts.litellm import Model
    from tests.doubles.gateway import Gateway as Double
    from tests.doubles.serve import running

    class Scripted(Double):
        def _answer(self, body: dict[str, Any]) -> Any:
            return script(body)

    key = secrets.token_hex(8)
    url = _started.enter_context(running(Scripted(models=["script"], key=key).app))
    return Model(f"{url}/v1", key, "script")


def nats() -> str:
    """The address of a NATS server."""
    if address := os.environ.get("NATS_URL"):
        place = urlsplit(address)
        try:
            socket.create_connection((place.hostname or "", place.port or 4222), 10).close()
        except OSError as error:
            raise RuntimeError(
                f"NATS at {place.hostname} does not answer ({error}); check NATS_URL, or unset it "
                "to use this machine."
            ) from None
        print(f"NATS: {place.hostname}.")
        return address
    from parts.nats import server

    address = _started.enter_context(server(Path(tempfile.mkdtemp(prefix="nats-"))))
    print("NATS: a server on this machine, with JetStream.")
    return address


def mlflow() -> str:
    """MLflow's tracking URI. Its runs and models on a laptop stay in `.laptop/`."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        models = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/search?max_results=1"
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        given = {"Authorization": f"Bearer {token}"} if token else {}
        _answer(
            "MLflow", Request(models, headers=given), "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"
        )
        print(f"MLflow: {uri}.")
        return uri
    from parts.mlflow import server

    folder = KEPT / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    here = _started.enter_context(server(folder))
    print("MLflow: a server on this machine.")
    return here.url


def qdrant() -> str:
    """The address of a Qdrant; "" where the notebook is to run its engine by itself."""
    url = os.environ.get("QDRANT_URL", "").rstrip("/")
    if url:
        if url.startswith("https://") and not urlsplit(url).port:
            url += ":443"  # or its client goes to port 6333
        request = Request(f"{url}/collections")
        _answer("Qdrant", request, "QDRANT_URL", "QDRANT_URL")
    print(f"Qdrant: {url or 'inside this notebook'}.")
    return url


def langfuse() -> bool:
    """Whether traces go to Langfuse."""
    host = os.environ.get("LANGFUSE_HOST") or "https://cloud.langfuse.com"
    keys = os.environ.get("LANGFUSE_PUBLIC_KEY"), os.environ.get("LANGFUSE_SECRET_KEY")
    if all(keys):
        basic = base64.b64encode(":".join(map(str, keys)).encode()).decode()
        projects = Request(
            f"{host}/api/public/projects", headers={"Authorization": f"Basic {basic}"}
        )
        _answer("Langfuse", projects, "LANGFUSE_HOST", "LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY")
        print(f"Langfuse: {host}.")
        return True
    print("Langfuse: off, as LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set.")
    return False


def app(template: str) -> Path:
    """The folder of an app, rendered from this template for the length of the kernel."""
    from parts.apps import render

    home = _started.enter_context(tempfile.TemporaryDirectory(prefix="app-"))
    return render(template, Path(home), template.removeprefix("tkt-"))
