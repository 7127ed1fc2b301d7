"""How passages are found: what is indexed of a passage, and what is asked for a question.

Two sides, fused by Qdrant: *words* (BM25, Qdrant's own encoder, so that the embedded engine and the
server get the same numbers) and, where an embedding model answers, *meaning*.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from qdrant_edge import Bm25, Bm25Config

from agent.qdrant import Sparse
from agent.split import Passage

if TYPE_CHECKING:
    from agent.store import Hit, Store

LANGUAGE = "english"
"""Whose word endings and stop words the BM25 side knows. Load the documents anew after a change."""
ASKING = "how much many long often soon fast far late early high what which who when where why"
"""Words that ask and are not expected in an answer."""
USUAL_WORDS = 130
"""Length of a usual passage, in words; the words of longer ones count for less."""
LENGTH_MATTERS = 0.4
"""How much less (BM25's b, 0 to 1): passages differ little, so below the usual 0.75."""
OPENING_CHARS = 1000
"""How much of a document's beginning, where its parties stand, is indexed with each passage."""
OPENING_WEIGHT = 1.0
"""What a word of the document's name or opening weighs in a passage that lacks it; about as much
as one that stands there once. Less finds the wrong document, more the wrong place in it."""
HEADING_WEIGHT = 0.5
"""What a word of its heading adds to a passage."""

Vectors = tuple[Sparse, list[float] | None]


class Embedder(Protocol):
    """What makes vectors of texts; see `gateway.py`."""

    async def resolve(self, recorded: str | None) -> tuple[str, int] | None: ...
    async def embed(self, texts: Sequence[str]) -> list[list[float]] | None: ...


class Index:
    """Both sides of the index, for passages and for questions."""

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder
        self._words = Bm25(Bm25Config(language=LANGUAGE, avg_len=USUAL_WORDS, b=LENGTH_MATTERS))
        self._asking = set(self._words.embed_query(ASKING).indices)

    async def embedding(self, recorded: str | None) -> tuple[str | None, int | None]:
        """Embedding model and dimension in force; (None, None) when no model answers."""
        found = await self._embedder.resolve(recorded) if self._embedder else None
        return found or (None, None)

    async def passages(
        self, document: str, opening: str, passages: Sequence[Passage], meaning: bool
    ) -> tuple[list[Vectors], bool]:
        """Vectors of the passages, and whether meaning is among them."""
        texts = [in_context(document, passage.heading, passage.text) for passage in passages]
        dense = await self._embedder.embed(texts) if meaning and self._embedder else None
        about = self._words.embed_query(f"{readable(document)}\n{opening}").indices
        words = [self._weigh(passage, about) for passage in passages]
        sides: Sequence[list[float] | None] = dense or [None] * len(texts)
        return list(zip(words, sides, strict=True)), dense is not None

    def _weigh(self, passage: Passage, about: Sequence[int]) -> Sparse:
        """Weights of the words of a passage, its heading and its document."""
        words = self._words.embed_document(passage.text)
        weights = dict(zip(words.indices, words.values, strict=True))
        for word in self._words.embed_query(passage.heading or "").indices:
            weights[word] = weights.get(word, 0) + HEADING_WEIGHT
        for word in about:
            weights[word] = max(weights.get(word, 0), OPENING_WEIGHT)
        return list(weights), list(weights.values())

    async def question(self, question: str, meaning: bool) -> Vectors:
        words = self._words.embed_query(question)
        dense = await self._embedder.embed([question]) if meaning and self._embedder else None
        return (words.indices, words.values), dense[0] if dense else None

    def wanted(self, question: str, about: str) -> set[int]:
        """The question's words that do not merely ask, nor name the document `about` is of."""
        asked = set(self._words.embed_query(question).indices) - self._asking
        return asked - set(self._words.embed_query(about).indices)

    def share(self, words: set[int], text: str) -> float:
        """Share of `words` that stand in `text`, 0 to 1, endings disregarded; 1 of no words."""
        held = words & set(self._words.embed_query(text).indices)
        return len(held) / len(words) if words else 1


def in_context(document: str, heading: str | None, text: str) -> str:
    """A passage says little of the document and the section that it stands in; this says it."""
    return "\n".join(part for part in (readable(document), heading, text) if part)


def readable(document: str) -> str:
    """A document's name as words: `a/loan-agreement.pdf` is `loan agreement`."""
    return PurePosixPath(document).stem.replace("-", " ").replace("_", " ")


def opening(passages: Sequence[Passage]) -> str:
    """The beginning of a document, from its passages."""
    return "\n".join(passage.text for passage in passages[:5])[:OPENING_CHARS]


async def find(store: "Store", question: str, k: int, documents: Sequence[str] = ()) -> list["Hit"]:
    """The `k` best passages for a question, best first, of `documents` or of all."""
    vectors = await store.index.question(question, store.model is not None)
    return await store.search(vectors, k, documents)
