"""How much of what is asked do the passages hold? Too little, and the agent says so instead.

Looked for are the two neighbouring sentences that hold most: by the share of the question's words
in them, rare ones counting more, and where there are embeddings by their meaning as well.
`python -m agent.evaluate` finds the threshold for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agent.index import Index
from agent.retriever import Found
from agent.split import sentences
from agent.store import Hit, Store

LOOKED_AT = 4
"""Passages whose sentences are weighed."""
FEW = 1.2
"""Words that stand for what a question leaves unsaid, so that one word found is not everything."""
WORDS_COUNT = 0.2
"""What the share of words counts beside meaning, of 1."""


@dataclass(frozen=True)
class Window:
    """A sentence, or two, of passage number `n` (from 1), and how much of what is asked it holds,
    0 to 1."""

    n: int
    start: int
    end: int
    held: float


def by_words(index: Index, wanted: Mapping[int, float], hits: Sequence[Hit]) -> Window | None:
    """The best window by words alone, the shorter and earlier of equals; None of no passages."""
    windows = [
        w for n, hit in enumerate(hits[:LOOKED_AT], 1) for w in _windows(index, wanted, n, hit)
    ]
    return max(windows, key=lambda window: window.held, default=None)


async def by_meaning(store: Store, question: str, found: Found) -> Window | None:
    """The best window by words and meaning; by words alone where there are no embeddings."""
    hits = found.hits[:LOOKED_AT]
    windows = [
        w for n, hit in enumerate(hits, 1) for w in _windows(store.index, found.wanted, n, hit)
    ]
    texts = [hits[w.n - 1].text[w.start : w.end] for w in windows]
    vectors = await store.index.meaning([question, found.asked, *texts]) if store.model else None
    if not vectors:
        return by_words(store.index, found.wanted, hits)
    asked = [a + b for a, b in zip(vectors[0], vectors[1], strict=True)]
    weighed = [
        Window(w.n, w.start, w.end, WORDS_COUNT * w.held + (1 - WORDS_COUNT) * _likeness(asked, v))
        for w, v in zip(windows, vectors[2:], strict=True)
    ]
    return max(weighed, key=lambda window: window.held, default=None)


def _likeness(asked: Sequence[float], vector: Sequence[float]) -> float:
    """The mean cosine of a vector with the two whose sum is `asked`, 0 at least."""
    length = sum(x * x for x in vector) ** 0.5 or 1.0
    return max(0.0, sum(a * b for a, b in zip(asked, vector, strict=True)) / length / 2)


def _windows(index: Index, wanted: Mapping[int, float], n: int, hit: Hit) -> Iterator[Window]:
    """Single sentences, then pairs: of two that say the same, the first and shorter one wins."""
    total = sum(wanted.values())
    sure = len(wanted) / (len(wanted) + FEW)
    heading = wanted.keys() & set(index.words(hit.heading or ""))
    spans = [
        (a, b, heading | (wanted.keys() & set(index.words(hit.text[a:b]))))
        for a, b in sentences(hit.text)
    ]
    pairs = [(a, d, one | two) for (a, _, one), (_, d, two) in pairwise(spans)]
    for start, end, words in [*spans, *pairs]:
        share = sum(wanted[word] for word in words) / total if total else 0
        yield Window(n, start, end, sure * share)
