"""The agent: a rendered tkt-rag-agent, started on an alias of LiteLLM and asked questions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from plan import Plan
from questions import Question
from tqdm import tqdm

from parts import apps
from parts.litellm import Proxy

LIMIT_S = 180
"""For one answer."""


@contextmanager
def started(
    app: Path, folder: Path, plan: Plan, gateway: Proxy, alias: str, langfuse: dict[str, str]
) -> Iterator[str]:
    """The address of an agent that holds the sample documents and asks `alias`."""
    env = {
        "LITELLM_ENDPOINT": gateway.url,
        "LITELLM_MASTER_KEY": gateway.key,
        "CHAT_MODEL": alias,
        "EMBEDDING_MODEL": "local",
        "PASSAGES": plan.passages,
        "ANSWER_TOKENS": plan.answer_tokens,
        "MARK_DOUBTS": "false",  # notes behind sentences are for readers, and no part of an answer
        "REQUESTS_PER_MINUTE": 0,
        **langfuse,
    }
    with apps.launched(app, "tkt-rag-agent", folder, **env) as url:
        _wait_until_ready(url)
        _load(url, app / "sample")
        yield url


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while not (ready := httpx.get(f"{url}/ready", timeout=30).json()).get("ready"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"The agent at {url} is not ready: {ready}.")
        time.sleep(0.2)


def _load(url: str, sample: Path) -> None:
    """The documents; those that it has already are passed over."""
    files = [("files", (path.name, path.read_bytes())) for path in sorted(sample.iterdir())]
    job = httpx.post(f"{url}/api/documents", files=files, timeout=60).raise_for_status().json()
    while job["status"] == "running":
        time.sleep(0.2)
        job = httpx.get(f"{url}/api/jobs/{job['job_id']}", timeout=30).raise_for_status().json()
    if failed := [file for file in job["files"] if file["status"] == "failed"]:
        raise RuntimeError(f"The agent did not take {failed[0]['document']}: {failed[0]['reason']}")


def ask_all(
    url: str,
    questions: Sequence[Question],
    file: Path,
    plan: Plan,
    label: str,
    documents: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Ask them all, `plan.at_once` at the same time. Each answer is a line of `file` as soon as it
    is there, so that a run that was stopped goes on after it."""
    known = {row["question"]: row for row in read(file)}
    todo = [question for question in questions if question.text not in known]
    bar = tqdm(total=len(questions), initial=len(questions) - len(todo), desc=label, unit="answer")
    file.parent.mkdir(parents=True, exist_ok=True)
    with bar, file.open("a") as out, httpx.Client(base_url=url, timeout=60) as http:

        def one(question: Question) -> dict[str, Any]:
            return _ask(http, question, documents, plan.at_once)

        with ThreadPoolExecutor(plan.at_once) as threads:
            for row in threads.map(one, todo):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                out.flush()
                known[row["question"]] = row
                bar.update()
    return [known[question.text] for question in questions]


def read(file: Path) -> list[dict[str, Any]]:
    """The answers that are kept there; a line that was cut off in the middle does not count."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        file.write_text("".join(whole))
    return [json.loads(line) for line in whole]


def _ask(
    http: httpx.Client, question: Question, documents: Sequence[str], readers: int
) -> dict[str, Any]:
    body: dict[str, Any] = {"question": question.text}
    if documents:
        body["filter"] = {"document": list(documents)}
    began = time.monotonic()
    answer = http.post("/api/chat", json=body)
    if answer.is_error:
        said = answer.text[:300]
        raise RuntimeError(f"The agent does not answer {question.text[:60]!r}: {said}")
    data = answer.json()
    if answer.status_code == 202:  # it takes longer than an edge would wait
        data = _followed(http, data["run_id"])
    if data["mode"] != "model":  # the agent falls back on quoting, which would be scored as its own
        said = data["answer"].partition("\n")[0][:300]
        raise RuntimeError(f"The model did not answer {question.text[:60]!r}: {said}")
    return {
        "question": question.text,
        "expected": question.answer,
        "document": question.document,
        "quote": question.quote,
        "said": data["answer"],
        "answered": data["answered"],
        "asks_back": bool(data["which"]),
        "citations": [{"document": c["document"], "quote": c["quote"]} for c in data["citations"]],
        "tokens": data["usage"],
        "trace_id": data["trace_id"],
        "readers": readers,
        "seconds": round(time.monotonic() - began, 3),
    }


def _followed(http: httpx.Client, run_id: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while (state := http.get(f"/api/runs/{run_id}").raise_for_status().json())[
        "state"
    ] == "running":
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"No answer after {LIMIT_S} s; look at the log of the model's server."
            )
        time.sleep(0.1)
    if state["state"] == "error":
        raise RuntimeError(state["result"]["detail"])
    return state["result"]
