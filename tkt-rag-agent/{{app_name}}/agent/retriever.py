"""How passages are found.

    question ─► which document does it name? ─┬─ one ─► what is asked beyond it ─► inside that one
                                              └─ none, or not surely ─► everywhere

Inside one document a question also looks for the words that its answers have in the others, which
is what makes similar documents help instead of getting in the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agent import ranking
from agent.index import OPENING_CHARS
from agent.naming import AHEAD, NAMED, UNEXPECTED, Focus, Usual, focus
from agent.qdrant import Row, Search
from agent.store import Entry, Hit, Store

DEPTH = 200
"""Passages of one document that each side offers for ranking: neighbours count."""
BROAD = 50
"""The same where all documents are searched, at least."""
ALIKE = 0.6
"""Three documents that each have a passage with this share of the best score are all meant, or
none: then the user is asked which one."""


@dataclass(frozen=True)
class Found:
    """Passages for a question, best first, and how they were found."""

    hits: list[Hit]
    document: str | None = None
    """The document that was searched alone, or first; None: all were."""
    asked: str = ""
    """The question beyond what names the document."""
    wanted: dict[int, float] = field(default_factory=dict)
    """The words that an answer should hold, and their rarity."""
    which: list[str] = field(default_factory=list)
    """Documents between which the question does not decide: ask the user which one is meant."""


async def find(store: Store, question: str, k: int, documents: Sequence[str] = ()) -> Found:
    """The `k` best passages for a question, of `documents` or of all."""
    while True:
        rows, found = await _find(store, question, k, documents)
        hits = await store.hits(rows[:k])
        if hits is not None:  # else a document was replaced between finding and reading it
            return replace(found, hits=hits)


async def _find(
    store: Store, question: str, k: int, documents: Sequence[str]
) -> tuple[list[Row], Found]:
    usual = await store.usual()
    named = await name(store, question, documents)
    if named:
        rows = await _inside(store, usual, named)
        if len(rows) < k and len(documents) != 1:
            there = {row.id for row in rows}
            more, _ = await _everywhere(store, question, k, documents)
            rows += [row for row in more if row.id not in there]
        wanted = _wanted(store, usual, named.focus.words)
        return rows, Found([], named.entry.document, named.focus.text, wanted)
    rows, which = await _everywhere(store, question, k, documents)
    wanted = _wanted(store, usual, store.index.words(question))
    return rows, Found([], None, question, wanted, which)


@dataclass(frozen=True)
class Named:
    """The document that a question names, and what it asks beyond that."""

    entry: Entry
    focus: Focus


async def name(store: Store, question: str, documents: Sequence[str] = ()) -> Named | None:
    """The document that a question surely names, or that it is told by `documents`.

    A document hardly longer than its opening is found as well by its passages, and is not meant.
    """
    usual = await store.usual()
    entries = await _candidates(store, store.index.words(question), documents)
    if not entries:
        return None
    best = entries[0][1]
    asked = focus(store.index, usual, question, best.document, best.opening)
    sure = usual.of_openings > 1 and _is_named(entries, asked.strength)
    is_long = best.characters > 3 * OPENING_CHARS
    return Named(best, asked) if is_long and (sure or len(documents) == 1) else None


async def _candidates(
    store: Store, words: list[int], documents: Sequence[str]
) -> list[tuple[float, Entry]]:
    """The documents that the question's words are about, best first, with their scores."""
    search = Search("about", (words, [1.0] * len(words)), 5)
    (rows,) = await store.search([search], documents)
    entries = await store.entries([row.payload["document"] for row in rows])
    return [
        (row.score, entries[name]) for row in rows if (name := row.payload["document"]) in entries
    ]


def _is_named(entries: list[tuple[float, Entry]], strength: float) -> bool:
    first, second = [score for score, _ in entries[:2]] + [0.0] * (len(entries) < 2)
    return strength >= NAMED or first - second >= AHEAD * first


async def _inside(store: Store, usual: Usual, named: Named) -> list[Row]:
    words = named.focus.words
    dense = await store.meaning(named.focus.text)
    first = [Search("sparse", (words, [1.0] * len(words)), 2 * ranking.ELSEWHERE, words=True)]
    first += [Search("dense", dense, 2 * ranking.ELSEWHERE, words=True)] if dense else []
    elsewhere = ranking.fuse(*_sides(await store.search(first)))
    learned = ranking.learn(words, elsewhere, usual)
    second = [Search("sparse", learned, DEPTH)] + ([Search("dense", dense, DEPTH)] if dense else [])
    rows = ranking.fuse(*_sides(await store.search(second, [named.entry.document])))
    return ranking.with_neighbours(rows)


async def _everywhere(
    store: Store, question: str, k: int, documents: Sequence[str]
) -> tuple[list[Row], list[str]]:
    words = store.index.words(question)
    dense = await store.meaning(question)
    depth = max(BROAD, 2 * k)
    vector = (words, [1.0] * len(words))
    searches = [Search("about", vector, depth), Search("sparse", vector, depth)]
    searches += [Search("dense", dense, depth)] if dense else []
    about, *sides = await store.search(searches, documents)
    by_words, by_meaning = _sides(sides)
    return ranking.of_documents(ranking.fuse(by_words, by_meaning), about), _alike(by_words)


def _sides(found: list[list[Row]]) -> tuple[list[Row], list[Row]]:
    return found[0], found[1] if len(found) > 1 else []


def _alike(rows: Sequence[Row]) -> list[str]:
    """The documents that are meant as well as any other; none when the best stands out."""
    best: dict[str, float] = {}
    for row in rows:
        best.setdefault(row.payload["document"], row.score)
    alike = [name for name, score in best.items() if score >= ALIKE * rows[0].score]
    return alike if len(alike) >= 3 else []


def _wanted(store: Store, usual: Usual, words: list[int]) -> dict[int, float]:
    unexpected = store.index.words(UNEXPECTED)
    return {word: usual.rarity(word) for word in words if word not in unexpected}
