"""What is kept of a run, and how it is written down."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from world import PLENTY, TASKS, a_record

from agent.records import LONGEST_TEXT, Record, Spent, load, now

MOST_OF_NATS = 2**20
"""Bytes that a server takes in one message, as it comes."""


def test_a_record_is_the_same_after_it_was_written_and_read() -> None:
    record = a_record(approve=["research"], process="hierarchical", traceparent="00-1")
    record.outputs.append({"task": "research", "agent": "Researcher", "text": "Häuser\n🏠"})
    record.comments.append({"task": "research", "decision": "redo", "comment": "c", "by": "Ana"})
    record.asked = {"task": "research", "text": "t", "at": now()}
    record.spent.add(10, 5, 0.25)

    again = load(record.dump(), 7)

    assert again.revision == 7
    again.revision = record.revision
    assert again == record
    assert isinstance(again.budget, type(PLENTY))
    assert again.spent.tokens == 15


def test_the_revision_is_the_journals_and_not_in_the_record() -> None:
    assert "revision" not in json.loads(a_record(revision=3).dump())


def test_a_field_of_a_later_version_is_passed_over() -> None:
    told = json.loads(a_record().dump()) | {"mood": "good"}

    assert load(json.dumps(told), 1).topic == "Which heating?"


@pytest.mark.parametrize("part", ["budget", "spent"])
def test_so_is_one_of_its_budget_and_of_what_it_spent(part: str) -> None:
    told = json.loads(a_record().dump())
    told[part]["cached"] = 1

    assert load(json.dumps(told), 1).budget == PLENTY


def test_a_record_of_an_earlier_version_has_the_defaults_of_what_it_lacks() -> None:
    told = json.loads(a_record().dump())
    for name in ("comments", "traceparent", "worker"):
        del told[name]

    assert load(json.dumps(told), 1).comments == []


def test_what_no_utf_8_can_say_is_replaced() -> None:
    assert load(a_record(topic="half \ud800 a letter").dump(), 1).topic == "half ? a letter"


def test_dollars_stay_unknown_until_a_price_is_told() -> None:
    spent = Spent()
    spent.add(1, 2, None)
    assert (spent.steps, spent.tokens, spent.dollars) == (1, 3, None)

    spent.add(1, 2, 0.5)
    spent.add(1, 2, None)

    assert (spent.steps, spent.tokens, spent.dollars) == (3, 9, 0.5)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_run_does_not_leave_a_final_state(state: str) -> None:
    assert a_record(state=state).final


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
def test_a_run_goes_on_in_any_other(state: str) -> None:
    assert not a_record(state=state).final


def test_times_are_in_utc_and_can_be_compared_as_text() -> None:
    first, second = now(), now()

    assert first <= second
    assert first.endswith("+00:00")


@pytest.mark.parametrize("letter", ["a", "ü"])
def test_a_record_of_the_longest_outputs_fits_into_one_message(letter: str) -> None:
    text = letter * LONGEST_TEXT
    outputs = [{"task": task, "agent": "Somebody", "text": text} for task in TASKS]
    record = a_record(outputs=outputs, result=text)

    assert len(record.dump()) < MOST_OF_NATS


def test_two_records_never_share_an_id_or_a_list() -> None:
    first, second = a_record(), a_record()

    assert first.id != second.id
    assert len(first.id) == 32
    first.outputs.append({})
    assert second.outputs == []


def test_all_of_a_record_is_plain_json() -> None:
    told = asdict(Record("ana", "t", PLENTY))

    assert json.loads(json.dumps(told)) == told
