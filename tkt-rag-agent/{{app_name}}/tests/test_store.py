"""Documents come and go at one stroke, also when the process is killed in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
from world import FakeGateway, embed

from agent import gateway as gateway_module
from agent import store as store_module
from agent.gateway import EmbeddingModel, Gateway
from agent.index import Index
from agent.qdrant import Search
from agent.qdrant_embedded import Embedded
from agent.retriever import find
from agent.split import Passage
from agent.store import Entry, Store

pytestmark = pytest.mark.anyio

APP = Path(__file__).resolve().parent.parent


def open_store(database: Any, embedding: EmbeddingModel | None = None) -> Store:
    return Store(database, "app", Index(embedding))


def pieces(word: str, count: int = 3) -> list[Passage]:
    """Passages that all hold `common` and `word`."""
    texts = [f"common {word} number{n}" for n in range(count)]
    return [Passage(n * 50, n * 50 + len(t), None, None, t) for n, t in enumerate(texts)]


async def put(store: Store, document: str, word: str, count: int = 3) -> None:
    await store.put(Entry(document, sha256=word, passages=count), pieces(word, count))


async def words(store: Store, limit: int = 50) -> list[str]:
    """The second word of every passage that is found."""
    found = await find(store, "common", limit)
    return sorted(hit.text.split()[1] for hit in found.hits)


async def points(database: Any, kind: str | None = None) -> int:
    current = await database.current()
    return len(await database.scroll(current, {"kind": [kind]} if kind else {}))


async def test_a_document_is_found_replaced_and_deleted(folder: Path) -> None:
    database = Embedded(folder)
    store = open_store(database)

    await put(store, "a.md", "first")
    await put(store, "b.md", "other", 1)
    assert await words(store) == ["first", "first", "first", "other"]
    assert [entry.document for entry in await store.documents()] == ["a.md", "b.md"]

    await put(store, "a.md", "second", 2)
    assert await words(store) == ["other", "second", "second"]
    assert await points(database, "passage") == 3

    gone = await store.delete(Entry("a.md").id)
    assert gone
    assert gone.document == "a.md"
    assert await words(store) == ["other"]
    assert await store.delete(Entry("a.md").id) is None
    assert (
        await points(database) == 2 + 1 + 1
    )  # the passage and what the document is about, its entry, the collection
    await database.close()


async def test_a_search_can_be_held_to_some_documents(folder: Path) -> None:
    database = Embedded(folder)
    store = open_store(database)
    for name in ("a", "b", "c"):
        await put(store, f"{name}.md", name, 1)

    found = await find(store, "common", 9, ["a.md", "c.md", "never-heard-of.md"])

    assert sorted(hit.document for hit in found.hits) == ["a.md", "c.md"]
    await database.close()


async def test_what_was_stored_is_there_after_a_restart(folder: Path) -> None:
    database = Embedded(folder)
    await put(open_store(database), "a.md", "kept")
    await database.close()

    database = Embedded(folder)
    assert await words(open_store(database)) == ["kept"] * 3
    await database.close()


async def test_a_search_during_replacements_sees_exactly_one_version(folder: Path) -> None:
    database = Embedded(folder)
    store = open_store(database)
    await put(store, "a.md", "v0", 5)
    seen: list[list[str]] = []

    async def hammer() -> None:
        while True:
            seen.append(await words(store))

    hammers = [asyncio.create_task(hammer()) for _ in range(2)]
    for n in range(1, 61):
        await put(store, "a.md", f"v{n}", 5)
    for task in hammers:
        task.cancel()
    await asyncio.wait(hammers)

    assert len(seen) > 20
    for found in seen:
        assert len(found) == 5, found
        assert len(set(found)) == 1, found
    await database.close()


class Stepwise:
    """A database whose calls wait until they are let through one by one."""

    shared = False

    def __init__(self, database: Any) -> None:
        self._database = database
        self._turns: asyncio.Queue[None] = asyncio.Queue()
        self._made: asyncio.Queue[None] = asyncio.Queue()
        self.calls = 0

    async def step(self) -> None:
        self._turns.put_nowait(None)
        await asyncio.wait_for(self._made.get(), 10)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            await self._turns.get()
            result = await getattr(self._database, name)(*arguments)
            self.calls += 1
            self._made.put_nowait(None)
            return result

        return call


class Overtaken:
    """A database before whose n-th call something else happens: `before(n)`."""

    shared = False

    def __init__(self, database: Any, before: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        self._database, self._before, self._calls = database, before, 0

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            await self._before(self._calls)
            self._calls += 1
            return await getattr(self._database, name)(*arguments)

        return call


async def test_a_search_that_a_replacement_overtakes_anywhere_sees_one_version(
    folder: Path,
) -> None:
    database = Embedded(folder)
    await put(open_store(database), "a.md", "v0")
    begun, written, switched, old_gone, ended = 0, 5, 6, 7, 8  # calls that a replacement makes
    moments = (begun, written, switched, old_gone, ended)

    for number, plan in enumerate(combinations_with_replacement(moments, 3), 1):
        stepwise = Stepwise(database)
        writer, reader = open_store(stepwise), open_store(database)
        writer._collection = reader._collection = str(await database.current())
        writing = asyncio.create_task(put(writer, "a.md", f"v{number}"))

        async def before(call: int, plan: Any = plan, stepwise: Stepwise = stepwise) -> None:
            while call < len(plan) and stepwise.calls < plan[call]:
                await stepwise.step()

        reader.database = Overtaken(database, before)  # type: ignore[assignment]
        found = await words(reader)

        while stepwise.calls < ended:
            await stepwise.step()
        await writing
        assert found in ([f"v{number - 1}"] * 3, [f"v{number}"] * 3), plan
    await database.close()


class Killed(Exception):
    pass


class Mortal:
    """A database that is killed instead of its call number `last`."""

    shared = False

    def __init__(self, database: Any, last: int) -> None:
        self._database, self._left = database, last

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= 1
            return await getattr(self._database, name)(*arguments)

        return call


OPERATIONS: dict[str, Callable[[Store, str], Coroutine[Any, Any, Any]]] = {
    "put": lambda store, name: put(store, f"new-{name}", f"new-{name}"),
    "replace": lambda store, name: put(store, name, f"new-{name}"),
    "delete": lambda store, name: store.delete(Entry(name).id),
}
AFTERWARDS = {"put": ["new-", ""], "replace": ["new-"], "delete": []}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_killed_between_any_two_calls_only_whole_documents_are_served(
    operation: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BATCH", 2)
    outcomes: list[list[str]] = []
    for last in range(40):
        name = f"{last}.md"
        database = Embedded(folder)
        await put(open_store(database), name, name)
        dying = open_store(Mortal(database, last))
        killed = await is_killed(OPERATIONS[operation](dying, name))
        await database.close()

        database = Embedded(folder)
        store = open_store(database)
        found = [word for word in await words(store, 200) if word.endswith(name)]
        outcomes.append([word.removesuffix(name) for word in sorted(set(found), reverse=True)])
        assert len(found) == 3 * len(set(found)), f"half a document, killed at call {last}"
        everything = await store.documents()
        assert await points(database, "document") == len(everything), f"left by call {last}"
        assert await points(database, "passage") == 3 * len(everything), f"left by call {last}"
        await database.close()
        if not killed:
            break
    assert all(outcome in ([""], AFTERWARDS[operation]) for outcome in outcomes)
    assert outcomes[0] == [""]
    assert outcomes[-1] == AFTERWARDS[operation]
    assert len(outcomes) > 5


async def is_killed(work: Coroutine[Any, Any, Any]) -> bool:
    try:
        await work
    except Killed:
        return True
    return False


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_failed_halfway_and_is_tried_again_leaves_nothing_behind(
    operation: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BATCH", 2)
    database = Embedded(folder)
    store = open_store(database)
    for last in range(1, 9):
        name = f"{last}.md"
        await put(store, name, name)
        store.database = Mortal(database, last)  # type: ignore[assignment]
        await is_killed(OPERATIONS[operation](store, name))
        store.database = database

        await put(store, name, "again")
        await put(store, f"new-{name}", "again")

        assert set(await words(store, 200)) == {"again"}
        assert await points(database, "passage") == 2 * 3 * last, f"leftovers of call {last}"
    await database.close()


async def test_another_embedding_model_reindexes_while_the_old_collection_serves(
    folder: Path, gateway: FakeGateway
) -> None:
    gateway.embedding_models = {"small": 4, "large": 16}
    database = Embedded(folder)
    await put(open_store(database, EmbeddingModel(Gateway(gateway.http), "small")), "a.md", "kept")
    old = str(await database.current())
    meanwhile: list[list[str]] = []

    class Watched(Embedded):
        async def upsert(self, collection: str, points: Any) -> None:
            await super().upsert(collection, points)
            meanwhile.append(await words(store))

    await database.close()
    database = Watched(folder)
    store = open_store(database, EmbeddingModel(Gateway(gateway.http), "large"))
    await store.tend()

    new = str(await database.current())
    assert new != old
    assert store.model == "large"
    assert meanwhile
    assert all(found == ["kept"] * 3 for found in meanwhile)
    assert await words(store) == ["kept"] * 3
    assert [entry.embedding for entry in await store.documents()] == ["large"]
    await database.close()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [new]


async def test_killed_in_mid_reindex_the_old_serves_and_the_next_start_finishes(
    folder: Path, gateway: FakeGateway
) -> None:
    gateway.embedding_models = {"small": 4, "large": 16}
    database = Embedded(folder)
    small = open_store(database, EmbeddingModel(Gateway(gateway.http), "small"))
    await put(small, "a.md", "kept")
    await put(small, "b.md", "kept", 1)
    await database.close()
    for last in range(3, 30):
        wanted = "large" if last % 2 else "small"
        database = Embedded(folder)
        dying = open_store(Mortal(database, last), EmbeddingModel(Gateway(gateway.http), wanted))
        killed = await is_killed(dying.tend())
        await database.close()

        database = Embedded(folder)
        store = open_store(database, EmbeddingModel(Gateway(gateway.http), wanted))
        assert await words(store) == ["kept"] * 4
        assert [e.embedding for e in await store.documents()] == [wanted] * 2
        assert await points(database) == 4 + 2 * 2 + 1
        await database.close()
        assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
        if not killed:
            break
    assert not killed
    assert last > 10


async def test_while_a_reindex_is_interrupted_the_old_collection_answers(
    folder: Path, gateway: FakeGateway
) -> None:
    gateway.embedding_models = {"small": 4, "large": 16}
    database = Embedded(folder)
    small = open_store(database, EmbeddingModel(Gateway(gateway.http), "small"))
    await put(small, "a.md", "kept")
    store = open_store(Mortal(database, 5), EmbeddingModel(Gateway(gateway.http), "large"))

    assert await is_killed(store.tend())

    store.database = database
    assert await words(store) == ["kept"] * 3
    await database.close()


async def test_documents_that_came_without_embeddings_get_them_when_the_service_is_back(
    folder: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "PAUSE_S", 0)
    gateway.away = {"embeddings"}
    database = Embedded(folder)
    store = open_store(database, EmbeddingModel(Gateway(gateway.http), "embed"))

    await put(store, "a.md", "early")
    assert await words(store) == ["early"] * 3
    assert [e.embedding for e in await store.documents()] == [None]

    gateway.away = set()
    await store.tend()
    assert [e.embedding for e in await store.documents()] == ["embed"]
    assert await by_meaning(store) == {"early"}
    assert await words(store) == ["early"] * 3
    await database.close()


async def test_an_outage_while_the_app_runs_is_made_good_too(
    folder: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "PAUSE_S", 0)
    database = Embedded(folder)
    store = open_store(database, EmbeddingModel(Gateway(gateway.http), "embed"))
    await put(store, "a.md", "before")
    gateway.away = {"embeddings"}
    await put(store, "b.md", "during")
    await store.tend()  # still away
    assert [e.embedding for e in await store.documents()] == ["embed", None]

    gateway.away = set()
    await store.tend()

    assert [e.embedding for e in await store.documents()] == ["embed", "embed"]
    assert await by_meaning(store) == {"before", "during"}
    await database.close()


async def by_meaning(store: Store) -> set[str]:
    """The second word of all passages that dense search alone finds."""
    (rows,) = await store.search([Search("dense", embed("common", 8), 50)])
    return {hit.text.split()[1] for hit in await store.hits(rows) or []}


async def test_closing_waits_for_a_call_whose_caller_was_cancelled(folder: Path) -> None:
    done: list[str] = []
    began = threading.Event()

    class SlowShard:
        def update(self, _: Any) -> None:
            began.set()
            time.sleep(0.1)
            done.append("update")

        def flush(self) -> None:
            done.append("flush")

        def close(self) -> None:
            done.append("close")

    database = Embedded(folder)
    database._shards["app-words"] = SlowShard()
    writing = asyncio.create_task(database.upsert("app-words", []))
    assert await asyncio.to_thread(began.wait, 8)
    writing.cancel()
    await asyncio.wait([writing])

    await database.close()

    assert done == ["update", "flush", "close"]


async def test_what_an_interrupted_switch_left_is_removed_at_the_next_start(folder: Path) -> None:
    database = Embedded(folder)
    await put(open_store(database), "a.md", "kept")
    await database.close()
    (folder / "app-of-another-model").mkdir()

    database = Embedded(folder)
    assert await words(open_store(database)) == ["kept"] * 3
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["app-words"]
    await database.close()


async def test_a_second_process_is_told_in_one_sentence_who_has_the_documents(
    folder: Path,
) -> None:
    database = Embedded(folder)
    await put(open_store(database), "a.md", "mine")
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from agent.errors import Unavailable; from agent.qdrant_embedded import Embedded\n"
        "from agent.index import Index; from agent.store import Store\n"
        "store = Store(Embedded(Path(sys.argv[1])), 'app', Index(None))\n"
        "try: asyncio.run(store.documents())\n"
        "except Unavailable as error: print(error)\n"
    )

    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(folder)],
        cwd=APP, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "if another process has them open, stop it" in second.stdout
    assert second.stdout.count("\n") == 1
    assert await words(open_store(database)) == ["mine"] * 3
    await database.close()
