"""An app at work before its double: what an answer is, and what documents are, by template."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from budgets_text import document, question
from rendered import Process, running, wait_for

from parts.programs import free_port
from tests.crewing import playing
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running as serving
from tests.serving import ENGINE, model_folder

ANSWERS = 100
DOCUMENTS = 1000
PARAGRAPHS = 7
"""Of a document: about 3,800 characters, a few passages."""
AT_ONCE = 100
"""Documents in an upload."""
FREE = {"REQUESTS_PER_MINUTE": 0, "CONCURRENT_RUNS": 0, "UPLOAD_MB_PER_HOUR": 0}


@dataclass
class Work:
    """An app that runs: `answer(n)` asks it the n-th question, `take_in(count)` loads documents,
    None where the template holds none; both end when the app has done it."""

    process: Process
    answer: Callable[[int], None]
    take_in: Callable[[int], None] | None


@contextmanager
def at_work(template: str, app: Path, folder: Path) -> Iterator[Work]:
    """The app with its model, whose double is outside its process. Embeddings are the gateway's
    too, of 256 dimensions."""
    known = {"tkt-rag-agent": _rag, "tkt-crewai-agent": _crew, "tkt-vllm-gradio": _vllm}
    if template not in known:
        raise RuntimeError(f"What is an answer of {template}? Say so in budgets_work.py.")
    folder.mkdir(parents=True)
    with known[template](app, folder) as work:
        yield work


@contextmanager
def _rag(app: Path, folder: Path) -> Iterator[Work]:
    with _before_a_gateway(app, folder, Gateway()) as (process, http):

        def answer(n: int) -> None:
            body = {"question": question(n)}
            assert _posted(http, "/api/chat", json=body)["answer"]

        def take_in(count: int) -> None:
            for files in _uploads(count):
                job = _posted(http, "/api/documents", files=files)
                while job["status"] == "running":
                    time.sleep(0.05)
                    job = http.get(f"/api/jobs/{job['job_id']}").json()
                assert {file["status"] for file in job["files"]} == {"added"}, job

        yield Work(process, answer, take_in)


@contextmanager
def _crew(app: Path, folder: Path) -> Iterator[Work]:
    """An answer is a run of four tasks, which makes five calls of the model."""
    with _before_a_gateway(app, folder, Gateway(reply=playing, cost=0.001)) as (process, http):

        def answer(n: int) -> None:
            run = _posted(http, "/api/runs", json={"topic": f"topic-{n}"})
            while (now := http.get(f"/api/runs/{run['run_id']}").json())["state"] != "done":
                assert now["state"] not in ("failed", "cancelled"), now
                time.sleep(0.02)

        def take_in(count: int) -> None:
            for files in _uploads(count):
                _posted(http, "/api/documents", files=files)

        yield Work(process, answer, take_in)


@contextmanager
def _vllm(app: Path, folder: Path) -> Iterator[Work]:
    """The engine is a double, a process of its own, which is not counted."""
    double = {"state": str(folder / "engine.json"), "tokens_per_second": 500}
    env = {
        "ENGINE": "vllm",
        "ENGINE_COMMAND": shlex.join([sys.executable, str(ENGINE)]),
        "MODEL_ID": model_folder(folder / "model"),
        "ENGINE_ARGS": shlex.join(["--double", json.dumps(double)]),
    }
    with _at_work(app, env) as (process, http):
        wait_for(
            f"{process.url}/ready", lambda r: r.json()["state"] == "ready", every_s=0.2, limit_s=180
        )

        def answer(n: int) -> None:
            body = {"messages": [{"role": "user", "content": f"Say something about {n}."}]}
            assert _posted(http, "/api/chat", json=body)

        yield Work(process, answer, None)


@contextmanager
def _before_a_gateway(
    app: Path, folder: Path, gateway: Gateway
) -> Iterator[tuple[Process, httpx.Client]]:
    with serving(gateway.app) as url:
        key = {"LITELLM_ENDPOINT": url, "LITELLM_MASTER_KEY": "sk-double"}
        with _at_work(app, {"DATA_DIR": folder / "data"} | key) as found:
            yield found


@contextmanager
def _at_work(app: Path, env: dict[str, Any]) -> Iterator[tuple[Process, httpx.Client]]:
    with running(app, free_port(), **FREE, **env) as process:
        wait_for(process.url, lambda r: "gradio" in r.text, every_s=0.1)
        with httpx.Client(base_url=process.url, timeout=300) as http:
            yield process, http


def _posted(http: httpx.Client, path: str, **body: Any) -> Any:
    response = http.post(path, **body)
    if response.is_error or (response.status_code == 202 and path == "/api/chat"):
        raise RuntimeError(f"{path} answers {response.status_code}: {response.text[:300]}")
    return response.json()


def _uploads(count: int) -> Iterator[list[tuple[str, tuple[str, bytes]]]]:
    for first in range(0, count, AT_ONCE):
        some = range(first, first + AT_ONCE)
        yield [("files", (f"lease-{n}.txt", document(n, PARAGRAPHS).encode())) for n in some]
