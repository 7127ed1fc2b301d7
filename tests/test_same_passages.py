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
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import live
from tests.doubles.gateway import Gateway
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.rendering import ROOT

pytestmark = pytest.mark.long
CONTRACTS = sorted((ROOT / "corpus").glob("*-*.md"))[:5]
CORPUS = {path.name: path.read_text() for path in CONTRACTS}
QUESTIONS = [
    json.loads(line)["question"]
    for path in sorted((ROOT / "corpus").glob("golden*.jsonl"))
    for line in path.read_text().splitlines()[::2]
][:40]
SAME = 1e-4
"""Scores this near, relative to their size, are equal."""
K = 8
Hits = dict[str, list[dict[str, Any]]]


@dataclass
class House:
    """The app without its doors, on one kind of Qdrant; each call is a process of its own."""

    env: dict[str, str]

    def __call__(
        self,
        documents: dict[str, str] | None = None,
        delete: tuple[str, ...] = (),
        questions: list[str] | None = None,
        k: int = K,
        **env: str,
    ) -> Any:
        todo = {
            "documents": documents or {},
            "delete": delete,
            "questions": questions or [],
            "k": k,
        }
        path = f"{live.GUARD}:{live.rendered()}"
        done = subprocess.run(
            [live.bin_folder() / "python", ROOT / "tests" / "house.py"],
            env={"PYTHONPATH": path} | self.env | env,
            cwd=live.rendered(),
            input=json.dumps(todo),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


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
def both(name: str, server: str, tmp_path: Path) -> tuple[House, House]:
    return (
        House({"APP_NAME": name, "DATA_DIR": str(tmp_path)}),
        House({"APP_NAME": name, "QDRANT_URL": server}),
    )


def collections(server: str, name: str) -> list[str]:
    listed = httpx.get(f"{server}/collections").json()["result"]["collections"]
    return [found["name"] for found in listed if found["name"].startswith(name)]


def assert_same(embedded: Hits, remote: Hits) -> None:
    assert embedded
    for question, hits in embedded.items():
        scores = [hit["score"] for hit in remote[question]]
        assert [hit["score"] for hit in hits] == pytest.approx(scores, rel=SAME)
        assert in_order(hits) == in_order(remote[question])


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


def test_by_words_alone(both: tuple[House, House]) -> None:
    embedded, remote = [house(CORPUS, questions=QUESTIONS)["hits"] for house in both]
    assert_same(embedded, remote)


@pytest.mark.skipif("QDRANT_TEST_URL" in os.environ, reason="a server counts deleted passages")
def test_by_words_after_a_replacement_and_a_deletion(both: tuple[House, House]) -> None:
    replaced, deleted, *_ = CORPUS
    shorter = {replaced: CORPUS[replaced][:4000]}
    for house in both:
        house(CORPUS)
        hits = house(shorter, (deleted,), QUESTIONS[:1], 200)["hits"][QUESTIONS[0]]
        assert replaced in {hit["document"] for hit in hits} <= CORPUS.keys() - {deleted}
        assert max(hit["end"] for hit in hits if hit["document"] == replaced) <= 4000
    embedded, remote = [house(questions=QUESTIONS)["hits"] for house in both]  # opened anew
    assert_same(embedded, remote)


def test_by_words_and_meaning_also_after_a_change_of_the_embedding_model(
    both: tuple[House, House], name: str, server: str, tmp_path: Path
) -> None:
    by_words = both[0](CORPUS, questions=QUESTIONS, k=50, DATA_DIR=str(tmp_path / "words"))
    untied = [q for q, hits in by_words["hits"].items() if len(groups(hits)) == len(hits)]
    gateway = Gateway(embedding_models=["one", "other"])
    with running(gateway.app) as url:
        env = {"LITELLM_ENDPOINT": url} | live.KEY
        one = [house(CORPUS, (), untied, EMBEDDING_MODEL="one", **env) for house in both]
        old = collections(server, name)
        gateway.dim = 128
        other = [house({}, (), untied, EMBEDDING_MODEL="other", **env) for house in both]
    assert_same(one[0]["hits"], one[1]["hits"])
    assert_same(other[0]["hits"], other[1]["hits"])
    assert one[0]["hits"] != other[0]["hits"]
    assert [answer["embedded_by"] for answer in one] == [["one"] * len(CORPUS)] * 2
    assert [answer["embedded_by"] for answer in other] == [["other"] * len(CORPUS)] * 2
    (new,) = collections(server, name)
    assert [new] != old
    aliases = httpx.get(f"{server}/aliases").json()["result"]["aliases"]
    assert {"alias_name": name, "collection_name": new} in aliases
    (folder,) = [path.name for path in (tmp_path / "qdrant").iterdir() if path.is_dir()]
    assert new.startswith(folder)  # on a server each re-index has a name of its own
