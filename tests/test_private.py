"""With DOCUMENTS=private nobody finds, reads, cites or follows what is another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles.gateway import Gateway
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import KEY, App, ask, load, search, started, status, wait_until
from tests.test_doors import call

KEYS = {name: f"tka_{name}" for name in ("ann", "bob")}
API_KEYS = " ".join(f"{n}:{hashlib.sha256(k.encode()).hexdigest()}" for n, k in KEYS.items())
SECRET = "The merger with Zephyrine Holdings closes in May for 731 million."
QUESTION = "When does the merger with Zephyrine Holdings close?"
TELLTALE = ("zephyrine", "731 million", "merger.md")


@contextmanager
def private(data: Path | None = None, **env: Any) -> Iterator[tuple[App, App]]:
    """The same app as Ann and as Bob use it; Ann's is the one that was started."""
    env = {"AUTH": "on", "API_KEYS": API_KEYS, "DOCUMENTS": "private"} | env
    with started(data, key=KEYS["ann"], **env) as ann:
        bob = App(ann.url, ann.process, ann.folder, KEYS["bob"])
        try:
            yield ann, bob
        finally:
            bob.http.close()


@pytest.fixture(scope="module", params=["embedded", "server"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[App, App, Gateway]]:
    gateway, qdrant = Gateway(), Qdrant()
    with running(gateway.app) as url, running(qdrant.app) as vectors:
        where = {"QDRANT_URL": vectors} if request.param == "server" else {}
        with private(LITELLM_ENDPOINT=url, **where, **KEY) as (ann, bob):
            load(ann, {"merger.md": SECRET, "both.md": "Ann's garden has roses."})
            load(bob, {"both.md": "Bob's garden has tulips."})
            wait_until(lambda: ann.http.get("/mcp").status_code != 200)
            yield ann, bob, gateway


def tells(found: Any) -> bool:
    text = json.dumps(found).lower()
    return any(word in text for word in TELLTALE)


def test_each_finds_their_own(two: tuple[App, App, Gateway]) -> None:
    ann, bob, _ = two
    assert "closes in May" in ask(ann, QUESTION)["answer"]
    for user, flowers in ((ann, "roses"), (bob, "tulips")):
        (found,) = [h for h in search(user, "garden") if "garden" in h["text"]]
        assert flowers in found["text"]
    names = [document["document"] for document in status(ann, "/api/documents")]
    assert names == ["both.md", "merger.md"]


def test_nothing_of_anothers_is_found_answered_listed_or_sent_to_the_model(
    two: tuple[App, App, Gateway],
) -> None:
    _, bob, gateway = two
    before = len(gateway.requests)
    named = {"filter": {"document": "merger.md"}}
    assert not tells(search(bob, "Zephyrine Holdings merger", k=50))
    assert search(bob, "merger", k=50, **named) == []
    answer = ask(bob, "What closes in May?", **named)
    assert answer["citations"] == []
    assert not tells(answer)
    assert not tells(status(bob, "/api/documents"))
    v1 = {"model": "live", "messages": [{"role": "user", "content": "What closes in May?"}]}
    assert not tells(bob.http.post("/v1/chat/completions", json=v1).json())
    for tool, arguments in {
        "ask": {"question": "What closes in May?"},
        "search_documents": {"query": "merger", "documents": ["merger.md"]},
        "list_documents": {},
    }.items():
        assert not tells(call(bob, tool, **arguments)), tool
    asked = [request.body.get("messages") for request in gateway.requests[before:]]
    assert not tells(asked)


def test_anothers_run_upload_and_document_are_not_there(two: tuple[App, App, Gateway]) -> None:
    ann, bob, _ = two
    answer = ask(ann, QUESTION)
    files = [("files", ("merger.md", SECRET))]
    job = ann.http.post("/api/documents", files=files).json()["job_id"]
    for path in (f"/api/runs/{answer['run_id']}", f"/api/runs/{answer['run_id']}/events",
                 f"/api/jobs/{job}", f"/api/runs/{job}"):  # fmt: skip
        assert ann.http.get(path).status_code in (200, 204)
        assert bob.http.get(path).status_code == 404
    assert bob.http.delete(f"/api/runs/{answer['run_id']}").status_code == 404
    (entry,) = [d for d in status(ann, "/api/documents") if d["document"] == "merger.md"]
    assert bob.http.delete(f"/api/documents/{entry['id']}").status_code == 404
    assert "closes in May" in ask(ann, QUESTION)["answer"]


def test_the_same_name_is_two_documents_and_deleting_one_leaves_the_other(
    two: tuple[App, App, Gateway],
) -> None:
    ann, bob, _ = two
    load(bob, {"same.md": "Bob wrote this about herons."})
    load(ann, {"same.md": "Ann wrote this about kites."})
    (mine,) = [d for d in status(bob, "/api/documents") if d["document"] == "same.md"]
    assert bob.http.delete(f"/api/documents/{mine['id']}").status_code == 200
    assert "kites" in json.dumps(search(ann, "wrote this about"))
    assert "same.md" not in json.dumps(status(bob, "/api/documents"))


def test_what_is_ones_own_is_there_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        with private(tmp_path) as (ann, bob):
            load(ann, {"merger.md": SECRET})
            load(bob, {"other.md": "Tulips."})
    with private(tmp_path) as (ann, bob):
        assert "closes in May" in json.dumps(search(ann, "merger"))
        assert not tells(search(bob, "merger", k=50))


def test_private_documents_without_a_sign_on_are_refused_in_a_sentence() -> None:
    with (
        pytest.raises(AssertionError, match="DOCUMENTS=private needs a sign-on"),
        started(DOCUMENTS="private"),
    ):
        pass


def test_nobody_in_between_sees_whose_documents_there_are(two: tuple[App, App, Gateway]) -> None:
    ann, _, _ = two
    assert not tells(ann.http.get("/metrics").text)
    assert not tells(ann.log)
    assert httpx.get(f"{ann.url}/api/documents").status_code == 401
