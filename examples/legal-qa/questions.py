"""The golden questions of tkt-rag-agent, split by document: one side to learn from, the other held
out. No document stands on both sides, and nothing to learn from names who is in a held-out one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plan import TRAIN_ON, Plan


@dataclass(frozen=True)
class Question:
    text: str
    answer: str = ""
    """In a few words; "" where no document answers it."""
    document: str = ""
    quote: str = ""
    """The sentence that answers it, word for word."""
    held_out: bool = False
    """The retriever was not tuned on it either."""

    @property
    def answerable(self) -> bool:
        return bool(self.document)


def load(app: Path) -> list[Question]:
    """All golden questions of a rendered tkt-rag-agent."""
    rows = [json.loads(line) for line in (app / "golden.jsonl").read_text().splitlines()]
    return [
        Question(
            row["question"],
            row.get("answer") or "",
            row.get("document") or "",
            row.get("quote") or "",
            bool(row.get("held_out")),
        )
        for row in rows
    ]


def split(questions: Sequence[Question], plan: Plan) -> tuple[list[Question], list[Question]]:
    """(to learn from, held out), each always the same and in an order by chance."""
    mixed = sorted(questions, key=lambda q: hashlib.sha256(q.text.encode()).digest())
    mixed.sort(key=lambda q: not q.held_out)  # first those that nothing was tuned on
    asks = [q for q in mixed if q.answerable]
    nothing = [q for q in mixed if not q.answerable]
    train = [q for q in asks if q.document in TRAIN_ON]
    held = [q for q in asks if q.document not in TRAIN_ON][: plan.answerable]
    theirs = names(q for q in asks if q.document not in TRAIN_ON) - names(train)
    held += [q for q in nothing if q.held_out][: plan.unanswerable]
    free = [q for q in nothing if not q.held_out and not names([q]) & theirs]
    train += free[: plan.train_unanswerable]
    return _mixed(train), _mixed(held)


def names(questions: Iterable[Question]) -> set[str]:
    """Words with a capital that begin no question: companies, people, places, products."""
    return {word for q in questions for word in re.findall(r"\b[A-Z]\w{3,}", q.text[1:])}


def _mixed(questions: Sequence[Question]) -> list[Question]:
    return sorted(questions, key=lambda q: hashlib.md5(q.text.encode()).digest())
