"""The crew's own documents: plain text and Markdown, found by words (Qdrant's BM25).

Small on purpose. For PDF and Word files, search by meaning and answers with citations, let the crew
ask a tkt-rag-agent over MCP (RAG_MCP_URL).
"""

import argparse
import asyncio
import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from qdrant_edge import Bm25, Bm25Config

from agent.errors import Refused
from agent.qdrant import Payload, Point, Search
from agent.records import now

if TYPE_CHECKING:
    from agent.qdrant_embedded import Embedded
    from agent.qdrant_server import Server

FORMATS = (".md", ".txt")
PASSAGE_CHARS = 1200
"""Longest passage that is found as one; a paragraph is cut only when it is longer."""
LONGEST_READ = 10_000
"""Characters of a document that an agent reads at once."""
LONGEST_NAME = 200
LANGUAGE = "english"
"""Whose word endings and stop words the search knows."""


@dataclass(frozen=True)
class Document:
    name: str
    characters: int
    added_at: str


@dataclass(frozen=True)
class Passage:
    document: str
    text: str
    score: float


class Documents:
    """The documents of one app, in a collection of a Qdrant, embedded or server."""

    def __init__(self, database: "Embedded | Server", app_name: str) -> None:
        self.database = database
        self._name = f"{app_name}.crew.1"
        self._bm25 = Bm25(Bm25Config(language=LANGUAGE, avg_len=130))
        self._writing = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._collection = ""

    async def add(self, name: str, text: str) -> Document:
        """Take a document in; one of the same name is replaced."""
        name = checked(name)
        if not text.strip():
            raise Refused(f"{name!r} holds no text.")
        version = str(uuid.uuid4())
        points = await asyncio.to_thread(self._points, name, version, text)
        entry: Payload = {"kind": "entry", "document": name, "version": version}
        entry |= {"characters": len(text), "added_at": now()}
        async with self._writing:
            collection = await self._open()
            await self.database.room()
            old = await self.database.scroll(collection, {"document": [name]})
            points.append(Point(_id(f"{version}/entry"), entry, self._words("")))
            await self.database.upsert(collection, points)
            if versions := sorted({payload["version"] for payload in old}):
                await self.database.delete(collection, {"version": versions})
        return Document(name, len(text), entry["added_at"])

    async def delete(self, name: str) -> Document:
        entry = await self._known(name)
        async with self._writing:
            await self.database.delete(await self._open(), {"document": [name]})
        return _document(entry)

    async def listed(self) -> list[Document]:
        """By name."""
        return [_document(entry) for _, entry in sorted((await self._entries()).items())]

    async def _entries(self) -> dict[str, Payload]:
        """The newest of each document: an older one is there when its removal broke off."""
        found = await self.database.scroll(await self._open(), {"kind": ["entry"]})
        return {e["document"]: e for e in sorted(found, key=lambda e: str(e["added_at"]))}

    async def search(self, query: str, limit: int = 6) -> list[Passage]:
        """The passages that hold most of the words of `query`, best first."""
        words = self._bm25.embed_query(query)
        if not list(words.indices):
            return []
        collection = await self._open()
        served = {entry["version"] for entry in (await self._entries()).values()}
        search = Search("sparse", (list(words.indices), list(words.values)), 2 * limit)
        (rows,) = await self.database.query(collection, [search], {"kind": ["passage"]}, {})
        rows = [row for row in rows if row.payload["version"] in served][:limit]
        full = {row.id: row for row in await self.database.fetch(collection, [r.id for r in rows])}
        return [
            Passage(payload["document"], payload["text"], round(row.score, 3))
            for row in rows
            if (payload := full[row.id].payload if row.id in full else None)
        ]

    async def read(self, name: str, start: int = 0) -> str:
        """A document's text from character `start` on."""
        entry = await self._known(name)
        found = await self.database.scroll(await self._open(), {"version": [entry["version"]]})
        passages = [p for p in found if p["kind"] == "passage"]
        text = "\n\n".join(p["text"] for p in sorted(passages, key=lambda p: int(p["number"])))
        part = text[start : start + LONGEST_READ]
        more = len(text) - start - len(part)
        note = f"\n\n[{more} characters more: read on from {start + len(part)}]"
        return part + note if more > 0 else part

    async def check(self) -> str:
        return str(await self.database.check())

    async def close(self) -> None:
        await self.database.close()

    async def _known(self, name: str) -> Payload:
        """The entry of a document that is there."""
        entries = await self._entries()
        if name in entries:
            return entries[name]
        known = ", ".join(sorted(entries)[:20]) or "none"
        raise Refused(f"There is no document {name[:100]!r}; there are: {known}.", 404)

    async def _open(self) -> str:
        """The collection's name; it is made when it is first needed."""
        async with self._opening:  # making it begins with emptying its folder
            if not self._collection:
                current = await self.database.current()
                if current is None:
                    await self.database.create(self._name, None)
                    await self.database.switch(self._name, None)
                self._collection = current or self._name
        return self._collection

    def _points(self, name: str, version: str, text: str) -> list[Point]:
        return [
            self._point(f"{version}/{n}", name, version, passage, number=n)
            for n, passage in enumerate(cut(text))
        ]

    def _point(self, key: str, document: str, version: str, text: str, number: int) -> Point:
        payload: Payload = {"kind": "passage", "document": document, "version": version}
        return Point(_id(key), payload | {"number": number, "text": text}, self._words(text))

    def _words(self, text: str) -> tuple[list[int], list[float]]:
        words = self._bm25.embed_document(text)
        return list(words.indices), list(words.values)


def _document(entry: Payload) -> Document:
    return Document(entry["document"], entry["characters"], entry["added_at"])


def checked(name: str) -> str:
    """The name without folders, if it can be one."""
    name = PurePosixPath(name.replace("\\", "/")).name.strip()
    if not name or len(name) > LONGEST_NAME or re.search(r"[\x00-\x1f\x7f]", name):
        raise Refused(f"A document needs a name of at most {LONGEST_NAME} printable characters.")
    if not name.lower().endswith(FORMATS):
        raise Refused(f"{name!r}: only {' and '.join(FORMATS)} are taken in.")
    return name


def cut(text: str) -> list[str]:
    """Whole paragraphs, as many together as fit PASSAGE_CHARS; a longer one is cut at a space."""
    passages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        while len(paragraph) > PASSAGE_CHARS:
            at = paragraph.rfind(" ", 1, PASSAGE_CHARS)
            at = at if at > 0 else PASSAGE_CHARS
            passages.append(paragraph[:at])
            paragraph = paragraph[at:].strip()
        if passages and len(passages[-1]) + len(paragraph) + 2 <= PASSAGE_CHARS:
            passages[-1] += f"\n\n{paragraph}"
        elif paragraph:
            passages.append(paragraph)
    return passages


def _id(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, key))


async def load(documents: Documents, folder: Path) -> None:
    """Take in the text files of a folder, and say so on the terminal."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in FORMATS)
    begin = time.monotonic()
    for n, path in enumerate(files, 1):
        document = await documents.add(path.name, path.read_text("utf-8", "replace"))
        left = (time.monotonic() - begin) / n * (len(files) - n)
        print(f"{n} of {len(files)}, {left:.0f} s left: {document.name}", flush=True)
    if not files:
        raise Refused(f"{folder} holds no files that end in {' or '.join(FORMATS)}.")


def main(folder: str) -> None:
    """`python -m agent.documents FOLDER`, while the app is stopped or Qdrant is a server."""
    from agent.errors import Unavailable
    from agent.services import documents_of
    from agent.settings import read

    async def fill() -> None:
        documents = documents_of(read())
        try:
            await load(documents, Path(folder))
        finally:
            await documents.close()

    try:
        asyncio.run(fill())
    except (Refused, Unavailable, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.documents",
        description="Takes a folder of Markdown and text in, for the crew to search.",
    )
    parser.add_argument("folder")
    main(parser.parse_args().folder)
