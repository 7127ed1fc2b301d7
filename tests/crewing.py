"""A crew's app to live in: rendered and started, a NATS server beside it, and a model that plays
along.

    with nats(folder) as server, crew(NATS_URL=server.url) as app:
        assert finished(app, start(app, "topic-1"))["state"] == "done"
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from parts.programs import free_port
from tests import live
from tests.doubles import chat
from tests.doubles.gateway import Gateway
from tests.live import App, wait_until

CREW = "tkt-crewai-agent"
NATS_SERVER = Path(sys.executable).with_name("nats-server")
"""From its package, beside this Python."""
TASKS = ["research", "analysis", "draft", "edit"]


@dataclass
class Nats:
    """A real server; its store outlives it."""

    folder: Path
    port: int
    jetstream: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = ["-js", "-sd", str(self.folder / "store")] if self.jetstream else []
        command = [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(self.port), *store]
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._listens)

    def stop(self) -> None:
        """At once, as when its machine goes."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def nats(folder: Path, jetstream: bool = True) -> Iterator[Nats]:
    server = Nats(folder, free_port(), jetstream)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def crew(data: Path | None = None, key: str = "", **env: Any) -> Iterator[App]:
    """The app, ready to work on runs."""
    with live.started(data, None, key, CREW, **env) as app:
        yield app


def start(app: App, topic: str, key: str = "", **body: Any) -> str:
    """The id of a new run."""
    headers = {"Idempotency-Key": key} if key else {}
    told = {"topic": topic} | body
    reply = app.http.post("/api/runs", json=told, headers=headers).raise_for_status()
    assert reply.status_code == 202
    return str(reply.json()["run_id"])


def warmed_up(app: App) -> None:
    """Once a first run has ended, for which CrewAI is imported after the page and the tools."""
    live.wait_for_page(app)
    assert finished(app, start(app, "topic-0"))["state"] == "done"


def calls(gateway: Gateway) -> list[dict[str, Any]]:
    """What the model was asked, without the app's looks at whether the gateway is there."""
    return [request.body for request in gateway.requests if "messages" in request.body]


def run_of(app: App, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = app.http.get(f"/api/runs/{run_id}").raise_for_status().json()
    return found


def finished(app: App, run_id: str, limit_s: float = live.READY_S) -> dict[str, Any]:
    """The run, once it has ended."""
    ended = ("done", "failed", "cancelled")
    found: dict[str, Any] = wait_until(
        lambda: (now := run_of(app, run_id))["state"] in ended and now, limit_s
    )
    return found


def until(app: App, run_id: str, state: str, limit_s: float = live.READY_S) -> dict[str, Any]:
    found: dict[str, Any] = wait_until(
        lambda: (now := run_of(app, run_id))["state"] == state and now, limit_s
    )
    return found


def events(
    app: App, run_id: str, limit_s: float = live.READY_S
) -> list[tuple[str, dict[str, Any]]]:
    """(type, data) of all events of a run, read on until the last one."""
    seen: list[tuple[str, dict[str, Any]]] = []
    deadline = time.monotonic() + limit_s
    while not (seen and seen[-1][0] in ("done", "error")):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {seen[-3:]}"
        headers = {"Last-Event-ID": str(len(seen))}
        with app.http.stream("GET", f"/api/runs/{run_id}/events", headers=headers) as stream:
            if stream.status_code == 204:
                break
            for number, kind, data in live.frames(stream.raise_for_status().iter_lines()):
                assert number == len(seen) + 1, "a gap in the events"
                seen.append((kind, data))
    return seen


def repeated(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Tasks that a run finished more than once, or began again after they were finished."""
    done, again = set[str](), list[str]()
    for kind, data in told:
        if kind == "task" and data["status"] in ("started", "finished") and data["task"] in done:
            again.append(data["task"])
        if kind == "task" and data["status"] == "finished":
            done.add(data["task"])
    return again


def topics(end: dict[str, Any]) -> set[str]:
    """Whose words are in what a run has brought forth: `playing` names its topics."""
    return set(re.findall(r"topic-\d+", json.dumps([end["result"], end["outputs"]])))


def playing(messages: list[dict[str, Any]]) -> chat.Answer:
    """The gateway double's part: who is asked says for which topics, so that runs that mix show;
    the researcher searches first, a manager delegates first."""
    told = "\n".join(chat.text(message) for message in messages)
    topics = " ".join(sorted(set(re.findall(r"topic-\d+", told))))
    role = re.search(r"You are (\w+)", chat.text(messages[0]))
    who = role[1] if role else "somebody"
    if not any(message["role"] == "tool" for message in messages):
        if who == "Researcher":
            return [{"name": "search_documents", "arguments": {"query": topics}}]
        if who == "Manager":
            task = f"Do your part for {topics}"
            arguments = {"task": task, "context": topics, "coworker": "Writer"}
            return [{"name": "delegate_work_to_coworker", "arguments": arguments}]
    return f"{who} on {topics}."


def number(app: App, name: str) -> float:
    """The sum of a figure of /metrics over its labels."""
    page = httpx.get(f"{app.url}/metrics").text
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M)
    return sum(map(float, found))
