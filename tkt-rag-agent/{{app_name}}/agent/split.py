"""How a text is cut into passages: whole paragraphs up to a size, never across a page.

A passage is the unit that is found, quoted and cited. Its `start` and `end` count characters of
the extracted text, so that `text[start:end]` is the passage, whatever the file was.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from agent.extract import Extracted, Mark

PASSAGE_CHARS = 1200
"""Longest passage: longer ones carry more context and more that is beside the point."""
SECTION_CHARS = 600
"""A section shorter than this shares its passage with the next: a lone heading answers nothing."""

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n(?!\s*\n).*\S)*")
_SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"')\]]*\s+|\n+")


Piece = tuple[int, int, Mark]


@dataclass(frozen=True)
class Passage:
    start: int
    end: int
    page: int | None
    heading: str | None
    text: str


def split(document: Extracted) -> list[Passage]:
    """Cut into passages of at most `PASSAGE_CHARS` characters, in reading order."""
    passages: list[Passage] = []
    together: list[Piece] = []
    for piece in _pieces(document):
        if together and _breaks(together, piece):
            passages.append(_passage(document.text, together))
            together = []
        together.append(piece)
    return [*passages, _passage(document.text, together)] if together else passages


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of `text`; an abbreviation may cut one short, never lose a word."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if not _is_numbering(text[start : match.start()]):
            spans.append((start, match.start()))
            start = match.end()
    return [*spans, (start, len(text))] if start < len(text) else spans


def _is_numbering(words: str) -> bool:
    """`12.3 (a)` in front of a clause is no sentence of its own."""
    return len(words) < 8 and not re.search(r"[a-z]{2}", words)


def _breaks(together: list[Piece], piece: Piece) -> bool:
    (start, *_), (_, end, last) = together[0], together[-1]
    _, new_end, mark = piece
    new_section = mark.heading != last.heading and end - start >= SECTION_CHARS
    return new_end - start > PASSAGE_CHARS or mark.page != last.page or new_section


def _passage(text: str, together: list[Piece]) -> Passage:
    """The pieces as one, under the heading that most of it stands under."""
    shares: Counter[Mark] = Counter()
    for start, end, mark in together:
        shares[mark] += end - start
    mark = shares.most_common(1)[0][0]
    start, end = together[0][0], together[-1][1]
    return Passage(start, end, mark.page, mark.heading, text[start:end])


def _pieces(document: Extracted) -> Iterator[Piece]:
    """Paragraphs with the mark they stand under, cut where longer than a passage."""
    ends = [mark.start for mark in document.marks[1:]] + [len(document.text)]
    for mark, end in zip(document.marks, ends, strict=True):
        for paragraph in _PARAGRAPH.finditer(document.text, mark.start, end):
            for a, b in _fitting(paragraph.group()):
                yield paragraph.start() + a, paragraph.start() + b, mark


def _fitting(paragraph: str) -> Iterator[tuple[int, int]]:
    """The whole of it, or pieces of about the same size: a short rest would stand for nothing."""
    pieces = -(-len(paragraph) // PASSAGE_CHARS)
    start = end = 0
    for a, b in _cuts(paragraph) if pieces > 1 else ():
        if end > start and (b - start > PASSAGE_CHARS or end - start >= len(paragraph) / pieces):
            yield start, end
            start = a
        end = b
    yield start, end if pieces > 1 else len(paragraph)


def _cuts(paragraph: str) -> Iterator[tuple[int, int]]:
    """Sentences, those longer than a passage in parts."""
    for start, end in sentences(paragraph):
        for part in _whole_words(PASSAGE_CHARS).finditer(paragraph, start, end):
            yield part.span()


@cache
def _whole_words(size: int) -> re.Pattern[str]:
    """As many whole words as fit; of a word that is longer than a passage, as much of it."""
    return re.compile(rf"\S(?:.{{0,{size - 2}}}\S)?(?!\S)|\S{{{size}}}", re.DOTALL)
