"""The golden questions of tkt-rag-agent, split by document: one side to learn from, the other held
out. No document, and so no question about one, stands on both sides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
    held += [q for q in nothing if q.held_out][: plan.unanswerable]
    train += [q for q in nothing if not q.held_out][: plan.train_unanswerable]
    return _mixed(train), _mixed(held)


def _mixed(questions: Sequence[Question]) -> list[Question]:
    return sorted(questions, key=lambda q: hashlib.md5(q.text.encode()).digest())
