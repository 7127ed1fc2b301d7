"""Golden files as owners write them, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world import LEASE, take_in

from agent.errors import Refused
from agent.golden import Golden, add, load, spans
from agent.services import Services

pytestmark = pytest.mark.anyio

RENT = Golden("What is the rent?", "1,250", "lease.md", "The monthly rent is 1,250 pounds")


def write(folder: Path, text: str, name: str = "golden.jsonl") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    row = {"question": "Q?", "answer": "A", "document": "a.md", "quote": "Text."}
    lines = json.dumps(row) + "\n\n" + json.dumps({"question": "Other?"})
    table = "question,answer,document,quote\nQ?,A,a.md,Text.\nOther?,,,\n"

    one, other = load(write(tmp_path, lines)), load(write(tmp_path, table, "golden.csv"))

    assert one == other
    assert [golden.answerable for golden in one] == [True, False]


def test_without_a_mark_about_half_is_held_out_and_always_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(json.dumps({"question": f"Q {n}?"}) for n in range(100)))

    marks = [golden.held_out for golden in load(path)]

    assert 30 < sum(marks) < 70
    assert marks == [golden.held_out for golden in load(path)]


def test_a_mark_is_kept(tmp_path: Path) -> None:
    lines = '{"question": "A?", "held_out": true}\n{"question": "B?"}'

    assert [golden.held_out for golden in load(write(tmp_path, lines))] == [True, False]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no golden question"),
        ("{nonsense", "line 1 is no JSON"),
        ('{"question": "  "}', "line 1 has no question"),
        ("[1, 2]", "line 1 has no question"),
        ('{"question": "Q?", "page": 3}', "line 1 has a field 'page'; known are question"),
        ('{"question": "Q?", "document": "a.md"}', "needs both document and quote"),
        ('{"question": "Q?"}\n{"question": "q? "}', "line 2 asks the same as line 1"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_its_line(
    text: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=complaint):
        load(write(tmp_path, text))


def test_a_csv_without_the_column_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no column 'question'"):
        load(write(tmp_path, "frage\nWas?", "golden.csv"))
    with pytest.raises(Refused, match="cannot be read"):
        load(tmp_path / "missing.jsonl")


async def test_a_quote_is_found_in_the_text_across_line_breaks(
    services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE.replace("rent is", "rent\nis"))

    (span, nothing) = await spans(services, [RENT, Golden("Who?")])

    assert nothing is None
    assert span
    assert LEASE[span[0] : span[1]] == RENT.quote


async def test_unknown_documents_and_quotes_are_named(services: Services, tmp_path: Path) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)

    with pytest.raises(Refused, match=r"There is no document 'other\.md'"):
        await spans(services, [Golden("Q?", "A", "other.md", "Text.")])
    with pytest.raises(Refused, match=r"lease\.md does not say 'The moon is made of"):
        await spans(services, [Golden("Q?", "A", "lease.md", "The moon is made of cheese")])


async def test_a_wrong_answer_becomes_a_golden_question(services: Services, tmp_path: Path) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    path = tmp_path / "golden.jsonl"

    await add(services, RENT.question, ["1,250", "lease.md", str(RENT.quote)], path)
    await add(services, "Who won the cup?", [], path)

    assert [golden.question for golden in load(path)] == [RENT.question, "Who won the cup?"]
    with pytest.raises(Refused, match="has this question already"):
        await add(services, "Who won the cup?", [], path)
    with pytest.raises(Refused, match="does not say"):
        await add(services, "Q?", ["A", "lease.md", "never said"], path)
    assert len(load(path)) == 2
