"""How good the answers are, and how sure that is.

The gate's metric is the *answer score*, as in SQuAD 2: for a question that a document answers, the
F1 of the words said against the golden answer or the golden quote, whichever is nearer; for one
that nothing answers, 1 if the agent says so, else 0. Its mean is what is compared.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""An answer, as asking.py keeps it."""
UNKNOWN = "The documents do not answer this."
"""What the agent asks its model to say: UNKNOWN of its prompts.py."""
SAMPLES = 2000


def words(text: str) -> list[str]:
    """Lower case, without citations, punctuation and articles (Rajpurkar et al., 2016)."""
    text = re.sub(r"\[\d+\]", " ", text.lower())
    text = "".join(" " if letter in string.punctuation else letter for letter in text)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(said: str, expected: str) -> float:
    ours, theirs = words(said), words(expected)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def abstained(row: Row) -> bool:
    """Whether it says that the documents do not answer, or asks which one is meant."""
    said = row["said"].strip().lower()
    return row["asks_back"] or not said or UNKNOWN.lower().rstrip(".") in said


def answer_score(row: Row) -> float:
    if not row["document"]:
        return float(abstained(row))
    if abstained(row):
        return 0.0
    return max(f1(row["said"], row["expected"]), f1(row["said"], row["quote"]))


def exact(row: Row) -> float:
    """Whether exactly the golden answer or the golden quote was said."""
    said = words(row["said"])
    return float(said in (words(row["expected"]), words(row["quote"])))


def cited_right(row: Row) -> list[bool]:
    """For each citation, whether it points into the golden quote's document and at its words."""
    wanted = Counter(words(row["quote"]))
    return [
        cited["document"] == row["document"]
        and sum((Counter(words(cited["quote"])) & wanted).values()) >= sum(wanted.values()) / 2
        for cited in row["citations"]
    ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    rank = math.ceil(round(share * len(values), 9))  # 0.95 * 100 is a little more than 95
    return sorted(values)[max(0, rank - 1)]


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Everything that is reported of one pass over the questions."""
    can = [row for row in rows if row["document"]]
    cannot = [row for row in rows if not row["document"]]
    citations = [right for row in can for right in cited_right(row)]
    seconds = [row["seconds"] for row in rows]
    return {
        "questions": len(rows),
        "answer_score": mean([answer_score(row) for row in rows]),
        "f1": mean([answer_score(row) for row in can]),
        "exact_match": mean([exact(row) for row in can]),
        "abstained_rightly": mean([float(abstained(row)) for row in cannot]),
        "abstained_wrongly": mean([float(abstained(row)) for row in can]),
        "cited": mean([float(bool(row["citations"])) for row in can]),
        "citation_precision": mean([float(right) for right in citations]),
        "p50_s": percentile(seconds, 0.50),
        "p95_s": percentile(seconds, 0.95),
        "p99_s": percentile(seconds, 0.99),
        "answers_per_s": rows[0]["readers"] / mean(seconds),  # by Little's law
        "input_tokens": mean([row["tokens"]["input"] for row in rows]),
        "output_tokens": mean([row["tokens"]["output"] for row in rows]),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, by bootstrap over the questions."""
    draw = random.Random(0)
    found = sorted(mean(draw.choices(values, k=len(values))) for _ in range(SAMPLES))
    return found[round(SAMPLES * 0.025)], found[round(SAMPLES * 0.975) - 1]


def difference(base: Sequence[Row], other: Sequence[Row]) -> tuple[float, float, float]:
    """(mean, low, high) of how much better `other` answers the same questions; paired."""
    by_question = {row["question"]: row for row in base}
    each = [answer_score(row) - answer_score(by_question[row["question"]]) for row in other]
    return mean(each), *interval(each)
