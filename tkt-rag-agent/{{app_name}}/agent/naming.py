"""Which document does a question name, and what does it ask beyond that?

Among similar documents most wrong passages come from the wrong document, so a question that names
one ("... under the Northgate loan?") is answered from that one alone, and by the rest of its words.
How telling a word is, is counted in samples of the passages and of the documents' openings.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.index import Index, naming_text

TELLING = 0.4
"""Rarity in the openings, 0 to 1, from which a word of an opening names its document."""
NAMED = 2.0
"""Telling words (as many of the rarest) by which a document is surely named,"""
AHEAD = 0.4
"""or the share by which it is ahead of the next one, if there are fewer."""
MENTION = 0.3
"""A run of words mentions the document when it tells at least this share of the best run."""
ASKING = (
    "what which who whom whose when where why how is are was were does do did has have had can "
    "could may might must will would should shall if"
)
"""Words at which a mention of a document ends, as a clause begins there."""
UNEXPECTED = "how much many long often soon fast far late early high kind"
"""Words that ask for a measure: an answer holds the measure instead."""
REQUESTING = (
    "consider tell show explain give find list describe regarding concerning according please "
    "know want need say state mention look under"
)
"""Words that ask for an answer and are not expected in it."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")


@dataclass(frozen=True)
class Usual:
    """How many of the sampled passages, and of the sampled openings, hold each word."""

    passages: Counter[int]
    of_passages: int
    openings: Counter[int]
    of_openings: int

    def rarity(self, word: int) -> float:
        """How rare a word is in passages, 0 (in each) upwards: the usual inverse frequency."""
        return _rarity(self.passages[word], self.of_passages)

    def telling(self, word: int) -> float:
        """The same for openings, as a share of what the rarest word there has."""
        return _rarity(self.openings[word], self.of_openings) / _rarity(1, self.of_openings)


def _rarity(count: int, of: int) -> float:
    return math.log(1 + (max(of - count, 0) + 0.5) / (count + 0.5))


def count(index: Index, passages: Iterable[Sequence[int]], openings: Iterable[str]) -> Usual:
    """Statistics of samples: the words of passages, and the texts that documents are named by."""
    held = [set(words) for words in passages]
    named = [set(index.words(text)) for text in openings]
    return Usual(
        Counter(word for words in held for word in words),
        len(held),
        Counter(word for words in named for word in words),
        len(named),
    )


@dataclass(frozen=True)
class Focus:
    """What is left of a question inside the document it names: words, and the same as a text."""

    words: list[int]
    text: str
    mention: set[int]
    """The words that mention the document."""
    strength: float
    """How much its other words tell of the document, in words as telling as the rarest."""


def focus(index: Index, usual: Usual, question: str, document: str, opening: str) -> Focus:
    """Take the mention of `document` out of the question, wherever and however it stands there.

    A mention is a run of words that the document's name and opening hold, and of stop words; one
    of the words must be telling. Everything is kept where nothing else would be left.
    """
    named = set(index.words(naming_text(document, opening)))
    requesting, asking = set(index.words(REQUESTING)), ASKING.split()
    words = _WORD.findall(question)
    ids = [index.words(word) for word in words]
    tells = [max([usual.telling(i) for i in its if i in named], default=0) for its in ids]
    asks = [bool(its) and requesting.issuperset(its) for its in ids]
    glue = [not its and w.lower() not in asking for its, w in zip(ids, words, strict=True)]
    dropped = list(asks)
    runs = list(_runs([bool(t or a or g) for t, a, g in zip(tells, asks, glue, strict=True)]))
    sums = [sum(t for t in tells[a:b] if t >= TELLING) for a, b in runs]
    for (a, b), told in zip(runs, sums, strict=True):
        if told and told >= MENTION * max(sums):
            dropped[a:b] = [True] * (b - a)
    kept = [n for n, drop in enumerate(dropped) if not drop]
    mention = {i for n, drop in enumerate(dropped) if drop for i in ids[n]}
    if not any(ids[n] for n in kept):
        kept = list(range(len(words)))
    left = dict.fromkeys(i for n in kept for i in ids[n])
    strength = sum(usual.telling(i) for i in {i for its in ids for i in its} & named)
    return Focus(list(left), " ".join(words[n] for n in kept), mention, strength)


def _runs(flags: Sequence[bool]) -> Iterable[tuple[int, int]]:
    start = None
    for n, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = n
        elif not flag and start is not None:
            yield start, n
            start = None
