"""How a run is begun, followed, approved and stopped, whatever works on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from world import (
    ANA,
    BO,
    FakeModel,
    Journals,
    ask,
    ended,
    happened,
    in_state,
    kept,
    make_services,
    until,
    with_worker,
)

from agent import work
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.records import Budget
from agent.runs import Event
from agent.services import Services
from agent.work import CANCELLED, cancel, decide, follow, listed, record_of, told

pytestmark = pytest.mark.anyio
REVIEW = ("research",)


async def types(services: Services, run_id: str, count: int) -> list[str]:
    return [event.type for event in await happened(services.journal, run_id, count)]


# Begin


async def test_a_run_is_queued_and_says_so(services: Services) -> None:
    record = await ask(services, "  Which heating? \n", process="hierarchical", approve=REVIEW)

    there = await kept(services.journal, record.id)
    assert (there.topic, there.owner, there.door) == ("Which heating?", "ana", "api")
    assert (there.state, there.process, there.approve) == ("queued", "hierarchical", ["research"])
    assert there.budget == services.settings.budget
    (event,) = await happened(services.journal, record.id, 1)
    assert event == Event("state", {"state": "queued", "attempt": 0, "note": ""})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no topic": ({"topic": " \n "}, "A topic has 1 to 8,000 characters; this one has 0."),
    "a long topic": ({"topic": "x" * 8001}, "this one has 8,001."),
    "another process": ({"process": "parallel"}, "There is no process 'parallel'"),
    "an unknown task": ({"approve": ("research", "rest")}, "No task to approve is called 'rest'"),
    "the last task": ({"approve": ("edit",)}, "No task to approve is called 'edit'"),
    "an unknown budget": ({"budget": {"patience": 1}}, "There is no budget of 'patience'"),
    "a budget of none": ({"budget": {"steps": 0}}, "The budget of steps is more than 0"),
    "a negative budget": ({"budget": {"dollars": -1}}, "more than 0 and at most 2 here."),
    "too large a budget": ({"budget": {"seconds": 1801}}, "at most 1800 here."),
    "a budget that is no number": ({"budget": {"tokens": float("nan")}}, "more than 0"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_begun_is_refused_in_a_sentence(case: str, services: Services) -> None:
    wanted, sentence = REFUSED[case]

    with pytest.raises(Refused) as refusal:
        await ask(services, **wanted)

    assert sentence in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert refusal.value.status == 422
    assert await services.journal.counts() == {}


async def test_a_topic_may_be_as_long_as_the_settings_say(folder: Path, anyio_backend: str) -> None:
    services = await make_services(folder, max_topic_chars=10)

    await ask(services, "ü" * 10)
    with pytest.raises(Refused, match="1 to 10 characters"):
        await ask(services, "ü" * 11)

    await services.close()


async def test_a_budget_is_what_was_asked_for_and_the_settings_for_the_rest(
    services: Services,
) -> None:
    record = await ask(services, budget={"steps": 3, "dollars": 0.5})

    assert record.budget == Budget(3, 500_000, 0.5, 1800)


async def test_the_same_key_is_the_same_run_also_when_it_has_ended(services: Services) -> None:
    services.worker.start(services)
    first = await ask(services, key="k")
    done = await ended(services, first)
    before = len((await follow(services, first.id, ANA)).events)

    again = await ask(services, key="k")

    assert (again.id, again.state) == (first.id, "done")
    assert len((await follow(services, again.id, ANA)).events) == before
    assert (await kept(services.journal, first.id)).attempt == done.attempt == 1


async def test_a_key_that_was_used_for_something_else_is_409(services: Services) -> None:
    await ask(services, key="k")
    for other in ({"topic": "Another"}, {"process": "hierarchical"}):
        with pytest.raises(Refused, match="This key was used before") as refusal:
            await ask(services, key="k", **other)
        assert refusal.value.status == 409

    assert (await ask(services, "Another", key="k", user=BO)).topic == "Another"


async def test_the_limit_on_runs_is_kept_and_does_not_count_those_that_ended(
    folder: Path, model: FakeModel, anyio_backend: str
) -> None:
    go_on = asyncio.Event()
    model.enqueue(go_on, go_on)
    services = await make_services(folder, model, concurrent_runs=2)
    services.worker.start(services)
    records = [await ask(services) for _ in range(2)]

    with pytest.raises(Refused, match="limit of 2 answers") as refusal:
        await ask(services)
    await ask(services, user=BO)
    go_on.set()
    for record in records:
        await ended(services, record)
    await ask(services)

    assert refusal.value.status == 429
    assert refusal.value.retry_after_s
    await services.close()


async def test_the_same_key_again_is_no_further_run_for_the_limit(
    folder: Path, anyio_backend: str
) -> None:
    """A client that lost the answer asks again, and must learn the run's id."""
    services = await make_services(folder, concurrent_runs=1)
    first = await ask(services, key="k")

    assert (await ask(services, key="k")).id == first.id
    await services.close()


async def test_the_first_event_is_that_it_is_queued_however_slow_the_journal(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = services.journal.add

    async def slowly(run_id: str, event: Event) -> None:
        if event.data.get("state") == "queued":
            await asyncio.sleep(0.2)
        await add(run_id, event)

    monkeypatch.setattr(services.journal, "add", slowly)
    services.worker.start(services)
    record = await ask(services)
    await ended(services, record)

    states = [
        event.data["state"]
        for event in await happened(services.journal, record.id, 3)
        if event.type == "state"
    ]
    assert states == ["queued", "running"]


async def test_a_journal_that_is_away_is_told_and_no_run_is_promised(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("The runs cannot be kept.", "journal")

    monkeypatch.setattr(services.journal, "create", away)

    with pytest.raises(Unavailable):
        await ask(services)
    assert services.runs.running() == 0


# Follow


async def test_a_run_is_followed_to_its_end_by_all_who_want(services: Services) -> None:
    services.worker.start(services)
    record = await ask(services)

    first, second = [await follow(services, record.id, ANA) for _ in range(2)]
    last = await first.wait(8)

    assert first is second
    assert last and last.type == "done"
    assert first.events[0].data["state"] == "queued"
    async with asyncio.timeout(5):
        journal = [event async for event in services.journal.events(record.id)]
    assert first.events == journal


async def test_a_run_of_somebody_else_is_not_to_be_told_from_none(services: Services) -> None:
    record = await ask(services)
    sentences = set()

    for run_id, user in ((record.id, BO), (record.id, User()), ("0" * 32, ANA), ("x" * 999, ANA)):
        for do in (follow, cancel, record_of):
            with pytest.raises(Refused) as refusal:
                await do(services, run_id, user)
            assert refusal.value.status == 404
            sentences.add(str(refusal.value).replace(run_id[:64], "ID"))
        with pytest.raises(Refused) as refusal:
            await decide(services, run_id, user, "approve")
        assert refusal.value.status == 404

    assert sentences == {"There is no run 'ID', or it is too long ago."}
    assert (await kept(services.journal, record.id)).state == "queued"


async def test_a_run_of_before_the_restart_is_followed_from_its_beginning(
    folder: Path, model: FakeModel, anyio_backend: str
) -> None:
    services = await make_services(folder, model)
    services.worker.start(services)
    record = await ask(services)
    await ended(services, record)
    events = (await follow(services, record.id, ANA)).events
    await services.close()

    services = await make_services(folder, model)
    run = await follow(services, record.id, ANA)

    assert await run.wait(5)
    assert run.events == events
    await services.close()


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_a_run_whose_last_event_was_never_told_is_followed_to_its_end(
    state: str, services: Services
) -> None:
    """Its process ended between writing the record and telling of it."""
    record = await ask(services)
    record.state, record.result, record.error = state, "# Report", "It failed."
    await services.journal.write(record)
    services.worker.start(services)
    services.runs._runs.clear()  # as in a process that has just started

    last = await (await follow(services, record.id, ANA)).wait(4)

    assert last
    assert last.type == ("done" if state == "done" else "error")


async def test_a_run_is_followed_on_when_the_journal_is_back(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PAUSE_S", 0.05)
    events, failed = services.journal.events, []

    async def once_away(run_id: str) -> Any:
        number = 0
        async for event in events(run_id):
            yield event
            number += 1
            if number == 2 and len(failed) < 3:
                failed.append(number)
                raise Unavailable("NATS is away.")

    monkeypatch.setattr(services.journal, "events", once_away)
    services.worker.start(services)
    record = await ask(services)

    run = await follow(services, record.id, ANA)
    assert await run.wait(8)

    assert failed
    async with asyncio.timeout(5):
        assert run.events == [event async for event in events(record.id)]


# Cancel


async def test_a_queued_run_is_cancelled_and_never_begun(
    with_model: Services, model: FakeModel
) -> None:
    record = await ask(with_model)

    cancelled = await cancel(with_model, record.id, ANA)
    with_model.worker.start(with_model)
    await asyncio.sleep(0.3)

    assert (cancelled.state, cancelled.error) == ("cancelled", CANCELLED)
    assert model.asked == []
    assert (await kept(with_model.journal, record.id)).attempt == 0
    run = await follow(with_model, record.id, ANA)
    last = await run.wait(2)
    assert last
    assert (last.type, last.data["state"]) == ("error", "cancelled")


async def test_a_running_run_is_cancelled_in_the_middle_of_a_call(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("Notes.", asyncio.Event())
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: len(model.asked) == 2)

    await cancel(with_model, record.id, ANA)

    done = await ended(with_model, record)
    assert (done.state, [output["task"] for output in done.outputs]) == ("cancelled", ["research"])
    await until(lambda: model.stopped == 1, 2)
    assert len(model.asked) == 2


async def test_a_waiting_run_is_cancelled_and_can_be_approved_no_more(
    with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    record = await ask(with_model, approve=REVIEW)
    await in_state(with_model, record, "waiting")

    cancelled = await cancel(with_model, record.id, ANA)

    assert (cancelled.state, cancelled.asked) == ("cancelled", None)
    with pytest.raises(Refused, match="waits for nobody: it is cancelled") as refusal:
        await decide(with_model, record.id, ANA, "approve")
    assert refusal.value.status == 409
    assert (await ended(with_model, record)).state == "cancelled"
    assert len(model.asked) == 1


async def test_a_run_that_has_ended_stays_as_it_is(services: Services) -> None:
    services.worker.start(services)
    record = await ask(services)
    done = await ended(services, record)

    assert (await cancel(services, record.id, ANA)) == done
    assert (await kept(services.journal, record.id)).state == "done"


async def test_a_run_that_is_cancelled_many_times_at_once_ends_once(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue(asyncio.Event())
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: model.now)

    found = await asyncio.gather(*(cancel(with_model, record.id, ANA) for _ in range(5)))

    assert {one.state for one in found} == {"cancelled"}
    async with asyncio.timeout(2):
        events = [event async for event in with_model.journal.events(record.id)]
    assert [event.type for event in events].count("error") == 1
    page = with_model.measures.page().decode()
    assert 'agent_runs_total{door="api",outcome="cancelled",process="sequential"} 1.0' in page


# Approve


async def waiting(services: Services, **wanted: Any) -> Any:
    record = await ask(services, **{"approve": REVIEW} | wanted)
    return await in_state(services, record, "waiting")


async def test_a_run_waits_after_the_task_and_shows_what_is_to_be_approved(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("Notes of the researcher.")
    with_model.worker.start(with_model)

    record = await waiting(with_model)

    assert record.asked["task"] == "research"
    assert record.asked["text"] == "Notes of the researcher."
    assert record.asked["at"] >= record.created_at
    run = await follow(with_model, record.id, ANA)
    await until(lambda: run.events[-1].data.get("state") == "waiting")
    assert run.events[-2].type == "approval"
    assert run.events[-2].data["status"] == "asked"
    await until(lambda: with_model.worker.busy == 0)
    assert len(model.asked) == 1


async def test_an_approved_run_goes_on_and_does_not_do_the_task_again(
    with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    record = await waiting(with_model)

    decided = await decide(with_model, record.id, ANA, "approve")

    assert (decided.state, decided.asked) == ("queued", None)
    assert decided.comments == [
        {"task": "research", "decision": "approve", "comment": "", "by": "Ana"}
    ]
    assert (await ended(with_model, record)).state == "done"
    assert len(model.asked) == 4
    async with asyncio.timeout(2):
        events = [event async for event in with_model.journal.events(record.id)]
    states = [e.data["state"] for e in events if e.type == "state"]
    assert states == ["queued", "running", "waiting", "running"]
    approvals = [(e.data["status"], e.data["task"]) for e in events if e.type == "approval"]
    assert approvals == [("asked", "research"), ("approved", "research")]
    assert [e.data["task"] for e in events if e.data.get("status") == "started"] == [
        "research", "analysis", "draft", "edit",
    ]  # fmt: skip


async def test_a_comment_reaches_the_next_tasks_prompt(
    with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    record = await waiting(with_model)

    await decide(with_model, record.id, ANA, "approve", "  Leave the heat pump out. ")
    await ended(with_model, record)

    assert "Leave the heat pump out." not in model.asked[0].text
    assert "research and says: Leave the heat pump out." in model.asked[1].text


async def test_a_redo_does_the_task_again_with_the_comment_and_asks_again(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("First notes.", "Second notes.")
    with_model.worker.start(with_model)
    record = await waiting(with_model)

    await decide(with_model, record.id, ANA, "redo", "Ask for the price as well.")
    await until(lambda: len(model.asked) == 2)
    record = await in_state(with_model, record, "waiting")

    assert "Ask for the price as well." in model.asked[1].text
    assert "answer this: Which heating?" in model.asked[1].text
    assert [output["text"] for output in record.outputs] == ["Second notes."]
    assert record.asked["text"] == "Second notes."
    await decide(with_model, record.id, ANA, "approve")
    done = await ended(with_model, record)
    assert [comment["decision"] for comment in done.comments] == ["redo", "approve"]
    assert [output["task"] for output in done.outputs] == ["research", "analysis", "draft", "edit"]


async def test_several_tasks_are_approved_one_after_the_other(
    with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    record = await waiting(with_model, approve=("draft", "research"))
    for task in ("research", "draft"):
        record = await in_state(with_model, record, "waiting")
        assert record.asked
        assert record.asked["task"] == task
        await decide(with_model, record.id, ANA, "approve")

    assert (await ended(with_model, record)).state == "done"
    assert len(model.asked) == 4


async def test_what_cannot_be_decided_is_refused(services: Services) -> None:
    services.worker.start(services)
    record = await waiting(services)

    for decision, comment, sentence in (
        ("veto", "", "approve or redo, and not 'veto'"),
        ("redo", "  ", "Say in a comment"),
    ):
        with pytest.raises(Refused, match=sentence) as refusal:
            await decide(services, record.id, ANA, decision, comment)
        assert refusal.value.status == 422
    assert (await kept(services.journal, record.id)).state == "waiting"


@pytest.mark.parametrize("state", ["queued", "done"])
async def test_a_run_that_waits_for_nobody_cannot_be_decided(
    state: str, services: Services
) -> None:
    record = await ask(services)
    if state == "done":
        services.worker.start(services)
        await ended(services, record)

    with pytest.raises(Refused, match=f"waits for nobody: it is {state}") as refusal:
        await decide(services, record.id, ANA, "approve")

    assert refusal.value.status == 409


async def test_of_two_who_decide_at_once_one_does(with_model: Services, model: FakeModel) -> None:
    with_model.worker.start(with_model)
    record = await waiting(with_model)

    decided = await asyncio.gather(
        *(decide(with_model, record.id, ANA, "approve") for _ in range(4)), return_exceptions=True
    )

    assert [type(one) for one in decided].count(Refused) == 3
    done = await ended(with_model, record)
    assert len(done.comments) == 1
    assert len(model.asked) == 4


async def test_who_decides_at_the_first_moment_disturbs_nothing(
    with_model: Services, model: FakeModel
) -> None:
    """The worker may still be telling that the run waits."""
    with_model.worker.start(with_model)
    for _ in range(10):
        record = await ask(with_model, approve=REVIEW)
        while True:
            try:
                await decide(with_model, record.id, ANA, "approve")
                break
            except Refused:
                await asyncio.sleep(0)
        done = await ended(with_model, record)
        assert done.state == "done"
        async with asyncio.timeout(2):
            events = [event async for event in with_model.journal.events(record.id)]
        states = [e.data["state"] for e in events if e.type == "state"]
        assert states == ["queued", "running", "waiting", "running"]
        approvals = [e.data["status"] for e in events if e.type == "approval"]
        assert approvals == ["asked", "approved"]


async def test_a_long_comment_is_cut(with_model: Services) -> None:
    with_model.worker.start(with_model)
    record = await waiting(with_model)

    await decide(with_model, record.id, ANA, "approve", "x" * 5000)

    assert len((await ended(with_model, record)).comments[0]["comment"]) == 4000


async def test_an_approval_waits_through_a_restart(journals: Journals, model: FakeModel) -> None:
    first = await journals.services(model)
    first.worker.start(first)
    record = await waiting(first)
    await journals.close(first)

    second = await journals.services(model)
    second.worker.start(second)
    await asyncio.sleep(0.2)
    assert (await kept(second.journal, record.id)).state == "waiting"
    await decide(second, record.id, ANA, "approve")

    assert (await ended(second, record)).state == "done"
    assert len(model.asked) == 4


@pytest.mark.parametrize("tries", [1, 2])
async def test_an_approval_is_never_passed_over_when_a_worker_is_lost(
    tries: int, with_model: Services, model: FakeModel
) -> None:
    """The worker was lost when the task was finished, and before it could ask."""
    record = await ask(with_model, approve=REVIEW)
    record.state, record.attempt = "running", 1
    record.outputs.append({"task": "research", "agent": "Researcher", "text": "Notes."})
    await with_model.journal.write(record)
    for _ in range(tries - 1):
        await (await with_model.journal.take()).lost()

    with_model.worker.start(with_model)

    record = await in_state(with_model, record, "waiting", 3)
    assert record.asked
    assert record.asked["text"] == "Notes."
    assert model.asked == []
    await decide(with_model, record.id, ANA, "approve")
    assert (await ended(with_model, record)).state == "done"
    assert len(model.asked) == 3


# List


async def test_ones_own_runs_are_listed_newest_first(services: Services) -> None:
    for topic in ("First", "Second", "Third"):
        await ask(services, topic)
        await asyncio.sleep(0.002)
    await ask(services, "Bo's", user=BO)

    assert [one.topic for one in await listed(services, ANA)] == ["Third", "Second", "First"]
    assert [one.topic for one in await listed(services, ANA, 1)] == ["Third"]
    assert [one.topic for one in await listed(services, BO)] == ["Bo's"]
    assert await listed(services, User()) == []


async def test_what_the_api_tells_of_a_run_is_all_but_the_workers_own(
    services: Services,
) -> None:
    record = await ask(services)

    shown = told(record)

    assert shown["run_id"] == record.id
    assert shown["budget"] == vars(record.budget)
    hidden = {"owner", "traceparent", "revision", "worker", "id"}
    assert hidden.isdisjoint(shown)


# With replicas


async def test_a_run_is_begun_worked_on_and_cancelled_in_three_processes(
    replicas: Journals, model: FakeModel
) -> None:
    begun, worked, cancelled = [await replicas.services(model) for _ in range(3)]
    worked.worker.start(worked)
    model.enqueue(asyncio.Event())

    record = await ask(begun)
    run = await follow(begun, record.id, ANA)
    await until(lambda: model.now)
    await cancel(cancelled, record.id, ANA)

    await until(lambda: model.stopped == 1, 2)
    last = await run.wait(5)
    assert last
    assert last.data["state"] == "cancelled"


async def test_a_worker_that_is_not_at_work_leaves_the_runs_to_others(
    services: Services,
) -> None:
    record = await ask(services)
    await asyncio.sleep(0.1)
    assert (await kept(services.journal, record.id)).state == "queued"

    other = with_worker(services)
    other.worker.start(other)

    assert (await ended(services, record)).state == "done"
    await other.worker.close()
