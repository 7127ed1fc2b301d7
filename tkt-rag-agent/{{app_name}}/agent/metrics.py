"""The scores of an evaluation, each from what was asked, what was found and what was answered.

All are judged by the golden quotes and not by the app's own checks. `planted()` proves that each of
them notices the mistake it is there for.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent import facts
from agent.golden import Golden
from agent.support import shared

SAMPLES = 1000
"""Bootstrap samples for a 95 % interval."""
SAID = 0.6
"""Share of the golden answer's words that an answer must hold to count as right."""


@dataclass(frozen=True)
class Case:
    """One golden question, and what the app made of it."""

    golden: Golden
    span: tuple[int, int] | None
    """Where the golden quote stands in its document."""
    passages: list[dict[str, Any]]
    answer: str
    answered: bool
    citations: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    confidence: float
    seconds: float
    judged: bool | None = None
    """What a model said of the answer; None where none was asked."""
    trace_id: str | None = None

    @property
    def rank(self) -> int:
        """Place of the first passage that holds the beginning or most of the quote; 0: none."""
        for n, passage in enumerate(self.passages, 1):
            if self._holds(passage):
                return n
        return 0

    @property
    def cited_right(self) -> list[bool]:
        return [self._holds(citation) for citation in self.citations]

    @property
    def right(self) -> bool:
        """The answer says what the golden one says: all of its numbers and dates, most words."""
        if not self.answered:
            return not self.golden.answerable
        if not self.golden.answerable:
            return False
        if self.judged is not None:
            return self.judged
        expected = self.golden.answer or ""
        read: tuple[Callable[[str], Sequence[Any]], ...] = (facts.numbers, facts.dates)
        same = all(
            any(fact.same(other) for other in facts_in(self.answer))
            for facts_in in read
            for fact in facts_in(expected)
        )
        return same and shared(expected, self.answer) >= SAID

    def _holds(self, part: dict[str, Any]) -> bool:
        if not self.span or part["document"] != self.golden.document:
            return False
        start, end = self.span
        overlap = int(min(end, part["end"]) - max(start, part["start"]))
        return bool(overlap >= min(end - start, part["end"] - part["start"]) / 2)


def scores(cases: Sequence[Case]) -> dict[str, float]:
    """All scores of some cases, 0 to 1; one that has nothing to count is left out."""
    can = [case for case in cases if case.golden.answerable]
    cannot = [case for case in cases if not case.golden.answerable]
    cited = [right for case in cases if case.answered for right in case.cited_right or [False]]
    checks = [c for case in cases for c in case.checks if c["status"] != "plain"]
    found = {
        **{f"hit{k}": [0 < case.rank <= k for case in can] for k in (1, 3, 5)},
        "answered": [case.answered for case in can],
        "unanswerable_answered": [case.answered for case in cannot],
        "citation_precision": cited,
        "right": [case.right for case in can if case.answered],
        "refuted": [check["status"] == "refuted" for check in checks],
    }
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def intervals(cases: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the scores, by bootstrap over the questions."""
    draw = random.Random(0)
    samples = [scores(draw.choices(cases, k=len(cases))) for _ in range(SAMPLES // 5)]
    found = {}
    for name in scores(cases):
        values = sorted(sample[name] for sample in samples if name in sample)
        found[name] = values[len(values) // 40], values[-1 - len(values) // 40]
    return found


def curve(cases: Sequence[Case]) -> list[tuple[float, float, float]]:
    """(threshold, answerable answered, unanswerable answered) for each threshold that matters."""
    can = [case.confidence for case in cases if case.golden.answerable]
    cannot = [case.confidence for case in cases if not case.golden.answerable]
    thresholds = sorted({0.0, *can, *cannot, 1.0})
    return [(t, _share(can, t), _share(cannot, t)) for t in thresholds]


def threshold(cases: Sequence[Case], error: float) -> float:
    """The lowest threshold at which at most `error` of the unanswerable questions are answered."""
    allowed = [t for t, _, wrong in curve(cases) if wrong <= error]
    return min(allowed, default=1.0)


def _share(values: Sequence[float], at_least: float) -> float:
    return sum(value >= at_least for value in values) / len(values) if values else 0.0


PLANTS: dict[str, Callable[[Case], Case]] = {
    "hit5": lambda case: replace(case, passages=[]),
    "answered": lambda case: replace(case, answered=False),
    "citation_precision": lambda case: replace(
        case, answered=True, citations=[{"document": "elsewhere", "start": 0, "end": 1}]
    ),
    "right": lambda case: replace(case, answered=True, judged=None, answer="It is 987,654."),
    "unanswerable_answered": lambda case: replace(case, answered=True),
    "refuted": lambda case: replace(case, checks=[{"status": "refuted"}]),
}
WORSE_WHEN_HIGHER = ("unanswerable_answered", "refuted")


def planted(cases: Sequence[Case]) -> dict[str, bool]:
    """For each score, whether it gets worse when every case is given the mistake it is for."""
    before = scores(cases)
    noticed = {}
    for name, spoil in PLANTS.items():
        after = scores([spoil(case) for case in cases])
        if name in after and not (name in WORSE_WHEN_HIGHER and name not in before):
            was = before.get(name, 1.0)
            worst = 1.0 if name in WORSE_WHEN_HIGHER else 0.0
            better = after[name] > was if name in WORSE_WHEN_HIGHER else after[name] < was
            noticed[name] = better or was == worst
    return noticed
