"""`[n]` is passage number n, and nothing else gets through."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.citations import LONGEST, cite, known_only, numbered_text, quotation
from agent.confidence import Window, by_words
from agent.index import Index
from agent.store import Hit

pytestmark = pytest.mark.anyio


def hit(text: str, start: int = 0, page: int | None = None, heading: str | None = None) -> Hit:
    return Hit("lease.md", page, heading, start, start + len(text), text, 0.5)


async def stream(*tokens: str) -> AsyncIterator[str]:
    for token in tokens:
        yield token


async def shown(*tokens: str, passages: int = 3) -> str:
    return "".join([text async for text in known_only(stream(*tokens), passages)])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("It is due [1].", "It is due [1]."),
        ("It is due [9].", "It is due ."),
        ("It is due [0][4][3].", "It is due [3]."),
        ("It is due [1, 9].", "It is due [1]."),
        ("It is due [1;2 , 9].", "It is due [1][2]."),
        ("It is due [ 2 ].", "It is due [2]."),
        ("See [note 9] and [x].", "See [note 9] and [x]."),
        ("An [open one", "An [open one"),
        ("A [1[9]2]", "A [12]"),
        (f"[{'long ' * LONGEST}]", f"[{'long ' * LONGEST}]"),
        ("", ""),
    ],
)
async def test_an_unknown_number_is_dropped_however_the_answer_is_cut_into_tokens(
    said: str, expected: str
) -> None:
    assert await shown(said) == expected
    assert await shown(*said) == expected
    for cut in range(len(said) + 1):
        assert await shown(said[:cut], said[cut:]) == expected


async def test_tokens_go_out_at_once_where_no_bracket_is_open() -> None:
    pieces = [text async for text in known_only(stream("The ", "rent ", "is [", "1", "] due"), 3)]

    assert pieces == ["The ", "rent ", "is ", "[1] due"]


def test_a_citation_quotes_the_sentence_nearest_to_the_claim() -> None:
    text = "The tenant may keep a dog. The monthly rent is 1,250 pounds. Fees are extra."

    (citation,) = cite(Index(None), "Rent is 1,250 pounds a month [1].", [hit(text, start=100)])

    assert citation["quote"] == "The monthly rent is 1,250 pounds."
    assert text[citation["start"] - 100 : citation["end"] - 100] == citation["quote"]
    assert (citation["n"], citation["document"]) == (1, "lease.md")


def test_each_cited_passage_is_cited_once_and_an_uncited_one_never() -> None:
    hits = [hit("One."), hit("Two."), hit("Three.")]

    citations = cite(Index(None), "A [3]. B [1][3].", hits)

    assert [citation["n"] for citation in citations] == [3, 1]


def test_a_number_that_no_passage_has_is_no_citation_wherever_it_comes_from() -> None:
    long_list = ", ".join(str(n) for n in range(1, 40))

    citations = cite(Index(None), f"As [0] and [7] say [{long_list}].", [hit("One."), hit("Two.")])

    assert [citation["n"] for citation in citations] == [1, 2]


def test_a_citation_at_the_very_beginning_and_a_passage_of_one_word_are_fine() -> None:
    assert cite(Index(None), "[1]", [hit("Rent")])[0]["quote"] == "Rent"


def nearest(question: str, hits: list[Hit]) -> Window:
    index = Index(None)
    window = by_words(index, dict.fromkeys(index.words(question), 1.0), hits)
    assert window
    return window


def test_without_a_model_the_nearest_sentences_are_quoted_with_their_source() -> None:
    hits = [hit("Nothing else."), hit("The monthly rent is 1,250 pounds. Pets are fine.", page=4)]

    window = nearest("What is the monthly rent?", hits)

    assert window.n == 2
    assert window.held > 0.6
    assert quotation(window, hits) == 'lease.md, page 4: "The monthly rent is 1,250 pounds."'
    assert nearest("Who won the football cup?", hits).held == 0


def test_a_bracket_of_a_quoted_document_cites_no_passage() -> None:
    hits = [hit("The rent stands in note [2]."), hit("Pets are fine."), hit("The end.")]

    text = f"{quotation(nearest('Where stands the rent?', hits), hits)} [1]"

    assert [c["n"] for c in cite(Index(None), text, hits)] == [1]


def test_the_model_reads_passages_with_number_source_and_text() -> None:
    hits = [hit("Rent.", page=2), hit("Pets.", heading="Animals"), hit("End.")]

    assert numbered_text(hits) == (
        "[1] lease.md, page 2\nRent.\n\n[2] lease.md, Animals\nPets.\n\n[3] lease.md\nEnd."
    )
