"""How an answer points at its sources: `[n]` is passage number n, and nothing else gets through.

Also the answer without a model: the sentences of the passages that say most of what was asked.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

from agent.confidence import Window, by_words
from agent.harmless import as_material, quiet, visible
from agent.index import Index
from agent.split import sentences
from agent.store import Hit
from agent.support import where

LONGEST = 40
"""A bracket with more characters inside is text, not a citation."""

LONGEST_CLAIM = 2000
"""How far back of a citation its claim may begin: the whole of a long answer would take too long
to look through for each."""

_QUOTED = re.compile(r'"([^"]+)"$')
CITATION = re.compile(r"\[\s*(\d+(?:\s*[,;]\s*\d+)*)\s*\]")


def numbered_text(hits: list[Hit]) -> str:
    """The passages as the model reads them; a document's own `[2]` is no passage of ours."""
    texts = [as_material(_own_brackets(hit.text, len(hits))) for hit in hits]
    rows = enumerate(zip(hits, texts, strict=True), 1)
    return "\n\n".join(f"[{n}] {source(hit)}\n{text}" for n, (hit, text) in rows)


async def known_only(tokens: AsyncIterator[str], passages: int) -> AsyncIterator[str]:
    """The tokens, less citations of passages that do not exist; holds back an open bracket."""
    held = ""
    async for token in tokens:
        if not held and "[" not in token:
            yield token
            continue
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
        return "".join(f"[{n}]" for n in numbers(match) if 1 <= n <= passages)

    return CITATION.sub(keep, text)


def numbers(match: re.Match[str]) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", match.group(1))]


def cite(index: Index, answer: str, hits: list[Hit]) -> list[dict[str, Any]]:
    """One citation a cited passage: the sentence in it that is nearest to the claim it supports."""
    claims: dict[int, str] = {}
    for match in CITATION.finditer(answer):
        for n in (n for n in numbers(match) if 1 <= n <= len(hits)):
            claims[n] = f"{claims.get(n, '')} {_claim(answer, match.start())}"
    return [_citation(index, n, hits[n - 1], claim) for n, claim in claims.items()]


def quotation(window: Window, hits: list[Hit]) -> str:
    """The sentences of a window with their place, uncited."""
    hit = hits[window.n - 1]
    text = quiet(visible(_own_brackets(hit.text[window.start : window.end], len(hits))))
    return f'{source(hit)}: "{text}"'


def _own_brackets(quote: str, passages: int) -> str:
    """A document's own `[2]` would count as a citation of passage 2, so it becomes `(2)`."""

    def soften(match: re.Match[str]) -> str:
        clash = any(1 <= n <= passages for n in numbers(match))
        return f"({match.group(1)})" if clash else match.group()

    return CITATION.sub(soften, quote)


def source(hit: Hit) -> str:
    place = f", page {hit.page}" if hit.page else f", {hit.heading}" if hit.heading else ""
    return f"{hit.document}{place}"


def _claim(answer: str, at: int) -> str:
    """The quotation, or else the sentence, in front of the citation at `at`."""
    before = CITATION.sub("", answer[max(0, at - LONGEST_CLAIM) : at]).rstrip()
    if quoted := _QUOTED.search(before):
        return quoted.group()
    start, end = sentences(before)[-1] if before else (0, 0)
    return before[start:end]


def _span(index: Index, hit: Hit, claim: str) -> tuple[int, int]:
    """Where a passage says what is claimed: what the claim quotes, else the nearest sentences."""
    if (quoted := _QUOTED.search(claim)) and (span := where(quoted[1], hit.text)):
        return span
    window = by_words(index, dict.fromkeys(index.words(claim), 1.0), [hit])
    return (window.start, window.end) if window else (0, len(hit.text))


def _citation(index: Index, n: int, hit: Hit, claim: str) -> dict[str, Any]:
    start, end = _span(index, hit, claim)
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
