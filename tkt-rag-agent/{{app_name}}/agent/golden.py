"""The golden questions: what the owner knows the answer to, in `golden.jsonl` or a CSV file.

    {"question": "...", "answer": "in a few words", "document": "a.pdf", "quote": "word for word"}

A question that no document answers has only its question. Optional: `"held_out": true` for one that
nothing may be tuned on; without any such mark, half of the questions are taken for it. A wrong
answer becomes a golden question by one command:

    python -m agent.golden add TRACE "the right answer" DOCUMENT "the quote"
    python -m agent.golden add TRACE                      # nothing in the documents answers it

where TRACE is the id of a trace in Langfuse, or the question itself.
"""

import argparse
import asyncio
import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.errors import Refused, Unavailable
from agent.services import Services, connect
from agent.settings import HERE, read
from agent.support import where

FILE = HERE / "golden.jsonl"
_ANSWER = {
    "answer": "in a few words",
    "document": "its name",
    "quote": "word for word from it",
}
FIELDS = ("question", "answer", "document", "quote", "held_out")


@dataclass(frozen=True)
class Golden:
    question: str
    answer: str | None = None
    document: str | None = None
    quote: str | None = None
    held_out: bool = False

    @property
    def answerable(self) -> bool:
        return bool(self.document)


def load(path: Path) -> list[Golden]:
    """The golden questions of a file; `Refused` names the line and what is wrong with it."""
    rows = list(_csv(path) if path.suffix == ".csv" else _jsonl(path))
    if not rows:
        raise Refused(f"{path} holds no golden question; add one a line.")
    questions: list[Golden] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        golden = _golden(row, f"{path.name}, line {number}")
        key = " ".join(golden.question.lower().split())
        if key in seen:
            first = f"asks the same as line {seen[key]}"
            raise Refused(f"{path.name}, line {number} {first}; remove one of them.")
        seen[key] = number
        questions.append(golden)
    if any(golden.held_out for golden in questions):
        return questions
    return [Golden(**asdict(g) | {"held_out": _second_half(g.question)}) for g in questions]


def _second_half(question: str) -> bool:
    """Half of all questions, always the same ones."""
    return hashlib.sha256(question.encode()).digest()[0] % 2 == 1


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise Refused(f"{path.name}, line {number} is no JSON ({error}).") from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(_lines(path))
    if not reader.fieldnames or "question" not in reader.fieldnames:
        raise Refused(f"{path.name} has no column 'question'; its first line names the columns.")
    for row in reader:
        yield reader.line_num, row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path} cannot be read ({error}).") from error


def _golden(row: Any, place: str) -> Golden:
    if not isinstance(row, dict) or not str(row.get("question") or "").strip():
        raise Refused(f"{place} has no question.")
    if unknown := [str(name) for name in row if name not in FIELDS]:
        raise Refused(f"{place} has a field {unknown[0]!r}; known are {', '.join(FIELDS)}.")
    text = {name: str(row.get(name) or "").strip() or None for name in FIELDS[:4]}
    if bool(text["document"]) != bool(text["quote"]):
        raise Refused(f"{place} needs both document and quote, or neither.")
    marked = str(row.get("held_out") or "").lower() in ("true", "1", "yes")
    return Golden(str(text["question"]), text["answer"], text["document"], text["quote"], marked)


async def spans(services: Services, questions: list[Golden]) -> list[tuple[int, int] | None]:
    """Where each quote stands in its document's text, in characters; None for the unanswerable.

    `Refused` names the first question whose document or quote is not there.
    """
    texts: dict[str, tuple[list[int], str]] = {}
    found: list[tuple[int, int] | None] = []
    for golden in questions:
        if not golden.document or not golden.quote:
            found.append(None)
            continue
        if golden.document not in texts:
            texts[golden.document] = await _text(services, golden.document)
        found.append(_span(*texts[golden.document], golden))
    return found


async def _text(services: Services, document: str) -> tuple[list[int], str]:
    """A document's text without its spaces, and where each character stood."""
    passages = await services.store.passages(document)
    if not passages:
        raise Refused(f"There is no document {document!r}, which a golden question names; add it.")
    places: list[int] = []
    letters: list[str] = []
    for passage in passages:
        for offset, letter in enumerate(passage.text):
            if not letter.isspace():
                places.append(passage.start + offset)
                letters.append(letter.casefold())
    return places, "".join(letters)


def _span(places: list[int], letters: str, golden: Golden) -> tuple[int, int]:
    wanted = re.sub(r"\s+", "", str(golden.quote)).casefold()
    at, end = letters.find(wanted), len(wanted)
    if at < 0 and (near := where(wanted, letters)):
        at, end = near[0], near[1] - near[0]
    if at < 0:
        quote = str(golden.quote)[:60]
        raise Refused(f"{golden.document} does not say {quote!r}, which a golden question quotes.")
    return places[at], places[at + end - 1] + 1


async def add(services: Services, trace: str, rest: list[str], path: Path = FILE) -> Golden:
    """Append the question of a trace, or a question, with its right answer if there is one."""
    question = trace
    if re.fullmatch(r"[0-9a-f]{32}", trace):
        question = str((await services.tracing.fetch(f"traces/{trace}"))["input"])
    answer, document, quote = rest or (None, None, None)
    golden = Golden(question, answer, document, quote)
    await spans(services, [golden])
    load_error = _duplicate(path, golden)
    if load_error:
        raise Refused(load_error)
    with path.open("a", encoding="utf-8") as file:
        line = {name: value for name, value in asdict(golden).items() if name != "held_out"}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return golden


def _duplicate(path: Path, golden: Golden) -> str:
    known = {g.question for g in load(path)} if path.exists() and path.stat().st_size else set()
    return f"{path.name} has this question already." if golden.question in known else ""


async def _main(trace: str, rest: list[str]) -> int:
    services = connect(read())
    try:
        await services.store.tend()
        golden = await add(services, trace, rest)
        print(f"Added to {FILE.name}: {golden.question}")
        return 0
    except (Refused, Unavailable, ConnectionError) as error:
        print(error)
        return 1
    finally:
        await services.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.golden",
        description="Adds a golden question. Without an answer, no document answers it.",
    )
    parser.add_argument("add", choices=["add"])
    parser.add_argument("trace", help="a trace's id in Langfuse, or the question itself")
    known = parser.add_argument_group("the right answer, all three or none")
    for name, said in _ANSWER.items():
        known.add_argument(name, nargs="?", help=said)
    given = parser.parse_args()
    rest = [part for name in _ANSWER if (part := getattr(given, name)) is not None]
    if len(rest) not in (0, len(_ANSWER)):
        parser.error("an answer needs its document and quote")
    sys.exit(asyncio.run(_main(given.trace, rest)))
