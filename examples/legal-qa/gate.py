"""The gate: may this model take the place of the one that answers now?

It decides on answers to the same held-out questions, given through the same agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scores import Row, difference, summary

FEWEST = 40
"""Questions in common; fewer say nothing."""
WORSE = 0.05
"""How much worse the citations and the abstaining may get, in share of all."""
SLOWER = 1.5
"""How many times as long an answer may take, at the 95th percentile."""


@dataclass(frozen=True)
class Decision:
    passed: bool
    reasons: list[str]
    """What was looked at, each with its figures; those that speak against it begin with "no"."""
    gain: float
    gain_low: float
    gain_high: float
    """How much better the answer score is, with its 95 % interval."""

    def as_data(self) -> dict[str, object]:
        return asdict(self)


def decide(base: Sequence[Row], candidate: Sequence[Row]) -> Decision:
    """Hold a candidate's answers against those of the model in use."""
    asked = {row["question"] for row in candidate}
    before = [row for row in base if row["question"] in asked]
    if len(before) < FEWEST or len(before) != len(asked):
        said = f"no: {len(before)} questions in common, and {FEWEST} are needed"
        return Decision(False, [said], 0, 0, 0)
    gain, low, high = difference(before, candidate)
    old, new = summary(before), summary(candidate)
    rules = [
        (
            low > 0,
            f"answer score {new['answer_score']:.3f} against {old['answer_score']:.3f}, a gain of "
            f"{gain:+.3f} ({low:+.3f} to {high:+.3f}); its lower bound must be above 0",
        ),
        (
            new["f1"] >= old["f1"],
            f"F1 where a document answers {new['f1']:.3f} against {old['f1']:.3f}; not less, as a "
            "model that leaves everything open has a good score and is of no use",
        ),
        (
            new["citation_precision"] >= old["citation_precision"] - WORSE,
            f"citations {new['citation_precision']:.3f} right against "
            f"{old['citation_precision']:.3f}; at most {WORSE} less",
        ),
        (
            new["abstained_rightly"] >= old["abstained_rightly"] - WORSE,
            f"{new['abstained_rightly']:.3f} of the unanswerable left open against "
            f"{old['abstained_rightly']:.3f}; at most {WORSE} less",
        ),
        (
            new["p95_s"] <= old["p95_s"] * SLOWER,
            f"p95 {new['p95_s']:.2f} s against {old['p95_s']:.2f} s; at most {SLOWER} times it",
        ),
    ]
    reasons = [("yes: " if held else "no: ") + what for held, what in rules]
    return Decision(all(held for held, _ in rules), reasons, gain, low, high)
