"""Qdrant inside this process: its own engine (Qdrant Edge), one folder a collection.

A file beside the folders names the current collection, so that switching over is one rename.
One process at a time; the calls block for about a millisecond and therefore run in threads.
"""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from agent.errors import Unavailable
from agent.qdrant import BRIEF, INDEXED, Payload, Point, Row, Search, Where, Words

RESERVE_BYTES = 64 << 20
"""What a new version of a document, and its log, may take at most before the old one goes."""


class Embedded:
    shared = False  # one process at a time

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._folder = folder
        self._words = Words(edge)
        self._shards: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._threads = ThreadPoolExecutor(4)  # an own one, so that closing can wait for its calls

    async def current(self) -> str | None:
        pointer = self._folder / "current"
        return pointer.read_text() if pointer.exists() else None

    async def create(self, collection: str, dimension: int | None) -> None:
        sparse = edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(dimension, edge.Distance.Cosine)}
            if dimension
            else {},
            sparse_vectors={"sparse": sparse, "about": sparse},
        )
        path = self._folder / collection
        shutil.rmtree(path, ignore_errors=True)  # what an interrupted re-index left
        path.mkdir(parents=True)
        self._shards[collection] = edge.EdgeShard.create(str(path), config)
        for field in INDEXED:
            keyword = edge.PayloadSchemaType.Keyword
            await self._update(collection, edge.UpdateOperation.create_field_index(field, keyword))

    async def switch(self, collection: str, old: str | None) -> None:
        pointer = self._folder / "current.new"
        pointer.write_text(collection)
        os.replace(pointer, self._folder / "current")

    async def drop(self, collection: str) -> None:
        self._shards.pop(collection, None)  # a search that still runs in it keeps it open
        self._threads.submit(_remove, self._folder / collection)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        def operation() -> Any:
            rows = [edge.Point(p.id, self._words.vectors(p), p.payload) for p in points]
            return edge.UpdateOperation.upsert_points(rows)

        await self._update(collection, await self._run(operation))  # thousands take a while

    async def delete(self, collection: str, where: Where) -> None:
        condition = self._words.filter(where, {})
        operation = edge.UpdateOperation.delete_points_by_filter(condition)
        await self._update(collection, operation)

    async def fetch(
        self, collection: str, ids: Sequence[Any], only: list[str] | None = None
    ) -> list[Row]:
        """The points of these ids that there are, with `only` these fields or with all."""
        shard = self._shard(collection)
        found = await self._run(shard.retrieve, list(ids), only or True, False)
        return list(map(self._words.row, found))

    async def scroll(self, collection: str, where: Where) -> list[Payload]:
        found: list[Payload] = []
        offset = None
        while True:
            request = edge.ScrollRequest(offset, 1000, self._words.filter(where, {}), True)
            records, offset = await self._run(self._shard(collection).scroll, request)
            found += [record.payload for record in records]
            if offset is None:
                return found

    async def sample(self, collection: str, where: Where, limit: int) -> list[Row]:
        """Some points and their words; ids are random, so the first ones are a fair sample."""
        condition = self._words.filter(where, {})
        request = edge.ScrollRequest(None, limit, condition, True, ["sparse"])
        records, _ = await self._run(self._shard(collection).scroll, request)
        return [self._words.row(record) for record in records]

    async def query(
        self, collection: str, searches: Sequence[Search], where: Where, unless: Where
    ) -> list[list[Row]]:
        condition = self._words.filter(where, unless)
        requests = [
            edge.QueryRequest(
                search.limit,
                query=edge.Query.Nearest(self._words.vector(search), using=search.using),
                filter=condition,
                with_payload=BRIEF,
                with_vector=["sparse"] if search.words else False,
            )
            for search in searches
        ]
        batch = edge.QueryBatchRequest(requests)
        found = await self._run(self._shard(collection).query_batch, batch)
        return [[self._words.row(point) for point in points] for points in found]

    async def optimize(self, collection: str) -> None:
        """Holds Python's lock until it is done, so that no other thread runs."""
        await self._run(self._shard(collection).optimize)

    async def room(self) -> None:
        """Raises before there is none: the engine maps its files, and a full disk would end it."""
        free = shutil.disk_usage(self._folder).free
        if free < RESERVE_BYTES:
            raise Unavailable(
                f"There is no room for documents: {free >> 20} MiB are left on the disk of "
                f"{self._folder}, and {RESERVE_BYTES >> 20} are kept free; free some.",
                "qdrant",
            )

    async def check(self) -> str:
        return f"embedded, in {self._folder}"

    async def close(self) -> None:
        """Waits for the calls that still run, also those whose caller was cancelled."""
        await asyncio.to_thread(self._threads.shutdown)
        while self._shards:
            await asyncio.to_thread(self._shards.popitem()[1].close)

    def _shard(self, collection: str) -> Any:
        with self._opening:
            if collection not in self._shards:
                self._shards[collection] = self._load(self._folder / collection)
                for folder in self._folder.iterdir():  # of a switch that was interrupted
                    if folder.is_dir() and folder.name not in self._shards:
                        _remove(folder)
            return self._shards[collection]

    def _load(self, path: Path) -> Any:
        try:
            return edge.EdgeShard.load(str(path))
        except Exception as error:
            raise Unavailable(
                f"The documents in {path} cannot be opened ({error}); if another process has them "
                "open, stop it, or ask it by its page or API."
            ) from error

    async def _update(self, collection: str, operation: Any) -> None:
        def apply() -> None:
            shard = self._shard(collection)
            shard.update(operation)
            shard.flush()  # what was acknowledged survives a power cut

        await self._run(apply)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _remove(folder: Path) -> None:
    """A search that still runs in it may write to it once more when it ends."""
    for _ in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
