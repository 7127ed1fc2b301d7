"""Where documents live, and how they come and go without a moment of half a document.

Qdrant has no transactions, so one small point a document, its *entry*, says which version of its
passages is served. Writing that one point is the switch. A new version is written beside the old
one first and the old one deleted after it; what is being written or deleted stands in the entry's
`leftover`, for the next start to clean up after a crash. A search drops hits of any version that
its document's entry does not name, and asks again without them.

On a server several replicas may write at once. The last one to switch wins; each deletes what it
replaced, and, when it tends the store, what it wrote itself and lost with; but never what another
may be writing.
"""

import asyncio
import hashlib
import time
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
ABANDONED_S = 3600
"""On a server, a version that has been in writing for longer is what a crash left."""
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
    leftover: dict[str, float] = field(default_factory=dict)
    """Versions that are being written, since when (epoch seconds), or to be deleted (0)."""

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
        self._cleaned_at = 0.0
        self._written: dict[str, Entry] = {}  # versions since the last `tend`, on a server
        self._writing = asyncio.Lock()

    async def tend(self) -> None:
        """Make the collection what the settings want, and finish what a crash interrupted.

        Called before the first use and now and then: another embedding model re-indexes into a new
        collection, and documents that came while the embedding service was away get their vectors.
        """
        async with self._writing:
            current = await self.database.current()
            model, dimension = await self.index.embedding(await self._recorded_model(current))
            await self._withdraw_losers()
            late = time.monotonic() > self._cleaned_at + ABANDONED_S
            if self._collection == current and model == self.model and not late:
                return
            wanted = self._name(model, dimension)
            if current is None or (model and not current.startswith(wanted)):
                self._collection, self.model = current or "", None  # serves meanwhile, by words
                new = await self._rebuild(current, wanted, model, dimension)
                self._collection, self.model = new, model
                if current and current != new:
                    await self.database.drop(current)
                current = new
            self._collection, self.model = current, model
            await self._clean_up()
            for entry in await self._entries(current):
                if self.model and entry.embedding != self.model:
                    await self._write(entry, await self._passages(current, entry))

    async def put(self, entry: Entry, passages: Sequence[Passage]) -> None:
        """Store a document in place of its previous version, if there was one."""
        await self._opened()
        await self.database.room()
        async with self._writing:
            await self._write(entry, passages)

    async def delete(self, document_id: str) -> Entry | None:
        """Remove a document; None when there is none of that id."""
        await self._opened()
        async with self._writing:
            entry = await self._entry(document_id)
            if entry:
                gone = replace(entry, version="", leftover=entry.leftover | {entry.version: 0.0})
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
        old, version = await self._latest(entry), uuid.uuid4().hex
        begun = old.leftover | {version: time.time()}
        await self._save(self._collection, replace(old, leftover=begun))
        new = replace(entry, version=version)
        model = await self._index_passages(self._collection, new, passages, self.model)
        old = await self._latest(entry)  # another replica may have been quicker
        gone = {old.version: 0.0} if old.version else {}
        leftover = {v: at for v, at in (old.leftover | gone).items() if v != version}
        new = replace(new, embedding=model, leftover=leftover)
        await self._save(self._collection, new)
        await self._drop_leftover(new)
        if self.database.shared:
            self._written[version] = entry
        self.model = model  # None where the embedding service was away: `tend` tries again

    async def _withdraw_losers(self) -> None:
        """Delete what this process wrote and another replica, a moment later, took the place of."""
        written, self._written = self._written, {}
        for version, entry in written.items():
            if (await self._latest(entry)).version != version:
                await self.database.delete(self._collection, {"version": [version]})

    async def _latest(self, entry: Entry) -> Entry:
        """What is known of this document now, be it on its way in."""
        found = await self.database.fetch(self._collection, [entry.id])
        return _entry(found[0].payload) if found else Entry(entry.document)

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
        self, old: str | None, name: str, model: str | None, dimension: int | None
    ) -> str:
        """Copy every document into a new collection and switch; the old one serves meanwhile.

        Gives the collection that is current in the end: a quicker replica's, where there is one.
        """
        new = f"{name}-{uuid.uuid4().hex[:6]}" if self.database.shared else name
        entries = await self._entries(old) if old else []
        await self.database.create(new, dimension)
        for entry in entries:
            passages = await self._passages(str(old), entry)
            embedding = await self._index_passages(new, entry, passages, model)
            await self._save(new, replace(entry, embedding=embedding, leftover={}))
        meta = {"kind": "meta", "embedding_model": model, "dimension": dimension}
        await self.database.upsert(new, [Point(_META, meta)])
        now = await self.database.current()
        if now and now != old:
            await self.database.drop(new)
            return now
        await self.database.switch(new, old)
        return new

    async def _clean_up(self) -> None:
        self._cleaned_at = time.monotonic()
        condition = {"kind": ["document"]}
        for payload in await self.database.scroll(self._collection, condition):
            if payload["leftover"] or not payload["version"]:
                await self._drop_leftover(_entry(payload))

    async def _drop_leftover(self, entry: Entry) -> None:
        oldest = time.time() - ABANDONED_S if self.database.shared else float("inf")
        dead = [version for version, begun in entry.leftover.items() if begun < oldest]
        if dead:
            await self.database.delete(self._collection, {"version": dead})
        living = {v: begun for v, begun in entry.leftover.items() if v not in dead}
        if entry.version or living:
            if living != entry.leftover:
                await self._save(self._collection, replace(entry, leftover=living))
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
    known = {f.name: payload[f.name] for f in fields(Entry) if f.name in payload}
    if isinstance(known.get("leftover"), list):  # as an earlier version of this app wrote it
        known["leftover"] = dict.fromkeys(known["leftover"], 0.0)
    return Entry(**known)


@cache
def _id(document: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, document))
