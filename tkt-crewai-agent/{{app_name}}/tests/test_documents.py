"""The crew's own documents: what is taken in, found by words, and read."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from agent.documents import LONGEST_READ, PASSAGE_CHARS, Documents, checked, cut, load
from agent.errors import Refused, Unavailable
from agent.qdrant_embedded import Embedded

pytestmark = pytest.mark.anyio
HEATING = "# Heating\n\nA heat pump costs 900 euros a year.\n\nGas costs 700 euros a year."


def opened(folder: Path) -> Documents:
    folder.mkdir(exist_ok=True)
    return Documents(Embedded(folder), "crew")


@pytest.fixture
async def documents(folder: Path, anyio_backend: str) -> AsyncIterator[Documents]:
    made = opened(folder / "qdrant")
    yield made
    await made.close()


async def test_a_document_is_taken_in_found_and_read(documents: Documents) -> None:
    added = await documents.add("heating.md", HEATING)

    assert (added.name, added.characters) == ("heating.md", len(HEATING))
    assert await documents.listed() == [added]
    (found,) = await documents.search("heat pumps")
    assert found.document == "heating.md"
    assert "900 euros" in found.text
    assert found.score > 0
    assert await documents.read("heating.md") == HEATING


async def test_the_best_passage_comes_first_and_no_more_than_wanted(documents: Documents) -> None:
    for name, text in (
        ("a.md", "Gas is loud."),
        ("b.md", "Heat pumps heat. A heat pump is quiet."),
        ("c.md", "A pump for water."),
    ):
        await documents.add(name, text)

    found = await documents.search("heat pump")

    assert [passage.document for passage in found] == ["b.md", "c.md"]
    assert len(await documents.search("heat pump", 1)) == 1


@pytest.mark.parametrize("query", ["", " ", "the of and", "zebra", "?!*()", "🏠", "x" * 20_000])
async def test_words_that_no_passage_holds_find_nothing(query: str, documents: Documents) -> None:
    await documents.add("heating.md", HEATING)

    assert await documents.search(query) == []


async def test_nothing_is_found_listed_or_read_where_there_are_no_documents(
    documents: Documents,
) -> None:
    assert await documents.listed() == []
    assert await documents.search("heat") == []
    with pytest.raises(Refused, match=r"There is no document 'a.md'; there are: none\.") as refusal:
        await documents.read("a.md")
    assert refusal.value.status == 404


async def test_one_of_the_same_name_is_replaced(documents: Documents) -> None:
    await documents.add("a.md", "Old words about gas.\n\n" + "filler " * 900)
    await documents.add("a.md", "New words about pumps.")

    assert len(await documents.listed()) == 1
    assert await documents.search("gas") == []
    assert await documents.read("a.md") == "New words about pumps."


async def test_a_replacement_that_broke_off_is_not_mixed_with_what_was_there(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    await documents.add("a.md", "Old words about gas.")

    async def broken(*_: object) -> None:
        raise Unavailable("Qdrant is away.")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(documents.database, "delete", broken)
        await documents.add("a.md", "New words about pumps.")

    assert await documents.read("a.md") == "New words about pumps."
    assert await documents.search("gas") == []
    assert len(await documents.listed()) == 1


async def test_a_deleted_document_is_gone(documents: Documents) -> None:
    await documents.add("a.md", HEATING)
    await documents.add("b.md", HEATING)

    gone = await documents.delete("a.md")

    assert gone.name == "a.md"
    assert [document.name for document in await documents.listed()] == ["b.md"]
    assert {passage.document for passage in await documents.search("heat")} == {"b.md"}
    with pytest.raises(Refused, match=r"there are: b\.md"):
        await documents.delete("a.md")


async def test_documents_are_listed_by_name(documents: Documents) -> None:
    for name in ("c.md", "a.txt", "B.md"):
        await documents.add(name, "Words.")

    assert [document.name for document in await documents.listed()] == ["B.md", "a.txt", "c.md"]


@pytest.mark.parametrize("text", ["", " \n\t "])
async def test_what_holds_no_text_is_refused(text: str, documents: Documents) -> None:
    with pytest.raises(Refused, match="holds no text"):
        await documents.add("a.md", text)
    assert await documents.listed() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.md", "a.md"),
        ("A B.TXT", "A B.TXT"),
        ("/etc/passwd.md", "passwd.md"),
        ("../../x.md", "x.md"),
        ("..\\..\\x.md", "x.md"),
        ("Überblick 🏠.md", "Überblick 🏠.md"),
    ],
)
def test_a_name_loses_its_folders(given: str, kept: str) -> None:
    assert checked(given) == kept


@pytest.mark.parametrize(
    "name", ["", "/", "a.pdf", "a", "a.md.exe", "a\n.md", "a\x00.md", "x" * 198 + ".md", ".."]
)
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        checked(name)
    assert refusal.value.status == 422


async def test_a_long_document_is_read_in_parts(documents: Documents) -> None:
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 30 for number in range(300))
    await documents.add("long.md", text)
    read, start = "", 0
    while True:
        part = await documents.read("long.md", start)
        assert len(part) < LONGEST_READ + 100
        body, _, note = part.partition("\n\n[")
        read += body
        if not note:
            break
        start = int(note.split("read on from ")[1].rstrip("]"))

    for number in range(300):
        assert f"Paragraph {number}." in read
    assert await documents.read("long.md", 10**9) == ""


@pytest.mark.parametrize(
    "text",
    [
        "One.\n\nTwo.\n \nThree.",
        "x" * 5000,
        "word " * 2000,
        "\n\n".join(["short"] * 2000),
        "a" * PASSAGE_CHARS + "\n\n" + "b" * PASSAGE_CHARS,
        " " * 3000 + "end",
    ],
    ids=["paragraphs", "one word", "one paragraph", "many", "full", "blank"],
)
def test_passages_hold_all_the_text_and_none_is_too_long(text: str) -> None:
    passages = cut(text)

    assert all(0 < len(passage) <= PASSAGE_CHARS for passage in passages)
    assert "".join("".join(passages).split()) == "".join(text.split())


async def test_many_at_once_on_a_fresh_folder_lose_nothing(folder: Path) -> None:
    for attempt in range(5):
        documents = opened(folder / str(attempt))
        names = [f"{number}.md" for number in range(5)]
        await asyncio.gather(
            documents.listed(),
            documents.search("words"),
            *(documents.add(name, f"Words of {name}.") for name in names),
            documents.listed(),
        )
        assert [document.name for document in await documents.listed()] == names
        assert len(await documents.search("words")) == 5
        await documents.close()


async def test_they_are_there_after_a_restart(folder: Path) -> None:
    first = opened(folder / "qdrant")
    await first.add("a.md", HEATING)
    await first.close()

    second = opened(folder / "qdrant")

    assert await second.read("a.md") == HEATING
    assert await second.search("gas")
    await second.close()


async def test_taking_in_a_large_document_does_not_stop_everything_else(
    documents: Documents,
) -> None:
    text = "\n\n".join(
        "Some words of a paragraph that is not long at all. " * 8 for _ in range(4000)
    )
    # In seconds of the processor, since another program may have it: how long this thread worked
    # without a pause, and how long other threads kept it from its turn.
    own, others = [time.thread_time()], [time.process_time()]
    adding = asyncio.create_task(documents.add("large.md", text))
    while not adding.done():
        await asyncio.sleep(0.01)
        own.append(time.thread_time())
        others.append(time.process_time())

    await adding
    assert max(b - a for a, b in pairwise(own)) < 0.1
    assert max(b - a for a, b in pairwise(others)) < 0.5


async def test_a_disk_without_room_takes_nothing_in(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    await documents.add("a.md", HEATING)

    async def none() -> None:
        raise Unavailable("There is no room for documents.")

    monkeypatch.setattr(documents.database, "room", none)
    with pytest.raises(Unavailable, match="no room"):
        await documents.add("b.md", HEATING)

    assert [document.name for document in await documents.listed()] == ["a.md"]


async def test_a_folder_is_taken_in_from_the_command_line(
    documents: Documents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.md").write_text(HEATING)
    (tmp_path / "in" / "b.TXT").write_bytes(b"Caf\xe9")
    (tmp_path / "c.pdf").write_text("no")

    await load(documents, tmp_path)

    assert [document.name for document in await documents.listed()] == ["a.md", "b.TXT"]
    assert "2 of 2" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="holds no files that end in"):
        await load(documents, tmp_path / "empty")


def test_the_command_says_how_it_is_used() -> None:
    command = [sys.executable, "-m", "agent.documents"]
    root = Path(__file__).parent.parent

    used = subprocess.run(command, cwd=root, capture_output=True, text=True)

    assert used.returncode == 2
    assert "usage: python -m agent.documents [-h] folder" in used.stderr
