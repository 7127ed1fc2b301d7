"""Qdrant as a server, through its own client.

An alias with the app's name is the current collection. Only what a server of version 1.15
understands is asked for.
"""

from collections.abc import Awaitable, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from agent.errors import Unavailable
from agent.qdrant import BRIEF, INDEXED, Payload, Point, Row, Search, Where, Words


class Server:
    shared = True  # replicas of the app may write at the same time

    def __init__(self, client: AsyncQdrantClient, alias: str, url: str) -> None:
        self.place = url
        self._client = client
        self._alias = alias
        self._words = Words(models)

    async def current(self) -> str | None:
        aliases = (await self._ask(self._client.get_aliases())).aliases
        return next((a.collection_name for a in aliases if a.alias_name == self._alias), None)

    async def create(self, collection: str, dimension: int | None) -> None:
        sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
        dense = models.VectorParams(size=dimension or 1, distance=models.Distance.COSINE)
        await self._ask(self._client.delete_collection(collection))  # an interrupted re-index
        await self._ask(
            self._client.create_collection(
                collection,
                vectors_config={"dense": dense} if dimension else {},
                sparse_vectors_config={"sparse": sparse, "about": sparse},
            )
        )
        for field in INDEXED:
            keyword = models.PayloadSchemaType.KEYWORD
            await self._ask(self._client.create_payload_index(collection, field, keyword))

    async def switch(self, collection: str, old: str | None) -> None:
        """Move the alias in one request: every search sees the old collection or the new one."""
        create = models.CreateAlias(collection_name=collection, alias_name=self._alias)
        operations: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if old:
            delete = models.DeleteAlias(alias_name=self._alias)
            operations.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        await self._ask(self._client.update_collection_aliases(operations))

    async def drop(self, collection: str) -> None:
        await self._ask(self._client.delete_collection(collection))

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        rows = [
            models.PointStruct(id=p.id, vector=self._words.vectors(p), payload=p.payload)
            for p in points
        ]
        await self._ask(self._client.upsert(collection, rows))

    async def delete(self, collection: str, where: Where) -> None:
        await self._ask(self._client.delete(collection, self._words.filter(where, {})))

    async def fetch(
        self, collection: str, ids: Sequence[Any], only: list[str] | None = None
    ) -> list[Row]:
        """The points of these ids that there are, with `only` these fields or with all."""
        records = await self._ask(self._client.retrieve(collection, list(ids), only or True))
        return list(map(self._words.row, records))

    async def scroll(self, collection: str, where: Where) -> list[Payload]:
        found: list[Payload] = []
        offset = None
        while True:
            condition = self._words.filter(where, {})
            records, offset = await self._ask(
                self._client.scroll(collection, condition, limit=1000, offset=offset)
            )
            found += [record.payload for record in records]
            if offset is None:
                return found

    async def sample(self, collection: str, where: Where, limit: int) -> list[Row]:
        """Some points and their words; ids are random, so the first ones are a fair sample."""
        condition = self._words.filter(where, {})
        records, _ = await self._ask(
            self._client.scroll(collection, condition, limit=limit, with_vectors=["sparse"])
        )
        return [self._words.row(record) for record in records]

    async def query(
        self, collection: str, searches: Sequence[Search], where: Where, unless: Where
    ) -> list[list[Row]]:
        condition = self._words.filter(where, unless)
        requests = [
            models.QueryRequest(
                query=self._words.vector(search),
                using=search.using,
                limit=search.limit,
                filter=condition,
                with_payload=BRIEF,
                with_vector=["sparse"] if search.words else False,
            )
            for search in searches
        ]
        found = await self._ask(self._client.query_batch_points(collection, requests))
        return [[self._words.row(point) for point in one.points] for one in found]

    async def optimize(self, collection: str) -> None:
        """A server does this by itself."""

    async def room(self) -> None:
        """A server looks after its own disk."""

    async def check(self) -> str:
        return f"Qdrant {(await self._ask(self._client.info())).version} at {self.place}"

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except UnexpectedResponse as error:
            reason = f"answers {error.status_code}: {error.content.decode(errors='replace')[:200]}"
        except (ApiException, OSError) as error:
            reason = f"does not answer ({error or type(error).__name__})"
        advice = "check QDRANT_URL and that it runs"
        raise Unavailable(f"Qdrant at {self.place} {reason}; {advice}.", "qdrant")
