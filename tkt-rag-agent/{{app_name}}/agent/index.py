"""What is indexed of a passage and of a document, and what a question becomes to be compared.

Two sides: *words* (BM25 by Qdrant's own encoder, so that the embedded engine and the server get the
same numbers) and, where an embedding model answers, *meaning*. A document as a whole is indexed by
its words too, those of its name and beginning counting more: that is what questions name it by.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from qdrant_edge import Bm25, Bm25Config

from agent.qdrant import Sparse
from agent.split import Passage

LANGUAGE = "english"
"""Whose word endings and stop words the words know. Load the documents anew after a change."""
USUAL_WORDS = 130
"""Length of a usual passage, in words; the words of longer ones count for less."""
OPENING_CHARS = 1000
"""How much of a document's beginning, where its parties stand, it can be named by."""
HEADING_WEIGHT = 0.5
"""What a word of its heading adds to a passage."""

_CAMEL = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])"
)

Vectors = tuple[Sparse, list[float] | None]


class Embedder(Protocol):
    """What makes vectors of texts; see `gateway.py` and `local_embedding.py`."""

    async def resolve(self, recorded: str | None) -> tuple[str, int] | None: ...
    async def embed(self, texts: Sequence[str]) -> list[list[float]] | None: ...


class Index:
    """Both sides of the index, for passages, documents and questions."""

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder
        self._bm25 = Bm25(Bm25Config(language=LANGUAGE, avg_len=USUAL_WORDS))

    async def embedding(self, recorded: str | None) -> tuple[str | None, int | None]:
        """Embedding model and dimension in force; (None, None) when no model answers."""
        found = await self._embedder.resolve(recorded) if self._embedder else None
        return found or (None, None)

    def words(self, text: str) -> list[int]:
        """The words of `text` as numbers, each once, without endings and stop words."""
        return list(self._bm25.embed_query(text).indices)

    async def meaning(self, texts: Sequence[str]) -> list[list[float]] | None:
        """A vector for each text; None where no embedding model answers."""
        return await self._embedder.embed(texts) if self._embedder else None

    async def passages(
        self, passages: Sequence[Passage], meaning: bool
    ) -> tuple[list[Vectors], bool]:
        """Vectors of the passages, and whether meaning is among them."""
        texts = [f"{p.heading}\n{p.text}" if p.heading else p.text for p in passages]
        dense = await self.meaning(texts) if meaning else None
        sides: Sequence[list[float] | None] = dense or [None] * len(texts)
        return list(zip(map(self._weigh, passages), sides, strict=True)), dense is not None

    def about(self, document: str, opening: str, words: Iterable[int]) -> Sparse:
        """What a document can be named by: any of its `words`, and more so those of its name and
        opening."""
        named = self._bm25.embed_document(naming_text(document, opening))
        weights = dict.fromkeys(words, 1.0)
        for word, weight in zip(named.indices, named.values, strict=True):
            weights[word] = weights.get(word, 0) + weight
        return list(weights), list(weights.values())

    def _weigh(self, passage: Passage) -> Sparse:
        words = self._bm25.embed_document(passage.text)
        weights = dict(zip(words.indices, words.values, strict=True))
        for word in self.words(passage.heading or ""):
            weights[word] = weights.get(word, 0) + HEADING_WEIGHT
        return list(weights), list(weights.values())


def readable(document: str) -> str:
    """A document's name as words: `a/loan-agreement.pdf` is `loan agreement`."""
    return PurePosixPath(document).stem.replace("-", " ").replace("_", " ")


def naming_text(document: str, opening: str) -> str:
    """Name and opening; `AcmeInc2019` in the name also as `Acme Inc 2019`."""
    name = readable(document)
    return f"{name}\n{_CAMEL.sub(' ', name)}\n{opening}"


def opening(passages: Sequence[Passage]) -> str:
    """The beginning of a document, from its passages."""
    return "\n".join(passage.text for passage in passages[:5])[:OPENING_CHARS]
