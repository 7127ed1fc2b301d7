"""Bad days: each service that the app leans on fails, and so does the app itself.

Each test is a drill. What to do on such a day stands beside its name in
docs/guides/operating-an-agent.md; `test_runbook.py` holds that page to this list.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.programs import free_port
from tests import live
from tests.doubles.gateway import Gateway, told_to
from tests.doubles.keycloak import Keycloak
from tests.doubles.langfuse import Langfuse
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import (
    API_KEYS,
    APP_KEY,
    KEY,
    App,
    ask,
    health_during,
    load,
    search,
    started,
    status,
    wait_until,
)
from tests.network import black_hole

pytestmark = [pytest.mark.slow, pytest.mark.long]
LEASE = {"lease.txt": "The rent is 900 pounds a month."}
QUESTION = "How much is the rent?"
ONE_MODEL = {"CHAT_MODEL": "double", "EMBEDDING_MODEL": "none"}
GRACE_S = 25
"""Kubernetes kills after 30 s."""


@contextmanager
def with_model(gateway: Gateway, **env: Any) -> Iterator[App]:
    with (
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, **ONE_MODEL, **KEY, **env) as app,
    ):
        load(app, LEASE)
        yield app


def detail(answer: httpx.Response, code: int) -> str:
    assert answer.status_code == code, answer.text
    sentence = str(answer.json()["detail"])
    assert sentence.endswith(".")
    return sentence


# Qdrant


def test_qdrant_is_away_at_the_start() -> None:
    port = free_port()
    with started(QDRANT_URL=f"http://127.0.0.1:{port}") as app:
        assert status(app, "/health")["status"] == "healthy"
        assert status(app, "/ready")["services"]["qdrant"]["ok"] is False
        refused = app.http.post("/api/chat", json={"question": QUESTION})
        assert "check QDRANT_URL" in detail(refused, 502)
        with running(Qdrant().app, port):
            load(app, LEASE)
            assert "900 pounds" in ask(app, QUESTION)["answer"]


def test_qdrant_goes_away_in_the_middle() -> None:
    qdrant = Qdrant()
    with running(qdrant.app) as url, started(QDRANT_URL=url) as app:
        load(app, LEASE)
        qdrant.fail = "503"
        assert "check QDRANT_URL" in detail(app.http.post("/api/search", json={"query": "a"}), 502)
        assert "check QDRANT_URL" in detail(app.http.get("/api/documents"), 502)
        (file,) = load(app, {"new.txt": "The deposit is 100 pounds."})
        assert file["status"] == "failed"
        assert "Qdrant" in file["reason"]
        qdrant.fail = None
        assert "900 pounds" in ask(app, QUESTION)["answer"]
        assert [d["document"] for d in status(app, "/api/documents")] == ["lease.txt"]
        assert load(app, {"new.txt": "The deposit is 100 pounds."})[0]["status"] == "added"


def test_qdrant_is_slow() -> None:
    qdrant = Qdrant()
    with running(qdrant.app) as url, started(QDRANT_URL=url) as app:
        load(app, LEASE)
        live.settled(app)
        qdrant.fail = "slow"
        answer, slowest = health_during(app, lambda: ask(app, QUESTION))
        if "run_id" in answer and "answer" not in answer:
            answer = finished(app, answer["run_id"])
        assert "900 pounds" in answer["answer"]
        assert slowest < 1
        qdrant.fail = "hang"
        refused, slowest = health_during(app, lambda: app.http.get("/api/documents", timeout=40))
        assert "check QDRANT_URL" in detail(refused, 502)
        assert slowest < 1


def finished(app: App, run: str) -> Any:
    """The result of a run, once it has one."""
    path = f"/api/runs/{run}"
    return wait_until(lambda: (now := status(app, path))["state"] != "running" and now["result"])


# Keycloak


def test_keycloak_is_away() -> None:
    with started(
        key=APP_KEY, KEYCLOAK_URL=f"http://127.0.0.1:{free_port()}", API_KEYS=API_KEYS
    ) as app:
        load(app, LEASE)
        assert "900 pounds" in ask(app, QUESTION)["answer"]
        with app.client(Keycloak().token()) as user:
            assert "check KEYCLOAK_URL" in detail(user.get("/api/documents"), 502)
        page = httpx.get(f"{app.url}/auth/login")
        assert (page.status_code, "does not answer" in page.text) == (502, True)


def test_the_keys_of_keycloak_are_away() -> None:
    port = free_port()
    keycloak = Keycloak(f"http://127.0.0.1:{port}", fail="no_keys")
    with (
        running(keycloak.app, port) as url,
        started(key=APP_KEY, KEYCLOAK_URL=url, API_KEYS=API_KEYS) as app,
        app.client(keycloak.token()) as user,
    ):
        assert "does not give its keys" in detail(user.get("/api/documents"), 502)
        keycloak.fail = None
        wait_until(lambda: user.get("/api/documents").status_code == 200, 15)
        keycloak.fail = "no_keys"
        assert user.get("/api/documents").status_code == 200


# The gateway


@pytest.fixture(scope="module")
def answering() -> Iterator[tuple[App, Gateway]]:
    """One app and its model, which each of these drills leaves as well as it was."""
    gateway = Gateway()
    with with_model(gateway) as app:
        yield app, gateway


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("401", "answers 401"),
        ("429", "answers 429"),
        ("500", "answers 500"),
        ("503", "answers 503"),
        ("timeout", "answers 408"),
        ("empty_stream", "answered with nothing"),
        ("garbage", "gives no usable answer"),
    ],
)
def test_the_gateway_fails(failure: str, said: str, answering: tuple[App, Gateway]) -> None:
    app, gateway = answering
    with told_to(gateway, fail=failure):
        answer = ask(app, QUESTION)
        assert (answer["mode"], answer["answered"]) == ("extractive", True)
        assert said in answer["answer"]
        assert '"The rent is 900 pounds a month." [1]' in answer["answer"]
    assert ask(app, QUESTION)["mode"] == "model"


def test_the_gateway_is_cut_off_in_mid_sentence(answering: tuple[App, Gateway]) -> None:
    app, gateway = answering
    words = "The rent of the flat is nine hundred pounds a month, as agreed [1]."
    with told_to(gateway, reply=words, fail="cut"):
        before = sum("messages" in request.body for request in gateway.requests)
        answer = ask(app, QUESTION)
        assert answer["answer"].startswith("The rent of the flat")
        assert "so this is quoted from the documents" in answer["answer"]
        assert answer["citations"][0]["quote"] == LEASE["lease.txt"]
        asked = sum("messages" in request.body for request in gateway.requests) - before
        assert asked == 1, "what has begun is paid for, and is not asked for again"


def test_the_gateway_says_nothing() -> None:
    gateway = Gateway()
    with with_model(gateway, ANSWER_TIMEOUT_S=3) as app:
        live.settled(app)
        gateway.fail = "hang"
        refused, slowest = health_during(
            app, lambda: app.http.post("/api/chat", json={"question": QUESTION})
        )
        assert "longer than 3 s" in detail(refused, 502)
        assert slowest < 1
        wait_until(lambda: gateway.active == 0, 5)


def test_the_embedding_model_is_away() -> None:
    gateway = Gateway()
    with running(gateway.app) as url, started(LITELLM_ENDPOINT=url, **KEY) as app:
        load(app, LEASE)
        gateway.fail = "refuse_embeddings"
        assert "900 pounds" in ask(app, QUESTION)["answer"]
        assert load(app, {"new.txt": "The deposit is 100 pounds."})[0]["status"] == "added"
        ready = status(app, "/ready")["services"]
        assert [name for name, service in ready.items() if not service["ok"]] == ["embedding"]


# Langfuse


def test_langfuse_is_a_black_hole() -> None:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    with black_hole() as url, started(LANGFUSE_HOST=url, **keys) as app:
        load(app, LEASE)
        live.settled(app)
        begin = time.monotonic()
        for _ in range(20):
            assert "900 pounds" in ask(app, QUESTION)["answer"]
        assert time.monotonic() - begin < 5
        assert status(app, "/ready")["services"]["langfuse"]["ok"] is False
        assert app.stop() < 10


def test_langfuse_comes_back() -> None:
    langfuse = Langfuse(fail="500")
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    with running(langfuse.app) as url, started(LANGFUSE_HOST=url, **keys) as app:
        load(app, LEASE)
        ask(app, QUESTION)
        wait_until(lambda: "answers go on untraced" in app.log)
        langfuse.fail = None
        trace = ask(app, QUESTION)["trace_id"]
        wait_until(lambda: trace in {span["trace_id"] for span in langfuse.spans})


# The machine


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A disk of its own, of `mib` MiB; needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 300) as disk, started(disk / "data", TMPDIR=disk) as app:
        load(app, LEASE)
        filler = disk / "filler"
        with filler.open("wb") as file:
            file.write(b"0" * (shutil.disk_usage(disk).free - (8 << 20)))
        (refused,) = load(app, {"new.txt": "The deposit is 100 pounds."})
        assert refused["status"] == "failed"
        assert "no room" in refused["reason"]
        large = app.http.post("/api/documents", files={"files": ("l.txt", b"word " * 3_000_000)})
        assert "no room" in detail(large, 507)
        assert "900 pounds" in ask(app, QUESTION)["answer"]
        assert app.http.get("/health").status_code == 200
        filler.unlink()
        assert load(app, {"new.txt": "The deposit is 100 pounds."})[0]["status"] == "added"
        assert not list((disk / "data" / "uploads").iterdir())


def read_to_the_end(app: App, question: str) -> list[tuple[int, str, dict[str, Any]]]:
    body = {"question": question, "stream": True}
    with app.http.stream("POST", "/api/chat", json=body, timeout=60) as response:
        return list(live.frames(response.iter_lines()))


def ended_by_sigterm(gateway: Gateway) -> tuple[list[Any], float]:
    """What 20 open streams were sent to their end, and the seconds until the process had ended."""
    with with_model(gateway) as app, ThreadPoolExecutor(20) as threads:
        live.settled(app)
        streams = [threads.submit(read_to_the_end, app, QUESTION) for _ in range(20)]
        wait_until(lambda: gateway.active == 20)
        time.sleep(1)
        seconds = app.stop()
        assert "Traceback" not in app.log
        return [stream.result() for stream in streams], seconds


def test_sigterm_comes_with_20_streams_open() -> None:
    words = " ".join(f"word{n}" for n in range(60)) + " [1]."
    streams, seconds = ended_by_sigterm(Gateway(reply=words, tokens_per_second=5))
    assert seconds < GRACE_S
    for events in streams:
        assert events[-1][1] == "done"
        assert events[-1][2]["answer"].startswith(words[:-5])
        assert [number for number, _, _ in events] == list(range(1, len(events) + 1))


def test_sigterm_comes_and_the_answers_take_too_long() -> None:
    words = " ".join(f"word{n}" for n in range(600))
    streams, seconds = ended_by_sigterm(Gateway(reply=words, tokens_per_second=5))
    assert seconds < GRACE_S
    for events in streams:
        assert events[-1][1] == "error"
        assert "being restarted" in events[-1][2]["detail"]


CLAUSE = "This clause number {} of document {} binds both of the parties. " * 12


def kill_during_ingest(folder: Path, tries: int) -> int:
    """Kills the app at a moment that chance picks in an upload of 15 documents, `tries` times.

    Gives how many documents were lost: acknowledged and not there, or there by half.
    """
    documents = {
        f"{d}.txt": "\n\n".join(CLAUSE.replace("{}", f"{d}{n}") for n in range(40))
        for d in range(15)
    }
    lost, acknowledged = 0, set[str]()
    chance = random.Random(4)
    for _ in range(tries):
        with started(folder) as app:
            stored = {document["document"] for document in status(app, "/api/documents")}
            lost += len(acknowledged - stored)
            for name in stored:
                found = search(app, "clause", k=200, filter={"document": name})
                lost += len(found) != 40
            for document in status(app, "/api/documents"):
                app.http.delete(f"/api/documents/{document['id']}")
            files = [("files", (name, text)) for name, text in documents.items()]
            job = app.http.post("/api/documents", files=files).json()["job_id"]
            time.sleep(chance.uniform(0.02, 1.2))
            job = status(app, f"/api/jobs/{job}")
            acknowledged = {f["document"] for f in job["files"] if f["status"] == "added"}
            app.process.send_signal(signal.SIGKILL)
    return lost


def test_sigkill_comes_during_an_upload(tmp_path: Path) -> None:
    assert kill_during_ingest(tmp_path, 4) == 0


def faketime() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.skipif(not faketime(), reason="needs Debian's libfaketime")
def test_the_clock_jumps(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fake = {
        "LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_CACHE_DURATION": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
    }  # fmt: skip
    words = " ".join(f"word{n}" for n in range(30)) + " [1]."
    gateway = Gateway(reply=words, tokens_per_second=5)
    closed = {"AUTH": "on", "API_KEYS": API_KEYS, "REQUESTS_PER_MINUTE": 30}
    with (
        running(gateway.app) as url,
        started(key=APP_KEY, LITELLM_ENDPOINT=url, **ONE_MODEL, **KEY, **closed, **fake) as app,
        ThreadPoolExecutor(1) as threads,
    ):
        load(app, LEASE)
        live.settled(app)
        stream = threads.submit(read_to_the_end, app, QUESTION)
        wait_until(lambda: gateway.active == 1)
        for jump in ("+2h", "-2h"):
            clock.write_text(jump)
            time.sleep(1.5)  # the file is read once a second
            assert search(app, "rent")[0]["document"] == "lease.txt"
            assert load(app, {f"{jump}.txt": "Something else."})[0]["status"] == "added"
        assert stream.result()[-1][1] == "done"
        assert len(status(app, "/api/documents")) == 3


def test_two_replicas_take_the_same_file_in() -> None:
    qdrant = Qdrant()
    with running(qdrant.app) as url, started(QDRANT_URL=url) as one, started(QDRANT_URL=url) as two:
        load(one, LEASE)
        for turn in range(4):
            texts = {
                app: "\n\n".join(CLAUSE.replace("{}", f"{turn}{who}{n}") for n in range(60))
                for app, who in ((one.url, "one"), (two.url, "two"))
            }
            same = turn % 2 == 0
            with ThreadPoolExecutor(2) as threads:
                given = [texts[one.url], texts[one.url] if same else texts[two.url]]
                jobs = [
                    threads.submit(load, app, {"same.txt": text})
                    for app, text in zip((one, two), given, strict=True)
                ]
                assert {job.result()[0]["status"] for job in jobs} <= {
                    "added",
                    "replaced",
                    "unchanged",
                }
            for app in (one, two):
                found = search(app, "clause", k=200, filter={"document": "same.txt"})
                assert len(found) == 60
                assert len({hit["text"].split()[3][:4] for hit in found}) == 1
            # What lost goes when the replica that wrote it next tends the store.
        wait_until(lambda: passages_of(qdrant, "same.txt") == 60, 40)


def passages_of(qdrant: Qdrant, document: str) -> int:
    """How many there are on the server, served or not."""
    (collection,) = [c.name for c in qdrant.client.get_collections().collections]
    points, _ = qdrant.client.scroll(collection, limit=10_000)
    return sum(
        point.payload["kind"] == "passage" and point.payload["document"] == document
        for point in points
        if point.payload
    )
