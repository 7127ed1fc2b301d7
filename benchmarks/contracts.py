"""CUAD as LegalBench-RAG asks it (arXiv 2408.10343): which characters of which contract answer.

Recall and precision count characters, at k passages or in a number of characters of context. The
titles that the set gives the contracts stand in its questions word for word, so they are not used.
"""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUTS = (1, 8, 64)
CONTEXTS = (4_000, 32_000)
ORIGIN = "CUAD v1 (CC BY 4.0, arXiv 2103.06268) in the form of zeroentropy-ai/legalbenchrag"


@dataclass(frozen=True)
class Asked:
    query: str
    category: str
    document: str
    spans: tuple[tuple[int, int], ...]
    held_out: bool
    """Of the categories and of the contracts that are set apart. The settings were chosen on all
    questions and on another half of them, so this is not unseen, but other and rarer clauses."""

    @property
    def struck(self) -> str:
        """The question without the contract's name; only the benchmark may cut at its `; `."""
        return self.query.split("; ", 1)[1]


def texts(data: Path, mini: bool) -> dict[str, str]:
    """The contracts by file name."""
    with gzip.open(data / "cuad/corpus.jsonl.gz", "rt") as lines:
        found = {row["_id"]: row["text"] for row in map(json.loads, lines)}
    wanted = set(json.loads((data / "cuad/mini.json").read_text())["files"])
    return {name: text for name, text in found.items() if not mini or name in wanted}


def questions(data: Path, mini: bool) -> list[Asked]:
    with gzip.open(data / "cuad/tests.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    categories = sorted({row["category"] for row in rows})
    documents = sorted({row["file"] for row in rows})
    held_out = {*_half(categories), *_half(documents)}
    if mini:
        rows = json.loads((data / "cuad/mini.json").read_text())["tests"]
    return [
        Asked(
            row["query"],
            row["category"],
            row["file"],
            tuple((span["span"][0], span["span"][1]) for span in row["snippets"]),
            row["category"] in held_out and row["file"] in held_out,
        )
        for row in rows
    ]


def _half(names: list[str]) -> list[str]:
    return random.Random(3).sample(names, len(names) // 2)


def score(asked: Asked, hits: Sequence[Any]) -> dict[str, float]:
    """Recall and precision of characters at each cut, and how many hits are of wrong documents."""
    total = sum(end - start for start, end in asked.spans)
    found = read = wrong = 0
    figures: dict[str, float] = {}
    context = dict.fromkeys(CONTEXTS, 0)
    for n, hit in enumerate(hits, 1):
        right = hit.document == asked.document
        for limit in CONTEXTS:
            room = max(0, min(hit.end, hit.start + limit - read))
            context[limit] += _inside(asked.spans, hit.start, room) if right else 0
        read += hit.end - hit.start
        found += _inside(asked.spans, hit.start, hit.end) if right else 0
        wrong += not right
        if n in CUTS:
            figures |= {f"recall{n}": found / total, f"precision{n}": found / read}
        if n == 8:
            figures["wrong_document"] = wrong / n
    for n in CUTS:  # fewer hits than asked for
        figures.setdefault(f"recall{n}", found / total)
        figures.setdefault(f"precision{n}", found / read if read else 0)
    figures.setdefault("wrong_document", wrong / max(1, len(hits)))
    return figures | {f"recall_{limit}_chars": context[limit] / total for limit in CONTEXTS}


def _inside(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    return sum(max(0, min(end, b) - max(start, a)) for a, b in spans)
