"""The embedded Qdrant and a Qdrant server give the same passages for the same question.

The server is the double around qdrant-client's local mode, or with QDRANT_TEST_URL a real one.
What may differ: the last digits of a score; the order of passages with equal scores, and so, where
words and meaning are fused by rank, everything that such a tie on one side decides; and scores by
words after a deletion, as the engine counts deleted passages in its statistics of words until the
collection is opened anew.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles.gateway import Gateway
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import KEY, ROOT, App, load, search, started

CORPUS = sorted((ROOT / "corpus").glob("*.md"))
QUESTIONS = [
    json.loads(line)["question"]
    for path in sorted((ROOT / "corpus").glob("golden*.jsonl"))
    for line in path.read_text().splitlines()
][:40]
SAME = 1e-4
"""Scores this near, relative to their size, are equal."""
K = 8


@pytest.fixture
def name() -> str:
    """The app's name, under which nothing else can be in a real server."""
    return f"same-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def server(name: str) -> Iterator[str]:
    """The URL of a Qdrant server; what the app put there is removed afterwards."""
    if url := os.environ.get("QDRANT_TEST_URL"):
        yield url
        for collection in collections(url, name):
            httpx.delete(f"{url}/collections/{collection}")
    else:
        with running(Qdrant().app) as url:
            yield url


@pytest.fixture
def gateway() -> Iterator[tuple[Gateway, str]]:
    gateway = Gateway(embedding_models=["one", "other"])
    with running(gateway.app) as url:
        yield gateway, url


@contextmanager
def both(name: str, server: str, folder: Path, **env: str) -> Iterator[list[App]]:
    with (
        started(folder, APP_NAME=name, **env) as embedded,
        started(APP_NAME=name, QDRANT_URL=server, **env) as remote,
    ):
        yield [embedded, remote]


def collections(server: str, name: str) -> list[str]:
    listed = httpx.get(f"{server}/collections").json()["result"]["collections"]
    return [found["name"] for found in listed if found["name"].startswith(name)]


def texts(paths: list[Path]) -> dict[str, str | bytes]:
    return {path.name: path.read_bytes() for path in paths}


def assert_same_passages(apps: list[App], questions: list[str]) -> None:
    for question in questions:
        embedded, remote = [search(app, question, K) for app in apps]
        assert [hit["score"] for hit in embedded] == pytest.approx(
            [hit["score"] for hit in remote], rel=SAME
        )
        assert in_order(embedded) == in_order(remote)


def in_order(hits: list[dict[str, Any]]) -> list[set[tuple[str, int, int]]]:
    """Passages, best first, as sets of equal score; where the list was cut off in the midst of
    equals, these are left out."""
    sets = groups(hits)
    if len(hits) == K:
        sets.pop()
    return [{(hit["document"], hit["start"], hit["end"]) for hit in group} for group in sets]


def groups(hits: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Hits of equal score together."""
    found: list[list[dict[str, Any]]] = []
    for hit in hits:
        if found and found[-1][-1]["score"] - hit["score"] <= SAME * hit["score"]:
            found[-1].append(hit)
        else:
            found.append([hit])
    return found


def test_by_words_alone(name: str, server: str, tmp_path: Path) -> None:
    with both(name, server, tmp_path) as apps:
        for app in apps:
            load(app, texts(CORPUS))
        assert_same_passages(apps, QUESTIONS)


@pytest.mark.skipif("QDRANT_TEST_URL" in os.environ, reason="a server counts deleted passages")
def test_by_words_after_a_replacement_and_a_deletion(
    name: str, server: str, tmp_path: Path
) -> None:
    with both(name, server, tmp_path) as apps:
        for app in apps:
            load(app, texts(CORPUS))
            replace_and_delete(app)
    with both(name, server, tmp_path) as apps:  # the embedded collection is opened anew
        assert_same_passages(apps, QUESTIONS)


def replace_and_delete(app: App) -> None:
    """The first document shortened, the second gone; no old passage is found any more."""
    first, second = CORPUS[:2]
    (outcome,) = load(app, {first.name: first.read_bytes()[:4000]})
    assert outcome["status"] == "replaced"
    (gone,) = [d for d in app.http.get("/api/documents").json() if d["document"] == second.name]
    app.http.delete(f"/api/documents/{gone['id']}").raise_for_status()
    found = search(app, QUESTIONS[0], 200)
    assert second.name not in {hit["document"] for hit in found}
    assert max(hit["end"] for hit in found if hit["document"] == first.name) <= 4000


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The questions for which no two of the first 50 passages by words have the same score."""
    with started(tmp_path_factory.mktemp("untied")) as app:
        load(app, texts(CORPUS))
        found = {question: search(app, question, 50) for question in QUESTIONS}
    return [question for question, hits in found.items() if len(groups(hits)) == len(hits)]


def test_by_words_and_meaning_and_after_a_change_of_the_embedding_model(
    name: str, server: str, tmp_path: Path, gateway: tuple[Gateway, str], untied: list[str]
) -> None:
    env = {"LITELLM_ENDPOINT": gateway[1]} | KEY
    with both(name, server, tmp_path, EMBEDDING_MODEL="one", **env) as apps:
        for app in apps:
            load(app, texts(CORPUS))
        assert embedded_by(apps) == {"one"}
        assert_same_passages(apps, untied)
    old = collections(server, name)
    gateway[0].dim = 128
    with both(name, server, tmp_path, EMBEDDING_MODEL="other", **env) as apps:
        assert embedded_by(apps) == {"other"}
        assert "128 dimensions" in apps[1].http.get("/ready").text
        assert_same_passages(apps, untied)
    (new,) = collections(server, name)
    assert [new] != old
    aliases = httpx.get(f"{server}/aliases").json()["result"]["aliases"]
    assert {"alias_name": name, "collection_name": new} in aliases
    assert [path.name for path in (tmp_path / "qdrant").iterdir() if path.is_dir()] == [new]


def embedded_by(apps: list[App]) -> set[str]:
    """The embedding models of all documents, which are all there."""
    listed = [app.http.get("/api/documents").json() for app in apps]
    assert [len(documents) for documents in listed] == [len(CORPUS)] * len(apps)
    return {document["embedding"] for documents in listed for document in documents}
