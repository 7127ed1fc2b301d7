"""The evaluation as one HTML page with pictures, readable without a network."""

from collections.abc import Sequence
from html import escape

from agent.metrics import Case, curve, intervals, scores

SIZE = 300
"""Width and height of the curve, in pixels."""
MEANING = {
    "hit1": "right passage first",
    "hit3": "right passage in the first 3",
    "hit5": "right passage in the first 5",
    "answered": "answerable questions that were answered",
    "unanswerable_answered": "unanswerable questions that were answered (less is better)",
    "citation_precision": "citations that hold the golden quote",
    "right": "answers that say what the golden one says",
    "refuted": "sentences that their source refutes (less is better)",
}
STYLE = """
:root{color-scheme:light dark;--line:#8886;--bar:#3b6fd4;--bad:#c0392b}
body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .5rem;text-align:left;
border-bottom:1px solid var(--line);vertical-align:top}td.n{text-align:right;white-space:nowrap}
.bar{background:var(--bar);height:.7rem;border-radius:.2rem}svg{max-width:100%}
.scroll{overflow-x:auto}details{margin:.3rem 0}.bad{color:var(--bad)}
"""


def page(cases: Sequence[Case], last: dict[str, float], model: str, date: str) -> str:
    """The whole report; `last` are the scores of the time before."""
    can = sum(case.golden.answerable for case in cases)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation</title><style>{STYLE}</style><h1>Evaluation</h1>"
        f"<p>{date}, model: {escape(model)}. {can} answerable and {len(cases) - can} unanswerable "
        f"questions; median {_median(cases):.2f} s an answer.</p>"
        f"<h2>Scores</h2>{_table(cases, last)}"
        f"<h2>When to answer</h2><p>Answered questions against the threshold of confidence: the "
        f"further up and to the left, the better.</p>{_curve(cases)}"
        f"<h2>What went wrong</h2>{_wrong(cases)}</html>"
    )


def _median(cases: Sequence[Case]) -> float:
    return sorted(case.seconds for case in cases)[len(cases) // 2]


def _table(cases: Sequence[Case], last: dict[str, float]) -> str:
    ranges = intervals(cases)
    apart = scores([case for case in cases if case.golden.held_out])
    rows = "".join(
        f'<tr><td>{MEANING[name]}<td class="n">{value:.3f}<td class="n">{ranges[name][0]:.3f} to '
        f'{ranges[name][1]:.3f}<td class="n">{_number(apart.get(name))}<td class="n">'
        f"{f'{value - last[name]:+.3f}' if name in last else ''}"
        f'<td style="width:25%"><div class="bar" style="width:{value:.0%}"></div>'
        for name, value in scores(cases).items()
    )
    head = "<tr><th>Score<th>All<th>95 %<th>Held out<th>Change<th>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _curve(cases: Sequence[Case]) -> str:
    """Answerable questions that are answered, over unanswerable ones that are, as SVG."""
    points = sorted({(wrong, right) for _, right, wrong in curve(cases)})
    line = " ".join(f"{40 + x * SIZE:.1f},{10 + (1 - y) * SIZE:.1f}" for x, y in points)
    ticks = "".join(
        f'<text x="{40 + t * SIZE}" y="{SIZE + 28}" text-anchor="middle">{t:.0%}</text>'
        f'<text x="34" y="{15 + (1 - t) * SIZE}" text-anchor="end">{t:.0%}</text>'
        for t in (0, 0.5, 1)
    )
    return (
        f'<svg width="{SIZE + 60}" height="{SIZE + 60}" font-size="12" fill="currentColor" '
        'role="img" aria-label="Answerable questions answered over unanswerable ones answered">'
        f'<rect x="40" y="10" width="{SIZE}" height="{SIZE}" fill="none" stroke="#888"/>{ticks}'
        f'<polyline points="{line}" fill="none" stroke="#3b6fd4" stroke-width="2"/>'
        f'<text x="{40 + SIZE / 2}" y="{SIZE + 48}" text-anchor="middle">unanswerable ones '
        "answered</text></svg>"
    )


def _wrong(cases: Sequence[Case]) -> str:
    found = [(trouble, case) for case in cases if (trouble := _trouble(case))]
    items = "".join(
        f"<details><summary><b>{trouble}</b>: {escape(case.golden.question)}</summary>"
        f"<p>Expected: {escape(case.golden.answer or 'no answer')}"
        f"{f' ({escape(case.golden.document)})' if case.golden.document else ''}"
        f"<p>Said: {escape(case.answer)}</details>"
        for trouble, case in found
    )
    return f"<p>{len(found)} of {len(cases)} questions.</p>{items}"


def _trouble(case: Case) -> str:
    if not case.golden.answerable:
        return "answered without a source" if case.answered else ""
    if not case.rank:
        return "passage not found"
    if not case.answered:
        return "not answered"
    if not all(case.cited_right):
        return "cites another passage"
    return "" if case.right else "says something else"
