"""A rendered tkt-rag-agent keeps to what the platform allows: short responses, a quick end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import live
from tests.doubles.edge import Edge
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import KEY, App, ask, load, quietly, search, started, wait_for_page, wait_until

pytestmark = pytest.mark.long

QUESTION = {"question": "How much is the rent?"}
LEASE = {"lease.txt": "The rent is 900 pounds a month."}
LONGEST_S = 12
GRACE_S = 30
"""Kubernetes kills a pod that takes longer to end."""


@dataclass
class Response:
    """What came of one request; `gaps` are the silences in its body, in seconds."""

    status: int
    seconds: float
    gaps: list[float]
    text: str


def watched(app: App, method: str, path: str, **given: Any) -> Response:
    begin = last = time.monotonic()
    gaps, text = [], ""
    with app.http.stream(method, path, **given) as response:
        for piece in response.iter_text():
            now = time.monotonic()
            gaps.append(now - last)
            last, text = now, text + piece
    return Response(response.status_code, time.monotonic() - begin, gaps, text)


@dataclass
class Hour:
    """Ten seconds in which the model says nothing and a large document comes in."""

    app: App
    gateway: Gateway
    posted: Response
    followed: Response
    whole: Response
    health_s: list[float]


@pytest.fixture(scope="module")
def hour() -> Iterator[Hour]:
    """The requests run at the same time, since each takes its ten seconds."""
    gateway = Gateway(first_token_s=40)
    large = {"large.txt": "".join(f"Clause {n} binds the parties.\n\n" for n in range(300_000))}
    with (
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, EMBEDDING_MODEL="none", CHAT_MODEL="double", **KEY) as app,
        ThreadPoolExecutor() as threads,
    ):
        load(app, LEASE)
        wait_for_page(app)
        busy = [
            threads.submit(watched, app, "POST", "/api/chat", json=QUESTION | {"stream": True}),
            threads.submit(watched, app, "POST", "/api/chat", json=QUESTION),
            threads.submit(follow, app),
        ]
        threads.submit(load, app, large)
        health = []
        while not all(request.done() for request in busy):
            health.append(watched(app, "GET", "/health").seconds)
            time.sleep(0.1)
        posted, whole, followed = [request.result() for request in busy]
        yield Hour(app, gateway, posted, followed, whole, health)


def follow(app: App) -> Response:
    """A second reader of a run that another connection has begun."""
    begun = app.http.stream("POST", "/api/chat", json=QUESTION | {"stream": True})
    with begun as response:
        first = next(live.frames(response.iter_lines()))
    return watched(app, "GET", f"/api/runs/{first[2]['run_id']}/events")


def test_a_stream_ends_by_itself_before_the_edge_cuts_it(hour: Hour) -> None:
    assert 8 < hour.posted.seconds < LONGEST_S
    assert 8 < hour.followed.seconds < LONGEST_S
    assert "event: done" not in hour.posted.text


def test_a_silent_model_leaves_no_silent_stream(hour: Hour) -> None:
    assert max(hour.posted.gaps) < 10
    assert max(hour.followed.gaps) < 10


def test_a_late_json_answer_is_promised_with_202(hour: Hour) -> None:
    assert hour.whole.status == 202
    assert hour.whole.seconds < LONGEST_S


def test_health_stays_quick_during_long_answers_and_a_large_document(hour: Hour) -> None:
    assert len(hour.health_s) > 20
    assert max(hour.health_s) < 1


def test_cancelling_a_run_cancels_its_call_to_the_model(hour: Hour) -> None:
    run = next(live.frames(hour.posted.text.split("\n")))[2]["run_id"]
    before = hour.gateway.active
    assert hour.app.http.delete(f"/api/runs/{run}").json()["state"] == "error"
    wait_until(lambda: hour.gateway.active == before - 1, 5)
    assert hour.gateway.aborted == 1


@pytest.fixture
def slow_model() -> Iterator[tuple[App, Gateway]]:
    """A model that needs 40 seconds for its answer."""
    words = " ".join(f"word{n}" for n in range(80)) + " [1]."
    gateway = Gateway(reply=words, tokens_per_second=2)
    with running(gateway.app) as url, started(LITELLM_ENDPOINT=url, **KEY) as app:
        load(app, LEASE)
        wait_for_page(app)
        yield app, gateway


@pytest.mark.slow
def test_a_40_s_answer_arrives_whole_through_an_edge_that_buffers_and_cuts_at_15_s(
    slow_model: tuple[App, Gateway],
) -> None:
    app, gateway = slow_model
    edge = Edge(app.url, deadline_s=15, ignore_accel=True)
    with running(edge.app) as url, httpx.Client(base_url=url, timeout=20) as client:
        response = client.post("/api/chat", json=QUESTION | {"stream": True})
        events = list(live.frames(response.text.split("\n")))
        address, segments = f"/api/runs/{events[0][2]['run_id']}/events", 1
        while events[-1][1] != "done":
            response = client.get(address, headers={"Last-Event-ID": str(events[-1][0])})
            events += live.frames(response.text.split("\n"))
            segments += 1
    assert segments >= 4
    assert edge.cuts == 0
    assert "".join(data["text"] for _, kind, data in events if kind == "token") == gateway.reply
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))


@pytest.mark.slow
def test_a_client_that_leaves_for_good_cancels_the_call_to_the_model(
    slow_model: tuple[App, Gateway],
) -> None:
    app, gateway = slow_model
    with app.http.stream("POST", "/api/chat", json=QUESTION | {"stream": True}) as response:
        next(live.frames(response.iter_lines()))
    wait_until(lambda: gateway.aborted == 1 and gateway.active == 0, 39)


@pytest.mark.slow
def test_sigterm_with_a_stream_open_ends_within_the_grace() -> None:
    gateway = Gateway(first_token_s=60)
    with (
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, CHAT_MODEL="double", EMBEDDING_MODEL="none", **KEY) as app,
    ):
        load(app, LEASE)
        stream = threading.Thread(target=quietly, args=(lambda: ask(app, "Rent?", stream=True),))
        stream.start()
        wait_until(lambda: gateway.active)
        assert app.stop() < GRACE_S - 5
        stream.join()
        wait_until(lambda: gateway.active == 0, 5)
        assert "Traceback" not in app.log


def test_a_kill_in_the_middle_of_an_upload_leaves_only_whole_documents(tmp_path: Path) -> None:
    """Two kills, each in another document, all of 150 passages."""
    clause = "This clause number {} of document {} binds both of the parties. " * 12
    documents = {
        f"{d}.txt": "\n\n".join(clause.replace("{}", f"{d}{n}") for n in range(150))
        for d in range(40)  # time to kill it long before the last
    }
    for arrived in (2, 9):
        with started(tmp_path) as app:
            files = [("files", (name, text)) for name, text in documents.items()]
            job = app.http.post("/api/documents", files=files).json()["job_id"]
            wait_until(lambda a=app, j=job, n=arrived: live.status(a, f"/api/jobs/{j}")["done"] > n)
            app.process.kill()
        with started(tmp_path) as app:
            stored = [document["document"] for document in app.http.get("/api/documents").json()]
            assert arrived < len(stored) < len(documents)
            for name in documents:
                found = search(app, "clause", k=200, filter={"document": name})
                assert len(found) == (150 if name in stored else 0)
    with started(tmp_path) as app:
        outcomes = {file["document"]: file["status"] for file in load(app, documents)}
        assert outcomes == {n: "unchanged" if n in stored else "added" for n in documents}
        assert len(search(app, "clause", k=200, filter={"document": "14.txt"})) == 150
