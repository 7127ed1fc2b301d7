"""How good are the answers? `python -m agent.evaluate [golden.jsonl] [--calibrate]`

Asks every golden question, prints the scores with 95 % intervals and what changed since the last
time, and writes `evaluation/report.html`. Ends with 1 when a score is below what EVALUATE_REQUIRE
asks for, or when a planted mistake goes unnoticed. Needs no model: answers are judged by their
facts and words; with one it is asked as well. Questions that are held out are reported apart.

`--calibrate` sets ENOUGH_TO_QUOTE, or with a model ENOUGH_TO_ASK, in app.env: to the lowest value
at which at most 2 % of the unanswerable questions that are not held out are answered.
"""

import argparse
import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agent import prompts
from agent.chain import Question, answer
from agent.errors import Refused, Unavailable
from agent.golden import FILE, Golden, load, spans
from agent.metrics import Case, intervals, planted, scores, threshold
from agent.report import page
from agent.services import Services, connect
from agent.settings import HERE, read

FOLDER = HERE / "evaluation"
ERROR = 0.02
"""Share of unanswerable questions that may be answered, for `--calibrate`."""
DATASET = "golden"
"""The data set in Langfuse."""


async def evaluate(services: Services, questions: Sequence[Golden]) -> list[Case]:
    """Ask all questions, one after the other; shows how far it is and how long it takes."""
    places = await spans(services, list(questions))
    cases = []
    with tqdm(total=len(questions), unit="question", file=sys.stdout) as bar:
        for golden, span in zip(questions, places, strict=True):
            cases.append(await _ask(services, golden, span))
            bar.update()
    return cases


async def _ask(services: Services, golden: Golden, span: tuple[int, int] | None) -> Case:
    began = time.monotonic()
    question = Question(golden.question, session_id="evaluation")
    data: dict[str, Any] = {}
    async for event in answer(services, question):
        data |= event.data
        if event.type == "error":
            raise Unavailable(event.data["detail"])
    case = Case(
        golden, span, data["passages"], data["answer"], data["answered"], data["citations"],
        data["checks"], data["confidence"], time.monotonic() - began, trace_id=data["trace_id"],
    )  # fmt: skip
    if services.model and case.answered and golden.answer:
        return replace(case, judged=await _judge(services, case))
    return case


async def _judge(services: Services, case: Case) -> bool | None:
    """What the model says of an answer; None when it says neither yes nor no."""
    text = prompts.JUDGE.format(
        question=case.golden.question, expected=case.golden.answer, answer=case.answer
    )
    assert services.model
    said = (await services.model.complete([{"role": "user", "content": text}])).strip().lower()
    return said.startswith("yes") if said.startswith(("yes", "no")) else None


def missed(required: str, found: dict[str, float]) -> list[str]:
    """Which of `hit5>=0.8 unanswerable_answered<=0.1` is not so, each as a sentence."""
    sentences = []
    for rule in required.split():
        match = re.fullmatch(r"(\w+)(>=|<=)([\d.]+)", rule)
        if not match:
            raise Refused(f"EVALUATE_REQUIRE: {rule!r} is not like hit5>=0.8; correct it.")
        name, sign, bound = match[1], match[2], float(match[3])
        if name in found and (found[name] < bound if sign == ">=" else found[name] > bound):
            sentences.append(f"{name} is {found[name]:.3f}, and {rule} is required.")
    return sentences


def _show(cases: Sequence[Case], last: dict[str, float]) -> None:
    held_out = [case for case in cases if case.golden.held_out]
    kept, ranges, apart = scores(cases), intervals(cases), scores(held_out)
    print(f"\n{'':24} {'all':>6}  {'95 %':^13} {'held out':>9}  since last time")
    for name, value in kept.items():
        low, high = ranges[name]
        change = f"{value - last[name]:+.3f}" if name in last else ""
        other = f"{apart[name]:9.3f}" if name in apart else " " * 9
        print(f"{name:24} {value:6.3f}  {low:.3f}-{high:.3f} {other}  {change}")


async def _to_langfuse(services: Services, cases: Sequence[Case], run: str) -> str:
    """The data set, this run and its scores; gives a sentence on what became of it."""
    post = services.tracing.post
    await post("v2/datasets", {"name": DATASET})
    for case in cases:
        item = hashlib.sha256(case.golden.question.encode()).hexdigest()[:32]
        expected = {"answer": case.golden.answer, "quote": case.golden.quote}
        await post(
            "dataset-items",
            {
                "datasetName": DATASET,
                "id": item,
                "input": case.golden.question,
                "expectedOutput": expected,
            },
        )
        if case.trace_id:
            await post(
                "dataset-run-items",
                {"runName": run, "datasetItemId": item, "traceId": case.trace_id},
            )
            for name, value in scores([case]).items():
                await post("scores", {"traceId": case.trace_id, "name": name, "value": value})
    return f"The data set {DATASET!r} and the scores of run {run!r} are in Langfuse."


def calibrate(services: Services, cases: Sequence[Case]) -> str:
    """Write the threshold into app.env; gives the line that was written."""
    tuned = [case for case in cases if not case.golden.held_out]
    name = "ENOUGH_TO_ASK" if services.model else "ENOUGH_TO_QUOTE"
    line = f'{name}="{threshold(tuned, ERROR):.3f}"'
    path = HERE / "app.env"
    others = [known for known in path.read_text().splitlines() if not known.startswith(f"{name}=")]
    path.write_text("\n".join([*others, line]) + "\n")
    return line


async def _main(golden: Path, calibrating: bool) -> int:
    try:
        FOLDER.mkdir(exist_ok=True)  # before all is asked, and not after
    except OSError as error:
        print(f"No report can be written here ({error}); evaluate in a clone of the repository.")
        return 2
    services = connect(read())
    try:
        await services.store.tend()
        cases = await evaluate(services, load(golden))
        return await _report(services, cases, calibrating)
    except (Refused, Unavailable) as error:
        print(error)
        return 2
    finally:
        await services.close()


async def _report(services: Services, cases: Sequence[Case], calibrating: bool) -> int:
    latest = FOLDER / "latest.json"
    last = json.loads(latest.read_text())["scores"] if latest.exists() else {}
    found, noticed = scores(cases), planted(cases)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _show(cases, last)
    print(f"planted mistakes noticed {sum(noticed.values())} of {len(noticed)}")
    model = services.model.used if services.model else "none (the documents are quoted)"
    (FOLDER / "report.html").write_text(page(cases, last, model, now))
    latest.write_text(json.dumps({"date": now, "model": model, "scores": found}, indent=2))
    print(f"Report: {FOLDER / 'report.html'}")
    if calibrating:
        print(f"app.env: {calibrate(services, cases)}")
    if services.tracing.on:
        try:
            print(await _to_langfuse(services, cases, now))
        except ConnectionError as error:
            print(error)
    wrong = missed(services.settings.evaluate_require, found)
    wrong += [
        f"A planted mistake goes unnoticed by {name}." for name, ok in noticed.items() if not ok
    ]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.evaluate",
        description="Asks every golden question; ends with 1 below EVALUATE_REQUIRE.",
    )
    parser.add_argument("golden", nargs="?", type=Path, default=FILE, help="JSONL or CSV")
    parser.add_argument("--calibrate", action="store_true", help="set the threshold in app.env")
    given = parser.parse_args()
    sys.exit(asyncio.run(_main(given.golden, given.calibrate)))
