"""Passages: what is found, quoted and cited, so their spans must be true."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from agent.extract import Extracted, Mark
from agent.split import PASSAGE_CHARS, SECTION_CHARS, sentences, split


def plain(text: str) -> Extracted:
    return Extracted(text, (Mark(0, None, None),))


def random_document(chance: random.Random) -> Extracted:
    """Paragraphs of any length, lists, blank lines, pages and headings at any place."""
    text, marks = "", [Mark(0, 1, None)]
    for _ in range(chance.randint(1, 40)):
        if text and chance.random() < 0.3:
            page = (marks[-1].page or 0) + chance.choice([0, 0, 1])
            marks.append(Mark(len(text), page, f"Heading {len(marks)}"))
        length = chance.choice([1, 5, 20, 80, 400])
        ends = chance.choice([[" "], [" ", " ", " ", ". ", "! ", "; ", '." ', "\n", "  "]])
        for _ in range(chance.randint(1, length)):
            word = "".join(chance.choices("abcxyzÄß€中", k=chance.randint(1, 12)))
            text += word + chance.choice(ends)
        text += chance.choice(["\n\n", "\n \n", "\n\n\n", "\n"])
    return Extracted(text, tuple(marks))


def mark_at(document: Extracted, place: int) -> Mark:
    return [mark for mark in document.marks if mark.start <= place][-1]


@pytest.mark.parametrize("seed", range(60))
def test_passages_of_any_text_cover_it_once_in_order_within_pages_and_sizes(seed: int) -> None:
    document = random_document(random.Random(seed))

    passages = split(document)

    words = [word for passage in passages for word in re.findall(r"\w+", passage.text)]
    assert words == re.findall(r"\w+", document.text)
    for passage in passages:
        assert document.text[passage.start : passage.end] == passage.text
        assert passage.text == passage.text.strip()
        assert 0 < len(passage.text) <= PASSAGE_CHARS
        assert passage.page == mark_at(document, passage.start).page
        assert passage.page == mark_at(document, passage.end - 1).page
    for before, after in pairwise(passages):
        assert before.end <= after.start


def test_a_text_without_words_gives_no_passages() -> None:
    assert split(plain("")) == []
    assert split(plain(" \n\n \t\n")) == []


def test_a_paragraph_is_kept_whole_and_small_ones_are_joined() -> None:
    a_third = "word " * ((PASSAGE_CHARS // 3 - 20) // 5)
    text = "\n\n".join(f"Paragraph {n}. {a_third}" for n in range(6))

    passages = split(plain(text))

    assert all(passage.text.startswith("Paragraph") for passage in passages)
    assert len(passages) == 2


def test_a_long_section_stands_alone_and_carries_its_heading() -> None:
    one = "One\n\n" + "first " * (SECTION_CHARS // 6)
    two = "\n\nTwo\n\n" + "second " * 20
    document = Extracted(one + two, (Mark(0, None, "One"), Mark(len(one) + 2, None, "Two")))

    assert [(p.heading, p.text.split()[0]) for p in split(document)] == [
        ("One", "One"),
        ("Two", "Two"),
    ]


def test_a_lone_heading_shares_the_passage_of_what_follows() -> None:
    document = Extracted("Title\n\nRent is due.", (Mark(0, None, "Title"), Mark(7, None, "Rent")))

    assert [passage.text for passage in split(document)] == ["Title\n\nRent is due."]


def test_a_word_longer_than_a_passage_is_cut_and_nothing_is_lost() -> None:
    text = "x" * (2 * PASSAGE_CHARS + 7)

    assert "".join(passage.text for passage in split(plain(text))) == text


def test_a_sentence_longer_than_a_passage_is_cut_between_words() -> None:
    text = "abcdef " * 400

    assert {word for passage in split(plain(text)) for word in passage.text.split()} == {"abcdef"}


def test_sentences_end_at_stops_and_lines_but_not_after_a_number() -> None:
    text = "12.3 The rent is due. It is paid!\nLate: a fee"

    assert [text[a:b] for a, b in sentences(text)] == [
        "12.3 The rent is due.",
        "It is paid!",
        "Late:",
        "a fee",
    ]
