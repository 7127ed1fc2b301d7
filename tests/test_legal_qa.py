"""examples/legal-qa: its scores, its gate, its data set, and how it stops and goes on."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts import litellm
from tests.doubles.gateway import Gateway
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import rendered
from tests.rendering import ROOT

sys.path.insert(0, str(ROOT / "examples" / "legal-qa"))
import asking
import dataset
import gate
import life
import plan as plans
import questions
import report
import scores
from dataset import Example
from questions import Question

QUOTE = "The annual rent is 48,000 pounds, payable in equal monthly instalments in advance."
SAVED = {} if not report.SAVED.exists() else json.loads(report.SAVED.read_text())


@pytest.fixture(scope="module")
def app() -> Path:
    return rendered()


def answer(number: int, said: str, cites: str = "", document: str = "lease.pdf") -> dict[str, Any]:
    """A row as asking.py keeps it."""
    return {
        "question": f"question {number}", "expected": "48,000 pounds" if document else "",
        "document": document, "quote": QUOTE if document else "", "said": said,
        "answered": True, "asks_back": False,
        "citations": [{"document": "lease.pdf", "quote": cites}] if cites else [],
        "tokens": {"input": 100, "output": 10}, "trace_id": "", "readers": 4, "seconds": 0.5,
    }  # fmt: skip


def answers(can: str, cannot: str, cites: str = QUOTE) -> list[dict[str, Any]]:
    """60 rows: 40 that a document answers, 20 that nothing does."""
    return [answer(n, can, cites if can != scores.UNKNOWN else "") for n in range(40)] + [
        answer(n, cannot, document="") for n in range(40, 60)
    ]


@pytest.mark.parametrize(
    ("row", "score"),
    [
        (answer(1, "48,000 pounds [1]"), 1.0),
        (answer(1, QUOTE), 1.0),
        (answer(1, "The rent is 48,000 euros."), 0.5),  # 2 of its 5 words, 2 of the 3 wanted
        (answer(1, "Ask the landlord."), 0.0),
        (answer(1, scores.UNKNOWN), 0.0),
        (answer(1, ""), 0.0),
        (answer(1, scores.UNKNOWN, document=""), 1.0),
        (answer(1, "48,000 pounds", document=""), 0.0),
    ],
)
def test_an_answer_is_scored_by_its_words_and_leaving_open_by_its_right(
    row: dict[str, Any], score: float
) -> None:
    assert scores.answer_score(row) == pytest.approx(score)


def test_what_counts_as_leaving_open_is_what_the_agent_asks_for(app: Path) -> None:
    tree = ast.parse((app / "agent" / "prompts.py").read_text())
    texts = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert texts["UNKNOWN"] == scores.UNKNOWN


def test_the_interval_holds_the_mean_and_narrows_with_more_questions() -> None:
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 200
    low, high = scores.interval(few)
    assert low < 0.5 < high
    closer = scores.interval(many)
    assert low < closer[0] < 0.5 < closer[1] < high
    assert scores.interval(few) == (low, high)  # the same each time


def test_percentiles_are_seconds_that_were_seen() -> None:
    assert [scores.percentile([3, 1, 2], share) for share in (0.0, 0.5, 0.95)] == [1, 2, 3]
    hundred, more = [*range(1, 101)], [*range(1, 211)]
    assert [scores.percentile(hundred, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert [scores.percentile(more, share) for share in (0.5, 0.95, 0.99)] == [105, 200, 208]


@pytest.mark.parametrize(
    ("name", "candidate", "word"),
    [
        ("one that leaves everything open", answers(scores.UNKNOWN, scores.UNKNOWN), "F1"),
        ("one that babbles", answers("the the of of", "the the of of"), "answer score"),
        ("one that cites wrongly", answers(QUOTE, scores.UNKNOWN, "Elsewhere."), "citations"),
        ("one that never leaves open", answers(QUOTE, "Yes."), "unanswerable"),
        ("the same one", answers("The rent is 9 pounds.", scores.UNKNOWN), "answer score"),
    ],
)
def test_the_gate_refuses(name: str, candidate: list[dict[str, Any]], word: str) -> None:
    base = answers("The rent is 9 pounds.", scores.UNKNOWN)
    decision = gate.decide(base, candidate)
    assert not decision.passed, name
    assert any(reason.startswith("no: ") and word in reason for reason in decision.reasons)


def test_the_gate_refuses_what_is_slow_and_what_was_asked_too_little() -> None:
    base, better = answers("Nine pounds.", "Yes."), answers(QUOTE, scores.UNKNOWN)
    slow = [row | {"seconds": 5.0} for row in better]
    assert [r for r in gate.decide(base, slow).reasons if r.startswith("no")] == [
        "no: p95 5.00 s against 0.50 s; at most 1.5 times it"
    ]
    few = gate.decide(base, better[: gate.FEWEST - 1])
    assert (few.passed, few.reasons) == (False, ["no: 39 questions in common, and 40 are needed"])


def test_the_gate_lets_a_better_one_through() -> None:
    decision = gate.decide(answers("Nine pounds.", "Yes."), answers(QUOTE, scores.UNKNOWN))
    assert decision.passed
    assert decision.gain_low > 0.5


def test_no_document_stands_on_both_sides_of_the_split(app: Path) -> None:
    plan = plans.Plan()
    learn, held = questions.split(questions.load(app), plan)
    ours = {question.document for question in learn if question.answerable}
    theirs = {question.document for question in held if question.answerable}
    assert ours
    assert theirs
    assert not ours & theirs
    assert not {q.text for q in learn} & {q.text for q in held}
    assert len(held) == plan.answerable + plan.unanswerable >= 200


def test_no_question_to_learn_from_names_who_is_in_a_held_out_document(app: Path) -> None:
    learn, held = questions.split(questions.load(app), plans.Plan())
    assert sum(not question.answerable for question in learn) >= 40
    for name in ("Orchard", "Halden", "Lumen", "Parcelwise", "PawLedger", "Orrery", "Wrenfield"):
        assert any(name in question.text for question in held), name
        assert not [question.text for question in learn if name in question.text]


@pytest.fixture(scope="module")
def silent_model(tmp_path_factory: pytest.TempPathFactory, app: Path) -> Iterator[Any]:
    """A running agent whose model can be told to fail, and that model's double."""
    double = Gateway(models=["silent"], reply="-")
    folder = tmp_path_factory.mktemp("agent")
    with running(double.app) as url:
        gateway: Any = litellm.Model(f"{url}/v1", double.key, "silent")
        with asking.started(app, folder, plans.Plan(), gateway, "silent", {}) as agent:
            yield agent, double


@pytest.mark.long
def test_answers_of_a_model_that_is_away_are_not_taken_for_its_own(
    silent_model: Any, tmp_path: Path
) -> None:
    """The agent falls back on quoting, which would give a silent model a good score."""
    agent, double = silent_model
    plan, asks = plans.Plan(), [Question("What is the salary of Imogen Castellane at Marlowe?")]
    double.fail = "500"
    with pytest.raises(RuntimeError, match=r"The model did not answer .What is the salary"):
        asking.ask_all(agent, asks, tmp_path / "answers.jsonl", plan, "Away")
    assert asking.read(tmp_path / "answers.jsonl") == []
    double.fail = None
    (row,) = asking.ask_all(agent, asks, tmp_path / "answers.jsonl", plan, "Back again")
    assert row["said"].startswith("-")


def test_no_gpu_has_the_price_of_another() -> None:
    prices = json.loads((report.HERE / "prices.json").read_text())["usd_per_hour"]
    assert report.rented(prices, "CPU")["price"] == prices["CPU"]["price"]
    assert report.rented(prices, "NVIDIA A10G")["price"] == prices["A10G"]["price"]
    other = report.rented(prices, "NVIDIA H100 80GB HBM3")
    assert other["price"] is None
    assert "H100" in report._dollars(other)


def prompt(*texts: str) -> list[dict[str, str]]:
    passages = "\n\n".join(f"[{n}] lease.pdf, page 1\n{text}" for n, text in enumerate(texts, 1))
    return [{"role": "user", "content": f"Passages:\n\n{passages}\n\nQuestion: what?"}]


def test_the_target_cites_the_passage_that_holds_the_quote_or_leaves_open() -> None:
    question = Question("What is the rent?", "48,000 pounds", "lease.pdf", QUOTE)
    assert dataset.target(question, prompt("No dogs.", QUOTE.upper())) == f"{QUOTE} [2]"
    assert dataset.target(question, prompt("No dogs.")) == scores.UNKNOWN
    assert dataset.target(Question("Who?"), prompt(QUOTE)) == scores.UNKNOWN


HELD = [
    Question("How much is held?", "one", "other.pdf", "The deposit of one month is held in trust.")
]
GOOD = Example(prompt("No dogs."), scores.UNKNOWN, "Are dogs allowed?", plans.TRAIN_ON[0])


@pytest.mark.parametrize(
    ("example", "word"),
    [
        (replace(GOOD, answer=" "), "empty answer"),
        (replace(GOOD, question=HELD[0].text.upper()), "held-out question too"),
        (replace(GOOD, document="other.pdf"), "which is held out"),
        (replace(GOOD, prompt=prompt(HELD[0].quote)), "holds the answer to the held-out question"),
    ],
)
def test_what_leaks_is_said_and_what_to_do(example: Example, word: str) -> None:
    assert dataset.troubles([GOOD], HELD) == []
    (said,) = dataset.troubles([GOOD, example], HELD)
    assert word in said
    assert ": " in said


def test_nothing_to_learn_from_is_said() -> None:
    assert "no example" in dataset.troubles([], HELD)[0]


def test_a_small_model_is_not_shown_too_much_that_is_left_open() -> None:
    answered = replace(GOOD, answer=QUOTE)
    kept = dataset.balanced([GOOD] * 10 + [answered] * 10, 0.35)
    assert [e.answer == scores.UNKNOWN for e in kept].count(True) == 3
    assert kept.count(answered) == 10


def test_an_answer_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question": "one"}\n{"question": "tw')
    assert asking.read(file) == [{"question": "one"}]
    assert file.read_text() == '{"question": "one"}\n'


class Steps:
    """Steps that note when they were done; the second can be stopped in its middle."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stops = False

    def first(self, life: Any, folder: Path) -> None:
        """The first."""
        self.done.append("first")
        (folder / "result").write_text("1")

    def second(self, life: Any, folder: Path) -> None:
        """The second."""
        half = folder / "half"
        self.done.append("second, again" if half.exists() else "second")
        half.write_text("")
        if self.stops:
            raise KeyboardInterrupt


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    monkeypatch.setattr(life, "STEPS", {"first": steps.first, "second": steps.second})
    return steps


class Some:
    """As much of a Life as `run` needs."""

    def __init__(self, work: Path) -> None:
        self.plan, self.work = plans.Plan(), work


def test_a_life_that_was_stopped_goes_on_where_it_was(tmp_path: Path, steps: Steps) -> None:
    some: Any = Some(tmp_path)
    steps.stops = True
    with pytest.raises(KeyboardInterrupt):
        life.run(some)
    steps.stops = False
    life.run(some)
    life.run(some)
    assert steps.done == ["first", "second", "second, again"]


def test_what_was_made_of_something_else_is_made_anew_and_all_after_it(
    tmp_path: Path, steps: Steps
) -> None:
    some: Any = Some(tmp_path)
    life.run(some)
    some.plan = replace(some.plan, rank=8)
    life.run(some)
    assert steps.done == ["first", "second", "first", "second"]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does, there is room."""
    monkeypatch.setenv("WORK", str(tmp_path))
    monkeypatch.setattr(life, "FREE_GIB", 0)
    monkeypatch.setattr(life, "MEMORY_GIB", 0)
    for name in ("LANGFUSE_HOST", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)


def said(plan: plans.Plan) -> str:
    with pytest.raises(RuntimeError) as error:
        life.check(plan)
    return str(error.value)


def test_what_would_fail_later_is_said_at_once(room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    life.check(plans.Plan())
    if not plans.Plan().on_gpu:
        assert said(plans.Plan(model="some/model")).startswith("There is no GPU here for some/mod")
    monkeypatch.setattr(life, "MEMORY_GIB", 10**6)
    assert "GiB of memory are free, and 1000000 are needed" in said(plans.Plan())
    monkeypatch.setattr(life, "FREE_GIB", 10**9)
    assert "make room, or set WORK" in said(plans.Plan())


def test_a_langfuse_that_is_away_or_refuses_its_keys_is_said_at_once(
    room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-wrong")
    assert "wants both" in said(plans.Plan())
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-wrong")
    monkeypatch.setenv("LANGFUSE_HOST", "http://127.0.0.1:9")
    assert "does not answer" in said(plans.Plan())
    with running(Gateway().app) as url:
        monkeypatch.setenv("LANGFUSE_HOST", url)
        assert f"At {url} is no Langfuse" in said(plans.Plan())
    with running(Langfuse().app) as url:
        monkeypatch.setenv("LANGFUSE_HOST", url)
        assert "does not know these keys" in said(plans.Plan())
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-double")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-double")
        life.check(plans.Plan())


def test_a_prompt_is_read_from_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Langfuse gives it: the trace first, its parts later. Where the agent answered by itself
    there is nothing to read."""
    wanted: list[str] = []

    def trace(request: httpx.Request) -> httpx.Response:
        wanted.append(request.url.path.rpartition("/")[2])
        seen: Sequence[dict[str, Any]] = [{"type": "SPAN", "name": "retrieve", "input": "x"}]
        if len(wanted) == 1:
            return httpx.Response(404)
        if len(wanted) > 2:
            seen = [*seen, {"type": "GENERATION", "name": "answer", "input": prompt(QUOTE)}]
        return httpx.Response(200, json={"observations": seen})

    monkeypatch.setattr(dataset.time, "sleep", lambda _: None)
    http = httpx.Client(transport=httpx.MockTransport(trace), base_url="http://langfuse")
    rows = [
        {"question": "What is the rent?", "trace_id": "asked", "tokens": {"output": 9}},
        {"question": "Who?", "trace_id": "no", "tokens": {"output": 0}},
    ]
    known = [Question("What is the rent?", "48,000", "lease.pdf", QUOTE), Question("Who?")]
    (example,) = dataset.from_traces(http, rows, known)
    assert (example.answer, example.prompt) == (f"{QUOTE} [1]", prompt(QUOTE))
    assert wanted == ["asked"] * 3


def test_a_trace_that_never_comes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "LATE_S", 0)
    monkeypatch.setattr(dataset.time, "sleep", lambda _: None)
    lost = httpx.MockTransport(lambda _: httpx.Response(404))
    http = httpx.Client(transport=lost, base_url="http://langfuse")
    row = {"question": "Who?", "trace_id": "gone", "tokens": {"output": 1}}
    with pytest.raises(RuntimeError, match="does not hold all of trace gone after 0 s"):
        dataset.from_traces(http, [row], [Question("Who?")])


def test_examples_are_kept_in_the_format_of_prompt_and_completion(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    dataset.write([GOOD], file)
    assert dataset.read(file) == [GOOD]
    assert set(json.loads(file.read_text())) == {"prompt", "completion", "question", "document"}


def test_the_page_quotes_the_saved_report() -> None:
    page = report.PAGE.read_text()
    assert report.with_tables(page, report.as_markdown(SAVED)) == page


def test_the_saved_report_says_what_it_must() -> None:
    figures = SAVED["figures"]
    assert figures["gate_refused_broken"]
    assert figures["base_low"] <= figures["base_score"] <= figures["base_high"]
    assert figures["tuned_low"] <= figures["tuned_score"] <= figures["tuned_high"]
    assert figures["passes"]["base"]["questions"] >= 200
    assert not figures["gate_passed_tuned"] or figures["rolled_back"]["same"]
    wanted = (
        "metric base_p50_s tuned_p50_s base_cost_per_1000 tuned_cost_per_1000 notebooks_s "
        "lifecycle_s hardware"
    )
    assert all(figures[name] for name in wanted.split())
    assert len(SAVED["date"]) == 10
    assert "legal-qa" in SAVED["command"]
    assert SAVED["machine"]
