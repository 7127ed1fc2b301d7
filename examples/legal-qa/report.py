"""The report of a run: figures, tables and plots, all of it computed from what the steps kept."""

from __future__ import annotations

import html
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asking
from plan import ROOT, Plan
from scores import Row, answer_score, interval, summary

sys.path.insert(0, str(ROOT / "benchmarks"))
from results import machine

HERE = Path(__file__).resolve().parent
SAVED = ROOT / "benchmarks" / "results" / "lifecycle.json"
NOTEBOOKS = ROOT / "benchmarks" / "results" / "notebooks.json"
PAGE = ROOT / "docs" / "examples" / "rag-agent-with-fine-tuning.md"
STATE = "state.json"
"""In each step's folder: what it was made of, its seconds, and whether it is done."""
PICTURES = ROOT / "docs" / "pictures"
METRIC = (
    "answer score: F1 of the words against the golden answer or quote, 1 for rightly leaving open"
)
NAMES = {
    "answer_score": "answer score (what the gate compares)",
    "f1": "F1 where a document answers",
    "exact_match": "exact match where a document answers",
    "cited": "answers with a citation, where a document answers",
    "citation_precision": "citations that point at the golden quote",
    "abstained_rightly": "left open, where nothing answers",
    "abstained_wrongly": "left open, where a document answers",
    "p50_s": "p50, seconds",
    "p95_s": "p95, seconds",
    "p99_s": "p99, seconds",
    "answers_per_s": "answers a second",
    "input_tokens": "tokens read, each answer",
    "output_tokens": "tokens written, each answer",
    "cost_per_1000": "dollars for 1,000 answers",
}


def usual_seconds() -> dict[str, float]:
    """How long each step took when the figures were last saved."""
    if not SAVED.exists():
        return {}
    return dict(json.loads(SAVED.read_text())["figures"].get("steps_s", {}))


def write(plan: Plan, steps: Sequence[str], save: bool) -> None:
    """Print the tables, and write report/report.html, lifecycle.json and the plots."""
    folder = plan.work / "report"
    folder.mkdir(exist_ok=True)
    found = figures(plan, steps)
    last = json.loads((plan.work / steps[-1] / STATE).read_text())  # not today: it was kept
    record = {
        "date": last["date"],
        "command": f"make legal-qa {'QUICK' if plan.quick else 'SAVE'}=1"
        + (f" MODEL={plan.model}" if plan.model else ""),
        "machine": last["machine"],
        "figures": found,
    }
    (folder / "lifecycle.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    plots = draw(plan, folder)
    tables = as_markdown(record)
    (folder / "report.html").write_text(_page(tables, plots))
    print(f"\n{tables}\nThe report: {folder / 'report.html'}")
    if save:
        shutil.copy(folder / "lifecycle.json", SAVED)
        for plot in plots:
            shutil.copy(plot, PICTURES / plot.name)
        PAGE.write_text(with_tables(PAGE.read_text(), tables))


def figures(plan: Plan, steps: Sequence[str]) -> dict[str, Any]:
    rows = passes(plan)
    decisions = json.loads((plan.work / "gate" / "decisions.json").read_text())
    measured = json.loads((plan.work / "tuned" / "measured.json").read_text())
    prices = json.loads((HERE / "prices.json").read_text())
    rent = rented(prices["usd_per_hour"], measured["hardware"])
    scores = {name: _rounded(summary(some), rent["price"]) for name, some in rows.items()}
    low_high = {name: interval([answer_score(row) for row in some]) for name, some in rows.items()}
    seconds = {
        name: json.loads((plan.work / name / STATE).read_text())["seconds"] for name in steps
    }
    back = plan.work / "deployed" / "rolled-back.json"
    notebooks = json.loads(NOTEBOOKS.read_text())["figures"] if NOTEBOOKS.exists() else {}
    return {
        "metric": METRIC,
        "base_score": scores["base"]["answer_score"],
        "tuned_score": scores["tuned"]["answer_score"],
        "base_low": round(low_high["base"][0], 4),
        "base_high": round(low_high["base"][1], 4),
        "tuned_low": round(low_high["tuned"][0], 4),
        "tuned_high": round(low_high["tuned"][1], 4),
        "base_p50_s": scores["base"]["p50_s"],
        "tuned_p50_s": scores["tuned"]["p50_s"],
        "base_cost_per_1000": scores["base"]["cost_per_1000"],
        "tuned_cost_per_1000": scores["tuned"]["cost_per_1000"],
        "gate_refused_broken": not decisions["broken"]["passed"],
        "gate_passed_tuned": decisions["candidate"]["passed"],
        "notebooks_s": notebooks.get("notebooks_s"),
        "lifecycle_s": round(sum(seconds.values())),
        "hardware": machine() if measured["hardware"] == "CPU" else measured["hardware"],
        "model": plan.model or "SmolLM2-135M-Instruct",
        "readers": plan.at_once,
        "price": {"date": prices["date"], "source": prices["source"], **rent},
        "steps_s": seconds,
        "training": {
            **json.loads((plan.work / "examples" / "statistics.json").read_text()),
            "steps": measured["steps"],
            "seconds": round(measured["seconds"]),
            "trained_parameters": measured["trained_parameters"],
            "by": measured["by"],
        },
        "gate": {name: said["reasons"] for name, said in decisions.items()},
        "passes": scores,
        "rolled_back": json.loads(back.read_text()) if back.exists() else None,
    }


def rented(prices: dict[str, Any], hardware: str) -> dict[str, Any]:
    """The price of the hardware that was measured; no GPU's price is another's."""
    for name, row in prices.items():
        if name in hardware:
            return dict(row)
    return {"price": None, "what": f"{hardware}, which prices.json does not hold"}


def passes(plan: Plan) -> dict[str, list[Row]]:
    """The answers of each pass over the held-out questions."""
    files = {
        "base": "baseline/answers.jsonl",
        "tuned": "gate/candidate.jsonl",
        "broken": "gate/broken.jsonl",
        "after the move": "deployed/after.jsonl",
    }
    found = {name: asking.read(plan.work / file) for name, file in files.items()}
    return {name: rows for name, rows in found.items() if rows}


def _rounded(values: dict[str, float], dollars_per_hour: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {name: round(value, 4) for name, value in values.items()}
    hours = 1000 / values["answers_per_s"] / 3600
    dollars = None if dollars_per_hour is None else round(hours * dollars_per_hour, 4)
    return found | {"cost_per_1000": dollars}


def as_markdown(record: dict[str, Any]) -> str:
    f = record["figures"]
    names = [*f["passes"]]
    asked = " · ".join(f"{name} {f['passes'][name]['questions']:.0f}" for name in names)
    lines = [
        f"By `{record['command']}`, {record['date']}, on {f['hardware']}. Model: {f['model']}, "
        f"tuned by {f['training']['by']}. {f['readers']} readers ask at the same time. "
        f"Questions asked: {asked}.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for key, name in NAMES.items():
        values = [f["passes"][column][key] for column in names]
        cells = ["not known" if value is None else f"{value:.3g}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"95 % interval of the answer score: base {f['base_low']:.3f} to {f['base_high']:.3f}, "
        f"tuned {f['tuned_low']:.3f} to {f['tuned_high']:.3f}. {_dollars(f['price'])}",
        "",
        "| the gate | tuned model | broken model |",
        "|---|---|---|",
    ]
    both = zip(f["gate"]["candidate"], f["gate"]["broken"], strict=False)
    lines += [f"| {number} | {a} | {b} |" for number, (a, b) in enumerate(both, 1)]
    t, back = f["training"], f["rolled_back"]
    said = "The gate refused, so nothing was deployed."
    if back:
        said = f"After the roll-back {back['same']} of {back['of']} answers were the base model's."
    lines += [
        "",
        said,
        "",
        "| step | seconds |",
        "|---|---|",
        *[f"| {name} | {seconds:.0f} |" for name, seconds in f["steps_s"].items()],
        f"| all | {f['lifecycle_s']} |",
        "",
        f"Training: {t['examples']:.0f} examples, {t['left_open']:.0f} of them to be left open, "
        f"{t['tokens']:.0f} tokens (p50 {t['tokens_p50']:.0f}, p95 {t['tokens_p95']:.0f}, longest "
        f"{t['tokens_max']:.0f}), {t['steps']} steps, {t['trained_parameters']:,} trained "
        f"parameters, {t['seconds']} s.",
        "",
    ]
    return "\n".join(lines)


def _dollars(rent: dict[str, Any]) -> str:
    if rent["price"] is None:
        return f"Dollars are not known for {rent['what']}."
    return (
        f"Dollars: the time that the machine above was busy, at {rent['price']} dollars an hour, "
        f"the price on {rent['date']} of {rent['what']} ([source]({rent['source']}))."
    )


BEGIN, END = "<!-- figures: made by make legal-qa SAVE=1 -->", "<!-- end of figures -->"


def with_tables(page: str, tables: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def draw(plan: Plan, folder: Path) -> list[Path]:
    """Plots as SVG: the loss, the scores with their intervals, and how long answers take."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "legal-qa"  # the same bytes for the same figures
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    made = []

    def keep(figure: Any, name: str) -> None:
        made.append(folder / f"legal-qa-{name}.svg")
        figure.savefig(made[-1], facecolor="white", metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)

    losses = json.loads((plan.work / "tuned" / "measured.json").read_text())["losses"]
    figure, axes = pyplot.subplots(figsize=(6, 2.6))
    axes.plot([int(step) for step in losses], [*losses.values()], color="#0f766e")
    axes.set(xlabel="step", ylabel="loss", title="Training")
    keep(figure, "loss")

    rows = passes(plan)
    figure, axes = pyplot.subplots(figsize=(6, 2.6))
    for place, (name, some) in enumerate(rows.items()):
        scores = [answer_score(row) for row in some]
        middle, (low, high) = sum(scores) / len(scores), interval(scores)
        color = "#0f766e" if name in ("tuned", "after the move") else "#94a3b8"
        axes.barh(place, middle, color=color, height=0.6)
        axes.plot([low, high], [place, place], color="#0f172a", linewidth=2)
    axes.set_yticks(range(len(rows)), [*rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="Answer score on held-out questions, with 95 % intervals")
    keep(figure, "scores")

    figure, axes = pyplot.subplots(figsize=(6, 2.6))
    for name in ("base", "tuned"):
        seconds = sorted(row["seconds"] for row in rows[name])
        share = [(n + 1) / len(seconds) for n in range(len(seconds))]
        axes.step(seconds, share, label=name, color="#0f766e" if name == "tuned" else "#94a3b8")
    axes.set(
        xlabel="seconds", ylabel="share of answers", title="How long an answer takes", ylim=(0, 1)
    )
    axes.legend(frameon=False)
    keep(figure, "latency")
    return made


def _page(tables: str, plots: Sequence[Path]) -> str:
    """The tables and plots as one HTML file that needs nothing else."""
    body = []
    for block in tables.split("\n\n"):
        if not block.startswith("|"):
            body.append(f"<p>{html.escape(block)}</p>")
            continue
        rows = [line.strip("|").split("|") for line in block.strip().splitlines()]
        cells = ["".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row) for row in rows]
        body.append(
            "<table>" + "".join(f"<tr>{c}</tr>" for n, c in enumerate(cells) if n != 1) + "</table>"
        )
    pictures = "".join("<svg" + plot.read_text().partition("<svg")[2] for plot in plots)
    style = (
        "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td{padding:.2rem .8rem;border-bottom:1px solid #ddd}"
        "svg{max-width:100%;height:auto;display:block;margin:1rem 0}"
    )
    head = f"<!doctype html><meta charset='utf-8'><title>legal-qa</title><style>{style}</style>"
    return f"{head}<h1>The life of a legal question-answering agent</h1>{''.join(body)}{pictures}"
