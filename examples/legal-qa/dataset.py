"""What the model learns from: the prompts that the agent really sends, each with the answer that
should have come.

The prompts are read from the agent's traces in Langfuse, the answers are made of the golden
questions: the sentence that answers it, with the number of the passage in which it stands; and
where no passage holds it, the words that say so.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from plan import TRAIN_ON
from questions import Question
from scores import UNKNOWN, percentile
from tqdm import tqdm

LATE_S = 30
"""How long a trace may be on its way."""
PASSAGE = re.compile(r"^\[(\d+)\] (.*)$", re.M)
"""How a passage begins in a prompt: its number, then its document and place."""


@dataclass(frozen=True)
class Example:
    prompt: list[dict[str, str]]
    """Messages in the chat format, as they were sent."""
    answer: str
    question: str
    document: str

    def as_data(self) -> dict[str, Any]:
        """In TRL's format of prompt and completion: only the completion is learned."""
        return {
            "prompt": self.prompt,
            "completion": [{"role": "assistant", "content": self.answer}],
            "question": self.question,
            "document": self.document,
        }


def from_traces(
    langfuse: httpx.Client, rows: Sequence[dict[str, Any]], questions: Sequence[Question]
) -> list[Example]:
    """An example for each answer whose trace holds a prompt; `rows` as asking.py keeps them."""
    by_text = {question.text: question for question in questions}
    found = []
    for row in tqdm(rows, desc="Reading traces", unit="trace"):
        if not row["tokens"]["output"]:
            continue  # the agent answered by itself: it asked which document is meant
        prompt, question = _prompt(langfuse, row["trace_id"]), by_text[row["question"]]
        found.append(Example(prompt, target(question, prompt), question.text, question.document))
    return found


def balanced(examples: Sequence[Example], left_open: float) -> list[Example]:
    """In the same order, with at most `left_open` examples to be left open for each other one."""
    most = int(left_open * sum(example.answer != UNKNOWN for example in examples))
    kept, opened = [], 0
    for example in examples:
        opened += example.answer == UNKNOWN
        if example.answer != UNKNOWN or opened <= most:
            kept.append(example)
    return kept


def _prompt(langfuse: httpx.Client, trace_id: str) -> list[dict[str, str]]:
    """The messages of the trace's generation `answer`, which may come later than the trace."""
    deadline = time.monotonic() + LATE_S
    while True:
        answer = langfuse.get(f"/api/public/traces/{trace_id}")
        known = answer.status_code != 404
        seen = answer.raise_for_status().json()["observations"] if known else []
        for one in seen:
            if one["type"] == "GENERATION" and one["name"] == "answer":
                return list(one["input"])
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"Langfuse does not hold all of trace {trace_id} after {LATE_S} s; is it up?"
            )
        time.sleep(0.5)


def target(question: Question, prompt: Sequence[dict[str, str]]) -> str:
    """What the model should have said to this prompt."""
    wanted = _plain(question.quote)
    for number, text in passages(prompt):
        if wanted and wanted in _plain(text):
            return f"{question.quote.strip()} [{number}]"
    return UNKNOWN


def passages(prompt: Sequence[dict[str, str]]) -> list[tuple[int, str]]:
    """(number, document, place and text) of the passages in a prompt."""
    text = prompt[-1]["content"]
    starts = [*PASSAGE.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [
        (int(match[1]), text[match.start() : end]) for match, end in zip(starts, ends, strict=True)
    ]


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).lower().strip()


def troubles(examples: Sequence[Example], held_out: Sequence[Question]) -> list[str]:
    """What makes these examples unfit to learn from: each a sentence with what to do."""
    found = []
    if not examples:
        return ["There is no example: ask the agent questions with Langfuse connected, then again."]
    asked = {_plain(question.text) for question in held_out}
    quotes = {_plain(q.quote): q.text for q in held_out if len(q.quote) > 40}
    for example in examples:
        name = f"The example {example.question[:60]!r}"
        if not example.answer.strip():
            found.append(f"{name} has an empty answer: give it one in golden.jsonl, or remove it.")
        if _plain(example.question) in asked:
            found.append(f"{name} is a held-out question too: take it out of one of the two.")
        if example.document and example.document not in TRAIN_ON:
            found.append(f"{name} is about {example.document}, which is held out: remove it.")
        text = _plain(example.prompt[-1]["content"] + " " + example.answer)
        leaked = [asks for quote, asks in quotes.items() if quote in text]
        if leaked:
            found.append(
                f"{name} holds the answer to the held-out question {leaked[0][:60]!r}: ask the "
                "agent of documents to learn from alone."
            )
    return found


def statistics(examples: Sequence[Example], tokenizer: Any) -> dict[str, float]:
    """How many examples and tokens: what training costs, and how long the context must be."""
    lengths = []
    for example in examples:
        whole = [*example.prompt, {"role": "assistant", "content": example.answer}]
        lengths.append(len(tokenizer.apply_chat_template(whole, tokenize=True)["input_ids"]))
    return {
        "examples": len(examples),
        "left_open": sum(example.answer == UNKNOWN for example in examples),
        "tokens": sum(lengths),
        "tokens_p50": percentile(lengths, 0.5),
        "tokens_p95": percentile(lengths, 0.95),
        "tokens_max": max(lengths),
    }


def write(examples: Sequence[Example], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(example.as_data(), ensure_ascii=False) for example in examples]
    file.write_text("\n".join(lines) + "\n")


def read(file: Path) -> list[Example]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        Example(row["prompt"], row["completion"][0]["content"], row["question"], row["document"])
        for row in rows
    ]
