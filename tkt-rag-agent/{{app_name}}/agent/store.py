"""Where documents live, and how they come and go without a moment of half a document.

Qdrant has no transactions, so one small point a document, its *entry*, says which version of its
passages is served. Writing that one point is the switch. A new version is written beside the old
one first and the old one deleted after it; what is being written or deleted stands in the entry's
`leftover`, for the next start to clean up after a crash. A search drops hits of any version that
its document's entry does not name, and asks again without them.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING

from agent.index import Index, naming_text
from agent.naming import Usual, count
from agent.qdrant import Payload, Point, Row, Search
from agent.split import Passage

if TYPE_CHECKING:
    from agent.qdrant_embedded import Embedded
    from agent.qdrant_server import Server

SAMPLE = 1000
"""Passages, and openings of documents, that tell how usual a word is."""
BATCH = 64
"""Passages in one write and one embedding request: as many as small embedding servers take."""
_META = str(uuid.uuid5(uuid.NAMESPACE_URL, "meta"))


@dataclass(frozen=True)
class Entry:
    """One document. `version` is empty while the first version is on its way in, or out."""

    document: str
    sha256: str = ""
    bytes: int = 0
    pages: int = 0
    characters: int = 0
    passages: int = 0
    added_at: str = ""
    opening: str = ""
    version: str = ""
    embedding: str | None = None
    leftover: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return _id(self.document)

    def part(self, name: str) -> str:
        """Id of a point that belongs to this version."""
        return str(uuid.uuid5(uuid.UUID(self.version), name))


@dataclass(frozen=True)
class Hit:
    """A passage that was found; `text` is the extracted text from `start` to `end`."""

    document: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str
    score: float


class Store:
    """The documents of one app, in the current collection of a Qdrant, embedded or server."""

    def __init__(self, database: "Embedded | Server", app_name: str, index: Index) -> None:
        self.database = database
        self.index = index
        self.model: str | None = None  # whose vectors the collection holds, None: words alone
        self._app_name = app_name
        self._collection = ""
        self._usual: Usual | None = None  # counted when first asked for after a change
        self._writing = asyncio.Lock()

    async def tend(self) -> None:
        """Make the collection what the settings want, and finish what a crash interrupted.

        Called before the first use and now and then: another embedding model re-indexes into a new
        collection, and documents that came while the embedding service was away get their vectors.
        """
        async with self._writing:
            current = await self.database.current()
            model, dimension = await self.index.embedding(await self._recorded_model(current))
            if self._collection and model == self.model:
                return
            wanted = self._name(model, dimension)
            if current is None or (model and current != wanted):
                self._collection, self.model = current or "", None  # serves meanwhile, by words
                await self._rebuild(current, wanted, model, dimension)
                self._collection, self.model = wanted, model
                if current:
                    await self.database.drop(current)
                current = wanted
            self._collection, self.model = current, model
            await self._clean_up()
            for entry in await self._entries(current):
                if self.model and entry.embedding != self.model:
                    await self._write(entry, await self._passages(current, entry))

    async def put(self, entry: Entry, passages: Sequence[Passage]) -> None:
        """Store a document in place of its previous version, if there was one."""
        await self._opened()
        async with self._writing:
            await self._write(entry, passages)

    async def delete(self, document_id: str) -> Entry | None:
        """Remove a document; None when there is none of that id."""
        await self._opened()
        async with self._writing:
            entry = await self._entry(document_id)
            if entry:
                gone = replace(entry, version="", leftover=[*entry.leftover, entry.version])
                await self._save(self._collection, gone)
                await self._drop_leftover(gone)
            return entry

    async def documents(self) -> list[Entry]:
        """What is served, by name."""
        await self._opened()
        return await self._entries(self._collection)

    async def entry(self, document: str) -> Entry | None:
        await self._opened()
        return await self._entry(Entry(document).id)

    async def entries(self, documents: Iterable[str]) -> dict[str, Entry]:
        """What is known of these documents, by name."""
        ids = {Entry(document).id for document in documents}
        found = await self.database.fetch(self._collection, sorted(ids))
        return {row.payload["document"]: _entry(row.payload) for row in found}

    async def passages(self, document: str) -> list[Passage]:
        """A document's passages in reading order; none when there is no such document."""
        entry = await self.entry(document)
        return await self._passages(self._collection, entry) if entry else []

    async def usual(self) -> Usual:
        """How usual words are, as of now or a little while ago."""
        await self._opened()
        if self._usual is None:
            where = {"kind": ["passage"]}
            rows = await self.database.sample(self._collection, where, SAMPLE)
            entries = await self.database.sample(self._collection, {"kind": ["document"]}, SAMPLE)
            texts = [naming_text(e.payload["document"], e.payload["opening"]) for e in entries]
            self._usual = count(self.index, [row.words for row in rows], texts)
        return self._usual

    async def meaning(self, question: str) -> list[float] | None:
        """The question's vector, where the collection has vectors and their model answers."""
        found = await self.index.meaning([question]) if self.model else None
        return found[0] if found else None

    async def search(
        self, searches: Sequence[Search], documents: Sequence[str] = ()
    ) -> list[list[Row]]:
        """What each search finds in `documents`, or in all when none are named, best first."""
        await self._opened()
        where = {"document": list(documents)} if documents else {}
        seen: set[str] = set()
        served: dict[str, str] = {}  # version of each document that was seen
        while True:
            hidden = sorted(seen - set(served.values()))
            unless = {"version": hidden} if hidden else {}
            found = await self.database.query(self._collection, searches, where, unless)
            rows = [row for side in found for row in side]
            versions = {row.payload["version"] for row in rows}
            before, served = served, await self._served(rows, served)
            # A hidden version may have become the served one in the meantime: then ask again.
            if versions <= set(served.values()) and before.items() <= served.items():
                return found
            seen |= versions

    async def hits(self, rows: Sequence[Row]) -> list[Hit] | None:
        """The passages of `rows`, in their order; None when one was deleted in the meantime."""
        found = await self.database.fetch(self._collection, [row.id for row in rows])
        payloads = {row.id: row.payload for row in found}
        names = [f.name for f in fields(Hit) if f.name != "score"]
        if len(payloads) < len(rows):
            return None
        return [Hit(**{n: payloads[row.id][n] for n in names}, score=row.score) for row in rows]

    async def optimize(self) -> None:
        """Compact, and index vectors. For a command line: the embedded engine stops the whole
        process meanwhile, 4 s for 20,000 passages, and answers as fast without it up to there."""
        await self._opened()
        await self.database.optimize(self._collection)

    async def _opened(self) -> None:
        if not self._collection:
            await self.tend()

    async def _served(self, found: Sequence[Row], also: Iterable[str]) -> dict[str, str]:
        """Which version is served now, by document id, of the documents found and of `also`."""
        names = {row.payload["document"] for row in found}
        ids = {_id(name) for name in names} | set(also)
        only = ["document", "version"]
        entries = await self.database.fetch(self._collection, sorted(ids), only)
        return {_id(entry.payload["document"]): entry.payload["version"] for entry in entries}

    async def _write(self, entry: Entry, passages: Sequence[Passage]) -> None:
        found = await self.database.fetch(self._collection, [entry.id])
        old = (
            _entry(found[0].payload) if found else Entry(entry.document)
        )  # its leftover counts anyway
        version = uuid.uuid4().hex
        await self._save(self._collection, replace(old, leftover=[*old.leftover, version]))
        model = await self._index_passages(
            self._collection, replace(entry, version=version), passages, self.model
        )
        leftover = [*old.leftover, old.version] if old.version else old.leftover
        new = replace(entry, version=version, embedding=model, leftover=leftover)
        await self._save(self._collection, new)
        await self._drop_leftover(new)
        self.model = model  # None where the embedding service was away: `tend` tries again

    async def _index_passages(
        self, collection: str, entry: Entry, passages: Sequence[Passage], model: str | None
    ) -> str | None:
        """Write them with their vectors; gives the embedding model, None where it was away."""
        served = {"document": entry.document, "version": entry.version}
        words: set[int] = set()
        for at in range(0, len(passages), BATCH):
            batch = passages[at : at + BATCH]
            vectors, meaning = await self.index.passages(batch, bool(model))
            model = model if meaning else None
            points = [
                Point(
                    entry.part(str(at + n)),
                    asdict(passage) | served | {"kind": "passage", "number": at + n},
                    *pair,
                )
                for n, (passage, pair) in enumerate(zip(batch, vectors, strict=True))
            ]
            words.update(word for (own, _), _ in vectors for word in own)
            if at + BATCH >= len(passages):
                about = self.index.about(entry.document, entry.opening, words)
                points.append(Point(entry.part("about"), served | {"kind": "about"}, about=about))
            await self.database.upsert(collection, points)
        return model

    async def _rebuild(
        self, old: str | None, new: str, model: str | None, dimension: int | None
    ) -> None:
        """Copy every document into a new collection and switch; the old one serves meanwhile."""
        entries = await self._entries(old) if old else []
        await self.database.create(new, dimension)
        for entry in entries:
            passages = await self._passages(str(old), entry)
            embedding = await self._index_passages(new, entry, passages, model)
            await self._save(new, replace(entry, embedding=embedding, leftover=[]))
        meta = {"kind": "meta", "embedding_model": model, "dimension": dimension}
        await self.database.upsert(new, [Point(_META, meta)])
        await self.database.switch(new, old)

    async def _clean_up(self) -> None:
        condition = {"kind": ["document"]}
        for payload in await self.database.scroll(self._collection, condition):
            if payload["leftover"] or not payload["version"]:
                await self._drop_leftover(_entry(payload))

    async def _drop_leftover(self, entry: Entry) -> None:
        if entry.leftover:
            await self.database.delete(self._collection, {"version": entry.leftover})
        if entry.version:
            await self._save(self._collection, replace(entry, leftover=[]))
        else:
            condition = {"kind": ["document"], "document": [entry.document]}
            await self.database.delete(self._collection, condition)

    async def _save(self, collection: str, entry: Entry) -> None:
        self._usual = None
        payload = {"kind": "document"} | asdict(entry)
        await self.database.upsert(collection, [Point(entry.id, payload)])

    async def _entry(self, document_id: str) -> Entry | None:
        found = await self.database.fetch(self._collection, [document_id])
        entries = (_entry(row.payload) for row in found)
        return next((entry for entry in entries if entry.version), None)

    async def _entries(self, collection: str) -> list[Entry]:
        found = await self.database.scroll(collection, {"kind": ["document"]})
        return sorted((e for e in map(_entry, found) if e.version), key=lambda e: e.document)

    async def _passages(self, collection: str, entry: Entry) -> list[Passage]:
        found = await self.database.scroll(collection, {"version": [entry.version]})
        names = [f.name for f in fields(Passage)]
        passages = [Passage(**{name: p[name] for name in names}) for p in found if "start" in p]
        return sorted(passages, key=lambda passage: passage.start)

    async def _recorded_model(self, collection: str | None) -> str | None:
        meta = await self.database.fetch(collection, [_META]) if collection else []
        return meta[0].payload["embedding_model"] if meta else None

    def _name(self, model: str | None, dimension: int | None) -> str:
        kind = hashlib.sha256(f"{model}:{dimension}".encode()).hexdigest()[:8] if model else "words"
        return f"{self._app_name}-{kind}"


def _entry(payload: Payload) -> Entry:
    return Entry(**{f.name: payload[f.name] for f in fields(Entry) if f.name in payload})


@cache
def _id(document: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, document))
