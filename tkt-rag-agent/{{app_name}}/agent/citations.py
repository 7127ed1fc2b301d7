"""How an answer points at its sources: `[n]` is passage number n, and nothing else gets through.

Also the answer without a model: the sentences of the passages that say most of what was asked.
"""

import re
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

from agent.prompts import UNKNOWN
from agent.retriever import OPENING_CHARS, Index, readable
from agent.split import sentences
from agent.store import Hit

QUOTED = 3
"""Passages that an answer without a model quotes at most."""
ENOUGH = 0.6
"""Share of the words beyond the document's name and parties that a quoted passage must hold."""
LONGEST = 40
"""A bracket with more characters inside is text, not a citation."""

_CITATION = re.compile(r"\[\s*(\d+(?:\s*[,;]\s*\d+)*)\s*\]")


def numbered_text(hits: list[Hit]) -> str:
    """The passages as the model reads them."""
    return "\n\n".join(f"[{n}] {_source(hit)}\n{hit.text}" for n, hit in enumerate(hits, 1))


async def known_only(tokens: AsyncIterator[str], passages: int) -> AsyncIterator[str]:
    """The tokens, less citations of passages that do not exist; holds back an open bracket."""
    held = ""
    async for token in tokens:
        held += token
        cut = held.rfind("[")
        if cut < 0 or "]" in held[cut:] or len(held) - cut > LONGEST:
            cut = len(held)
        if ready := _without_unknown(held[:cut], passages):
            yield ready
        held = held[cut:]
    if held:
        yield _without_unknown(held, passages)


def _without_unknown(text: str, passages: int) -> str:
    def keep(match: re.Match[str]) -> str:
        return "".join(f"[{n}]" for n in _numbers(match) if 1 <= n <= passages)

    return _CITATION.sub(keep, text)


def _numbers(match: re.Match[str]) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", match.group(1))]


def cite(index: Index, answer: str, hits: list[Hit]) -> list[dict[str, Any]]:
    """One citation a cited passage: the sentence in it that is nearest to the claim it supports."""
    claims: dict[int, str] = {}
    for match in _CITATION.finditer(answer):
        for n in (n for n in _numbers(match) if 1 <= n <= len(hits)):
            claims[n] = f"{claims.get(n, '')} {_claim(answer, match.start())}"
    words = {n: index.wanted(claim, "") for n, claim in claims.items()}
    return [_citation(n, hits[n - 1], *_nearest(index, words[n], hits[n - 1])) for n in claims]


def quotation(
    index: Index, question: str, hits: list[Hit], openings: dict[str, str], reason: str
) -> str:
    """The answer without a model; `reason` says why there is none, if there is none.

    A passage is quoted and cited when it holds enough of what is asked beyond the document's name
    and parties, which stand in its opening. Where none does, the nearest is shown uncited, since
    it may answer something else.
    """
    if not hits:
        return f"{reason}. {UNKNOWN}" if reason else UNKNOWN
    quotes = []
    for n, hit in enumerate(hits, 1):
        known = openings.get(hit.document, "") if hit.start >= OPENING_CHARS else ""
        wanted = index.wanted(question, f"{readable(hit.document)}\n{known}")
        if index.share(wanted, f"{hit.heading}\n{hit.text}") >= ENOUGH:
            quote = _own_brackets(_quote(index, question, wanted, hit), len(hits))
            quotes.append(f"{quote} [{n}]")
    if not quotes:
        nearest = _quote(index, question, index.wanted(question, ""), hits[0])
        return f"{reason}, and no passage clearly answers this. The nearest is in {nearest}"
    return "\n\n".join([f"{reason}, so this is quoted from the documents:", *quotes[:QUOTED]])


def _quote(index: Index, question: str, wanted: set[int], hit: Hit) -> str:
    start, end = _nearest(index, wanted or index.wanted(question, ""), hit)
    return f'{_source(hit)}: "{hit.text[start:end]}"'


def _own_brackets(quote: str, passages: int) -> str:
    """A document's own `[2]` would count as a citation of passage 2, so it becomes `(2)`."""

    def soften(match: re.Match[str]) -> str:
        clash = any(1 <= n <= passages for n in _numbers(match))
        return f"({match.group(1)})" if clash else match.group()

    return _CITATION.sub(soften, quote)


def _source(hit: Hit) -> str:
    place = f", page {hit.page}" if hit.page else f", {hit.heading}" if hit.heading else ""
    return f"{hit.document}{place}"


def _claim(answer: str, at: int) -> str:
    """The sentence in front of the citation at `at`."""
    before = _CITATION.sub("", answer[:at]).rstrip()
    start, end = sentences(before)[-1] if before else (0, 0)
    return before[start:end]


def _nearest(index: Index, words: set[int], hit: Hit) -> tuple[int, int]:
    return max(_windows(hit.text), key=lambda span: index.share(words, hit.text[slice(*span)]))


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Single sentences, then pairs: of two that say the same, the first and shorter one wins."""
    spans = sentences(text)
    yield from spans
    yield from ((a, d) for (a, _), (_, d) in pairwise(spans))


def _citation(n: int, hit: Hit, start: int, end: int) -> dict[str, Any]:
    return {
        "n": n,
        "document": hit.document,
        "page": hit.page,
        "heading": hit.heading,
        "start": hit.start + start,
        "end": hit.start + end,
        "quote": hit.text[start:end],
        "score": hit.score,
    }
