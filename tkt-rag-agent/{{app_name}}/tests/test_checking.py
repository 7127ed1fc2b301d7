"""Each sentence is checked when it ends, and a note stands right behind one that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.checking import Check, check, checked
from agent.prompts import UNKNOWN
from agent.store import Hit

pytestmark = pytest.mark.anyio

TEXT = "The monthly rent is 1,250 pounds. The tenant may keep one small dog."
HITS = [Hit("lease.md", None, None, 0, len(TEXT), TEXT, 1.0)]


async def stream(text: str, size: int) -> AsyncIterator[str]:
    for at in range(0, len(text), size):
        yield text[at : at + size]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_notes_stand_behind_their_sentences_however_the_answer_is_cut(size: int) -> None:
    said = (
        "The monthly rent is 1,500 pounds [1]. The tenant may keep one small dog [1]. "
        "The landlord is called Bartholomew."
    )
    checks: list[Check] = []

    shown = "".join([text async for text in checked(stream(said, size), HITS, checks)])

    assert shown == (
        "The monthly rent is 1,500 pounds [1]. ⚠ *Not what the source says: “1,500 pounds”.* "
        "The tenant may keep one small dog [1]. "
        "The landlord is called Bartholomew. ⚠ *No source found for this.*"
    )
    assert [c.status for c in checks] == ["refuted", "supported", "unsupported"]


@pytest.mark.parametrize("said", ["", "No.", UNKNOWN, "Here is what I found:\n\n", "Is that so?"])
async def test_what_says_nothing_is_not_checked_and_not_changed(said: str) -> None:
    checks: list[Check] = []

    assert "".join([t async for t in checked(stream(said, 2), HITS, checks)]) == said
    assert {c.status for c in checks} <= {"plain"}


def test_a_citation_behind_the_full_stop_belongs_to_its_sentence() -> None:
    assert check("The monthly rent is 1,250 pounds. [1]", HITS).cited == [1]


def test_words_in_quotation_marks_must_stand_in_the_passage() -> None:
    good = check('It says "The tenant may keep one small dog" [1].', HITS)
    bad = check('It says "The tenant may keep seven large cats" [1].', HITS)

    assert good.status == "supported"
    assert (bad.status, bad.doubts[-1].kind) == ("refuted", "quote")


def test_another_language_is_left_alone() -> None:
    assert check("Die Miete kostet 1.400 Pfund im Monat [1].", HITS).status == "plain"
