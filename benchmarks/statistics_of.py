"""Means with 95 % intervals, by bootstrap over the questions."""

import random
from collections.abc import Sequence

SAMPLES = 1000
Figures = Sequence[dict[str, float]]


def mean(rows: Figures, name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def interval(rows: Figures, name: str) -> tuple[float, float]:
    """Bounds of the mean, in 95 of 100 draws with replacement."""
    return _bounds([row[name] for row in rows])


def paired(rows: Figures, others: Figures, name: str) -> tuple[float, float, float]:
    """The mean difference of the same questions, and its bounds."""
    differences = [a[name] - b[name] for a, b in zip(rows, others, strict=True)]
    return sum(differences) / len(differences), *_bounds(differences)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    draw, n = random.Random(0), len(values)
    means = sorted(sum(draw.choices(values, k=n)) / n for _ in range(SAMPLES))
    return means[SAMPLES // 40], means[-1 - SAMPLES // 40]


def said(rows: Figures, name: str) -> str:
    """`62.1 (60.8-63.4)`, in per cent."""
    low, high = interval(rows, name)
    return f"{100 * mean(rows, name):.1f} ({100 * low:.1f}-{100 * high:.1f})"
