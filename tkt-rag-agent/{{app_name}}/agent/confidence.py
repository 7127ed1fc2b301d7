"""How much of what is asked do the passages hold? Too little, and the agent says so instead.

The measure is the share of the question's words, rare ones counting more, that stand together in
the best two neighbouring sentences. `python -m agent.evaluate` finds the threshold for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agent.index import Index
from agent.split import sentences
from agent.store import Hit

LOOKED_AT = 3
"""Passages of which the best one counts."""


@dataclass(frozen=True)
class Window:
    """A sentence, or two, of a text, and the share of the wanted words in it, 0 to 1."""

    share: float
    start: int
    end: int


def best_window(index: Index, wanted: Mapping[int, float], text: str) -> Window:
    """Where `text` holds most of the `wanted` words, by their weights; the shorter of equals."""
    total = sum(wanted.values())
    windows = [
        Window(sum(wanted[word] for word in words) / total if total else 1, start, end)
        for start, end, words in _windows(index, wanted, text)
    ]
    return max(windows, key=lambda window: window.share, default=Window(0, 0, len(text)))


def held(index: Index, wanted: Mapping[int, float], hits: Sequence[Hit]) -> float:
    """How much of what is asked the first passages hold, 0 to 1."""
    texts = [f"{hit.heading or ''}\n{hit.text}" for hit in hits[:LOOKED_AT]]
    return max((best_window(index, wanted, text).share for text in texts), default=0.0)


def _windows(
    index: Index, wanted: Mapping[int, float], text: str
) -> Iterator[tuple[int, int, set[int]]]:
    """Single sentences, then pairs: of two that say the same, the first and shorter one wins."""
    spans = [(a, b, wanted.keys() & set(index.words(text[a:b]))) for a, b in sentences(text)]
    yield from spans
    yield from ((a, d, one | two) for (a, _, one), (_, d, two) in pairwise(spans))
