"""The scores, the planted mistakes, the report, and the command as an owner runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from world import LEASE, FakeGateway, take_in

from agent import evaluate as command
from agent.errors import Refused
from agent.evaluate import _report, calibrate, evaluate, missed
from agent.golden import Golden
from agent.metrics import Case, curve, intervals, planted, scores, threshold
from agent.report import page
from agent.services import Services

pytestmark = pytest.mark.anyio

RENT = Golden("What is the monthly rent?", "1,250 pounds", "lease.md", "rent is 1,250 pounds")
CUP = Golden("Who won the cup?", held_out=True)
PLACE = {"document": "lease.md", "start": 100, "end": 160}


def case(golden: Golden = RENT, answered: bool = True, confidence: float = 0.9) -> Case:
    return Case(
        golden=golden,
        span=(110, 130) if golden.answerable else None,
        passages=[PLACE | {"text": "..."}],
        answer="It is 1,250 pounds [1].",
        answered=answered,
        citations=[PLACE] if answered else [],
        checks=[{"status": "supported"}],
        confidence=confidence,
        seconds=0.1,
    )


def test_good_answers_score_well() -> None:
    found = scores([case(), case(CUP, answered=False, confidence=0.1)])

    good = ("hit1", "hit3", "hit5", "answered", "citation_precision", "right")
    assert {name: found[name] for name in good} == dict.fromkeys(good, 1.0)
    assert found["unanswerable_answered"] == found["refuted"] == 0


@pytest.mark.parametrize(
    ("spoilt", "score"),
    [
        (replace(case(), passages=[]), "hit5"),
        (replace(case(), passages=[PLACE | {"document": "other.md"}]), "hit5"),
        (replace(case(), passages=[PLACE | {"start": 500, "end": 600}]), "hit5"),
        (replace(case(), answered=False), "answered"),
        (replace(case(), citations=[PLACE | {"start": 0, "end": 50}]), "citation_precision"),
        (replace(case(), citations=[]), "citation_precision"),
        (replace(case(), answer="It is 1,350 pounds [1]."), "right"),
        (replace(case(), answer="It is not known."), "right"),
        (replace(case(), judged=False), "right"),
    ],
)
def test_each_score_notices_the_mistake_it_is_for(spoilt: Case, score: str) -> None:
    assert scores([spoilt])[score] == 0


def test_an_unanswerable_question_that_is_answered_counts_twice() -> None:
    found = scores([case(CUP)])

    assert found["unanswerable_answered"] == 1
    assert found["citation_precision"] == 0


def test_planted_mistakes_are_noticed_also_where_all_was_well_or_all_was_bad() -> None:
    cases = [case(), case(CUP, answered=False)]

    assert set(planted(cases).values()) == {True}
    assert "citation_precision" in planted(cases)


def test_the_threshold_is_the_lowest_that_lets_few_enough_through() -> None:
    cases = [case(confidence=c) for c in (0.9, 0.6, 0.4)]
    cases += [case(CUP, confidence=c) for c in (0.5, 0.2)]

    assert threshold(cases, 0.0) == 0.6
    assert threshold(cases, 0.5) == 0.4
    assert curve(cases)[0] == (0.0, 1.0, 1.0)
    answered = [share for _, share, _ in curve(cases)]
    assert answered == sorted(answered, reverse=True)


def test_intervals_hold_the_score() -> None:
    cases = [case(), replace(case(), passages=[])] * 10

    low, high = intervals(cases)["hit5"]

    assert low < 0.5 < high


def test_the_report_shows_what_went_wrong_and_nothing_as_markup() -> None:
    bad = replace(case(), answer="<script>alert(1)</script>", passages=[])

    html = page([bad, case(CUP)], {"hit5": 1.0}, "model <m>", "today")

    assert "passage not found" in html
    assert "answered without a source" in html
    assert "-1.000" in html
    assert "<script>" not in html
    assert "<svg" in html


def test_requirements_are_said_in_sentences_and_refused_when_misspelt() -> None:
    assert missed("hit5>=0.8 answered<=0.5", {"hit5": 0.9, "answered": 0.4}) == []
    (sentence,) = missed("hit5>=0.8", {"hit5": 0.7})
    assert sentence == "hit5 is 0.700, and hit5>=0.8 is required."
    with pytest.raises(Refused, match="is not like"):
        missed("hit5>0.8", {})


async def test_the_command_asks_reports_and_compares(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    (tmp_path / "evaluation").mkdir()
    monkeypatch.setattr(command, "FOLDER", tmp_path / "evaluation")

    cases = await evaluate(services, [RENT, CUP])
    first = await _report(services, cases, calibrating=False)
    second = await _report(services, cases, calibrating=False)

    assert first == second == 0
    kept = json.loads((tmp_path / "evaluation/latest.json").read_text())
    assert kept["scores"]["hit5"] == 1
    assert "Evaluation" in (tmp_path / "evaluation/report.html").read_text()
    shown = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "planted mistakes noticed" in shown
    assert "+0.000" in shown


async def test_a_bound_that_is_missed_ends_with_1(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    (tmp_path / "evaluation").mkdir()
    monkeypatch.setattr(command, "FOLDER", tmp_path / "evaluation")
    strict = services.settings.model_copy(update={"evaluate_require": "answered>=1.1"})

    cases = await evaluate(services, [RENT])

    assert await _report(replace(services, settings=strict), cases, calibrating=False) == 1


async def test_a_place_where_nothing_can_be_written_is_said_before_all_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "FOLDER", tmp_path / "file" / "evaluation")

    assert await command._main(tmp_path / "golden.jsonl", calibrating=False) == 2
    assert "evaluate in a clone of the repository" in capsys.readouterr().out


async def test_a_model_is_asked_to_judge(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue("The monthly rent is 1,250 pounds [1].", "No, it does not.")

    (found,) = await evaluate(with_model, [RENT])

    assert found.judged is False
    assert not found.right
    assert "Right answer: 1,250 pounds" in gateway.chats()[-1]["messages"][0]["content"]


def test_calibrating_writes_one_line_and_keeps_the_others(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "HERE", tmp_path)
    (tmp_path / "app.env").write_text('# mine\nAPP_NAME="a"\nENOUGH_TO_QUOTE="0.9"\n')
    cases = [case(confidence=0.7), case(replace(CUP, held_out=False), confidence=0.3)]

    calibrate(services, cases)

    text = (tmp_path / "app.env").read_text()
    assert text == '# mine\nAPP_NAME="a"\nENOUGH_TO_QUOTE="0.700"\n'
