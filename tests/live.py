"""A rendered app to live in, tkt-rag-agent or another: rendered, installed, started, talked to.

    with started(LITELLM_ENDPOINT=url, LITELLM_MASTER_KEY="sk-double") as app:
        load(app, {"lease.md": "The rent is 900 pounds."})
        assert ask(app, "How much is the rent?")["answered"]

The app runs as its Containerfile starts it, with no other environment variables than the given
ones, and cannot leave this machine: see guard/sitecustomize.py.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from parts import apps
from parts.programs import free_port
from tests.rendering import ROOT, render

RAG, VLLM = "tkt-rag-agent", "tkt-vllm-gradio"
GUARD = Path(__file__).resolve().parent / "guard"
READY_S = 150
"""Patience alone, for a machine that is busy with much else; what has a bound is measured."""
KEY = {"LITELLM_MASTER_KEY": "sk-double"}
"""The gateway double's key."""
APP_KEY = "tka_the-key-of-a-test"
"""A key of the app itself, which `API_KEYS` lets in."""
API_KEYS = f"test:{hashlib.sha256(APP_KEY.encode()).hexdigest()}"


@cache
def rendered(template: str = RAG) -> Path:
    """The app's folder, rendered once a session, without trust."""
    folder = Path(tempfile.mkdtemp(prefix=f"{template}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    render(ROOT / template, folder, project_name="live")
    return folder / "live"


@cache
def bin_folder(template: str = RAG) -> Path:
    """Programs of an environment with the app's own requirements, and what a laptop adds."""
    return apps.programs(rendered(template), template)


@dataclass
class App:
    """A running app. `http` fails on any 503: an edge on the way would replace its body; it sends
    `key`, where strangers are kept out."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    key: str = ""

    def __post_init__(self) -> None:
        self.http = self.client(self.key)

    def client(self, key: str = "") -> httpx.Client:
        """A client of its own, with this key or token."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        hooks = {"response": [_is_no_503]}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, event_hooks=hooks)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def refused(self) -> list[str]:
        """Addresses on other machines that it tried to reach, "host:port"."""
        noted = self.folder / "refused"
        return noted.read_text().split() if noted.exists() else []

    def cpu_s(self) -> float:
        """CPU seconds of all threads since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, limit_s: float = 30) -> float:
        """SIGTERM, as Kubernetes sends it; gives the seconds until the process has ended."""
        begin = time.monotonic()
        self.process.terminate()
        self.process.wait(limit_s)
        return time.monotonic() - begin


def _is_no_503(response: httpx.Response) -> None:
    assert response.status_code != 503, f"{response.request.url} answers 503"


@contextmanager
def launched(
    data: Path | None = None,
    names: dict[str, int] | None = None,
    key: str = "",
    template: str = RAG,
    port: int = 0,
    **env: Any,
) -> Iterator[App]:
    """A process that was just started; nobody has waited for it. `data` outlives it when given,
    port 0 is a free one; `names` are those of servers here: {"host:port": local port}."""
    with tempfile.TemporaryDirectory(prefix="live-", ignore_cleanup_errors=True) as scratch:
        folder, port = Path(scratch), port or free_port()
        given = {"DATA_DIR": data or folder / "data", "TMPDIR": folder} | env
        whole = {
            name: str(value) for name, value in (_base(folder, names, template) | given).items()
        }
        with running(command(port, template), port, folder, whole, rendered(template), key) as app:
            yield app


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    folder: Path,
    env: dict[str, str],
    cwd: Path | None = None,
    key: str = "",
) -> Iterator[App]:
    """The app that `command` serves at `port`, with its log in `folder`; killed at the end."""
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
    app = App(f"http://127.0.0.1:{port}", child, folder, key)
    try:
        yield app
    finally:
        app.http.close()
        child.kill()
        child.wait()


@contextmanager
def started(
    data: Path | None = None,
    names: dict[str, int] | None = None,
    key: str = "",
    template: str = RAG,
    **env: Any,
) -> Iterator[App]:
    """An app that takes questions; its page may still be on its way."""
    with launched(data, names, key, template, **env) as app:
        wait_until(lambda: _has_started(app))
        yield app


def _has_started(app: App) -> bool:
    assert app.process.poll() is None, f"It did not start:\n{app.log}"
    ready = status(app, "/ready")
    return bool(ready) and "app" not in ready["services"]


def _base(folder: Path, names: dict[str, int] | None, template: str = RAG) -> dict[str, Any]:
    return {
        "PATH": f"{bin_folder(template)}:/usr/bin:/bin",
        "PYTHONPATH": GUARD,
        "REFUSED_LOG": folder / "refused",
        "NAMES": json.dumps(names or {}),
    }


def command(port: int, template: str = RAG) -> list[str]:
    return apps.command(rendered(template), port)


def wait_until(true: Callable[[], Any], limit_s: float = READY_S) -> Any:
    """What `true` gives once that is true."""
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.05)
    return found


def status(app: App, path: str) -> Any:
    """The JSON at `path`, None while nobody listens there."""
    try:
        return app.http.get(path).json()
    except httpx.TransportError:
        return None


def wait_for_page(app: App) -> str:
    return str(wait_until(lambda: "gradio" in (text := app.http.get("/").text) and text))


def settled(app: App) -> None:
    """Once nothing is imported any more, which would slow down what is measured: the tools at /mcp
    come after the page, and a note stands there until then."""
    wait_for_page(app)
    wait_until(lambda: app.http.get("/mcp").status_code != 200)


def health_during(app: App, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and the seconds of the slowest /health meanwhile."""
    slowest = 0.0
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(work)
        while not future.done():
            slowest = max(slowest, seconds_of_health(app))
            time.sleep(0.05)
    return future.result(), slowest


def seconds_of_health(app: App) -> float:
    begin = time.monotonic()
    assert app.http.get("/health").status_code == 200  # one client: a new one takes time
    return time.monotonic() - begin


def quietly(call: Callable[[], Any]) -> None:
    """In a thread, of a call whose app may end before it."""
    with suppress(httpx.HTTPError, ValueError):
        call()


def cpu_s_until_healthy(template: str = RAG) -> float:
    """CPU seconds from a start with an empty environment to its /health; the least of three
    starts, since whatever else runs on this machine makes each of them dearer."""
    spent = []
    for _ in range(3):
        with launched(template=template, DATA_DIR="", TMPDIR="") as app:
            health = wait_until(lambda here=app: status(here, "/health"))
            spent.append(app.cpu_s())
            assert (health["status"], health["component"]) == ("healthy", "app")
    return min(spent)


def load(app: App, documents: Mapping[str, str | bytes]) -> list[dict[str, Any]]:
    """Upload and wait; gives what became of each file."""
    files = [("files", (name, content)) for name, content in documents.items()]
    job = app.http.post("/api/documents", files=files).raise_for_status().json()
    address = f"/api/jobs/{job['job_id']}"
    job = wait_until(lambda: (now := status(app, address))["status"] != "running" and now)
    return list(job["files"])


def ask(app: App, question: str, **more: Any) -> Any:
    body = {"question": question} | more
    return app.http.post("/api/chat", json=body).raise_for_status().json()


def search(app: App, query: str, k: int = 5, **more: Any) -> Any:
    body = {"query": query, "k": k} | more
    return app.http.post("/api/search", json=body).raise_for_status().json()


def frames(lines: Iterable[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, type, data) of server-sent events."""
    number, kind = 0, ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "event":
            kind = value
        elif name == "data":
            yield number, kind, json.loads(value)
