"""What a question means in a conversation: "And in the other lease?" becomes one that stands alone.

A model rewrites it where there is one. Without one, by rule: the document that was talked about
stays the one that is meant until another is named, and a question that says too little by itself
gets the words of the one before it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.confidence import by_words
from agent.naming import ASKING
from agent.retriever import Found, find, name
from agent.store import Entry, Store

LOOKED_BACK = 4
"""Questions of the conversation that are followed."""
ENOUGH_WORDS = 2
"""Words beyond a document's name with which a question says by itself what it asks."""
BETTER = 0.5
"""How much more of a question must be held elsewhere for it to leave the document talked about."""
NAMING = 0.9
"""Telling words by which a question names another document than the one talked about."""
SWITCHING = re.compile(r"\b(?:other|another|different)\s+(?:one|(?P<kind>[a-z]+))?", re.IGNORECASE)
EMPTY = (
    "other another different one same about meant mean instead no yes ok thing things also too "
    "then there that this it again well really actually sorry thanks"
)
"""Words that lean on what was said before."""


@dataclass(frozen=True)
class Asked:
    """A question that stands alone, and the documents that it is about, all if empty."""

    text: str
    documents: tuple[str, ...] = ()


async def follow(store: Store, questions: Sequence[str]) -> Asked:
    """What the last of the user's `questions`, oldest first, asks; see the top of this file."""
    before: tuple[Asked, Found] | None = None
    asked = Asked(questions[-1])
    for question in questions[-LOOKED_BACK:]:
        asked = await _follow_one(store, question, before) if before else Asked(question)
        before = asked, await find(store, asked.text, 3, asked.documents)
    return asked


async def _follow_one(store: Store, question: str, before: tuple[Asked, Found]) -> Asked:
    asked, found = before
    talked_about = found.document or (found.hits[0].document if found.hits else "")
    leaning = f"{question} {await _without_mention(store, asked.text)}"
    named = await name(store, question)
    own = _own_words(store, question)
    if named and named.focus.strength >= NAMING and named.entry.document != talked_about:
        says_enough = sum(word not in named.focus.mention for word in own) >= ENOUGH_WORDS
        return Asked(question) if says_enough else Asked(leaning, (named.entry.document,))
    if others := await _others(store, question, talked_about):
        return Asked(question if len(own) > ENOUGH_WORDS else leaning, others)
    if not talked_about:
        return Asked(question)
    here = Asked(leaning, (talked_about,))
    there, alone = await find(store, leaning, 3, here.documents), await find(store, question, 3)
    gain = _held(store, alone) - _held(store, there)
    return Asked(question) if gain >= BETTER and len(own) > ENOUGH_WORDS else here


def _held(store: Store, found: Found) -> float:
    window = by_words(store.index, found.wanted, found.hits)
    return window.held if window else 0.0


def _own_words(store: Store, question: str) -> list[int]:
    """The words of a question that say what it asks."""
    words = [w for w in re.findall(r"[\w'\u2019-]+", question.lower()) if w not in ASKING.split()]
    empty = set(store.index.words(EMPTY))
    return [word for word in store.index.words(" ".join(words)) if word not in empty]


async def _without_mention(store: Store, text: str) -> str:
    """A question without the words that name its document."""
    named = await name(store, text)
    return named.focus.text if named else text


async def _others(store: Store, question: str, but: str) -> tuple[str, ...]:
    """For "the other lease": the documents of that kind, by name or opening, but one."""
    match = SWITCHING.search(question)
    if not match:
        return ()
    kind = set(store.index.words(match["kind"] or ""))

    def is_one(entry: Entry) -> bool:
        title = f"{entry.document} {entry.opening[:200]}"
        return entry.document != but and kind <= set(store.index.words(title))

    return tuple(entry.document for entry in await store.documents() if is_one(entry))
