"""What a worker does with the runs in the queue, on good days and on bad ones."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field
from world import (
    ANA,
    TASKS,
    Asked,
    FakeGateway,
    FakeModel,
    Jetstream,
    Journals,
    ask,
    ended,
    happened,
    in_state,
    kept,
    make_services,
    until,
    wants,
    with_worker,
)

from agent import tools
from agent import worker as module
from agent.errors import Unavailable
from agent.gateway import ChatModel, Said
from agent.journal import TRIES
from agent.records import Record
from agent.runs import Event
from agent.services import Services
from agent.tools import Toolbox
from agent.work import cancel

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.1)


async def all_events(services: Services, record: Record) -> list[Event]:
    async with asyncio.timeout(5):
        return [event async for event in services.journal.events(record.id)]


async def idle(services: Services, seconds: float = 5) -> None:
    await until(lambda: services.worker.busy == 0, seconds)


def finished(record: Record) -> list[str]:
    return [output["task"] for output in record.outputs]


def delegating(asked: Asked) -> Any:
    """A manager that lets the researcher do all, and says what comes back."""
    if "delegate_work_to_coworker" not in asked.tool_names:
        return "Notes of a coworker."
    told = [m["content"] for m in asked.messages if m["role"] == "tool"]
    if told:
        return f"The manager passes on: {told[-1]}"
    about = {"task": "Look it up.", "context": "Schools.", "coworker": "Researcher"}
    return wants("delegate_work_to_coworker", **about)


def numbered(asked: Asked) -> str:
    return f"Text {len(asked.text)}"


# A whole run


async def test_the_tasks_are_done_in_their_order_and_each_reads_those_before_it(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", "The findings.", "The draft.", "# The report")
    with_model.worker.start(with_model)
    record = await ask(with_model)

    done = await ended(with_model, record)

    assert (done.state, done.result, done.error) == ("done", "# The report", "")
    assert [(o["task"], o["agent"], o["text"]) for o in done.outputs] == [
        ("research", "Researcher", "The notes."),
        ("analysis", "Analyst", "The findings."),
        ("draft", "Writer", "The draft."),
        ("edit", "Editor", "# The report"),
    ]
    for asked, role in zip(model.asked, ("Researcher", "Analyst", "Writer", "Editor"), strict=True):
        assert f"You are {role}." in asked.text
        assert "Which heating?" in asked.text
    assert "The notes." in model.asked[1].text
    assert "The notes." in model.asked[3].text
    assert "The draft." in model.asked[3].text
    assert (done.spent.steps, done.spent.input, done.spent.output) == (4, 40, 20)
    assert done.spent.dollars == pytest.approx(0.004)
    assert done.spent.seconds > 0
    assert (done.attempt, done.trace_id) == (1, None)


async def test_the_events_of_a_run_tell_all_of_it(with_model: Services, model: FakeModel) -> None:
    with_model.worker.start(with_model)
    record = await ask(with_model)
    done = await ended(with_model, record)

    events = await all_events(with_model, record)

    assert [event.type for event in events] == [
        "state", "state", *(["task", "step", "task"] * 4), "done",
    ]  # fmt: skip
    started = [e.data for e in events if e.data.get("status") == "started"]
    assert [(one["task"], one["n"], one["of"]) for one in started] == [
        ("research", 1, 4), ("analysis", 2, 4), ("draft", 3, 4), ("edit", 4, 4),
    ]  # fmt: skip
    step = events[3].data
    assert (step["task"], step["agent"], step["summary"]) == ("research", "Researcher", "Noted.")
    assert (step["model"], step["tokens"]) == ("fake", {"input": 10, "output": 5})
    assert step["spent"]["steps"] == 1
    last = events[-1].data
    assert (last["run_id"], last["result"], last["rehearsal"]) == (record.id, "Noted.", False)
    assert last["outputs"] == done.outputs
    assert last["spent"] == vars(done.spent)


async def test_the_last_event_names_the_model(with_model: Services) -> None:
    """The page shows under a report which model wrote it."""
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await ended(with_model, record)

    assert (await all_events(with_model, record))[-1].data["model"] == "fake"


async def test_a_manager_delegates_and_passes_on_what_comes_back(
    with_model: Services, model: FakeModel
) -> None:
    model.otherwise = delegating
    with_model.worker.start(with_model)
    record = await ask(with_model, process="hierarchical")

    done = await ended(with_model, record)

    assert (done.state, finished(done)) == ("done", TASKS)
    assert done.result == "The manager passes on: Notes of a coworker."
    events = await all_events(with_model, record)
    told = [event.data for event in events if event.type == "delegation"]
    assert told == [
        {"task": task, "from": "Manager", "to": "Researcher", "question": "Look it up."}
        for task in TASKS
    ]
    steps = [(e.data["agent"], e.data["task"]) for e in events if e.type == "step"]
    assert steps[:4] == [
        ("Manager", "research"), ("Researcher", "research"), ("Manager", "research"),
        ("Manager", "analysis"),
    ]  # fmt: skip
    assert done.spent.steps == 12


async def test_a_manager_who_does_it_alone_is_let(with_model: Services, model: FakeModel) -> None:
    with_model.worker.start(with_model)
    record = await ask(with_model, process="hierarchical")

    done = await ended(with_model, record)

    assert (done.state, done.spent.steps) == ("done", 4)


async def test_a_rehearsal_goes_through_all_tasks(services: Services) -> None:
    await services.documents.add("heating.md", "A heat pump costs 900 euros. Gas costs 700 euros.")
    services.worker.start(services)
    for process in ("sequential", "hierarchical"):
        record = await ask(services, "What does a heat pump cost?", process=process)
        done = await ended(services, record)
        assert (done.state, finished(done)) == ("done", TASKS)
        assert "heating.md" in done.result
        last = (await all_events(services, record))[-1].data
        assert last["rehearsal"]


async def test_twenty_runs_at_once_do_not_cross(folder: Path, anyio_backend: str) -> None:
    model = FakeModel(seconds=0.02)
    model.otherwise = lambda asked: "Of " + ", ".join(sorted(set(re.findall(r"T\d+T", asked.text))))
    services = await make_services(folder, model, concurrent_runs=0, runs_at_once=20)
    services.worker.start(services)

    records = [await ask(services, f"T{number}T") for number in range(20)]
    done = await asyncio.gather(*(ended(services, record) for record in records))

    for record in done:
        assert (record.state, record.result) == ("done", f"Of {record.topic}")
        assert {output["text"] for output in record.outputs} == {f"Of {record.topic}"}
        assert record.spent.steps == 4
    assert all(len(set(re.findall(r"T\d+T", asked.text))) == 1 for asked in model.asked)
    await services.close()


async def test_no_more_runs_are_worked_on_at_once_than_the_settings_say(
    folder: Path, anyio_backend: str
) -> None:
    model, most = FakeModel(seconds=0.02), 0
    services = await make_services(folder, model, runs_at_once=2)
    services.worker.start(services)
    records = [await ask(services) for _ in range(6)]
    while not all([(await kept(services.journal, record.id)).final for record in records]):
        most = max(most, model.now, services.worker.busy)
        await asyncio.sleep(0.005)

    assert most == 2
    await services.close()


async def test_a_rooms_thread_is_free_again_after_each_run(
    folder: Path, model: FakeModel, anyio_backend: str
) -> None:
    before, tasks = threading.active_count(), asyncio.all_tasks()
    services = await make_services(folder, model, runs_at_once=1)
    services.worker.start(services)
    for number in range(4):
        model.enqueue(asyncio.Event() if number % 2 else "Notes.")
        record = await ask(services)
        if number % 2:
            await until(lambda: model.now)
            await cancel(services, record.id, ANA)
        await ended(services, record)
    await idle(services)

    assert sum(thread.name.startswith("crew") for thread in threading.enumerate()) == 1
    await services.close()
    await until(lambda: asyncio.all_tasks() == tasks, 2)
    await until(lambda: threading.active_count() <= before + 4, 2)  # CrewAI keeps some of its own


async def test_what_an_agent_says_is_made_harmless_before_it_is_kept(
    with_model: Services, model: FakeModel
) -> None:
    model.otherwise = "See ![x](https://evil.example/?q=1) <script>\u200b"
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model))

    assert done.result == "See [x](https://evil.example/?q=1) &lt;script>"


# Checkpoints


async def test_a_worker_that_is_closed_hands_back_and_the_next_goes_on_after_the_last_task(
    journals: Journals, model: FakeModel
) -> None:
    journals.ack_wait_s = 30  # what comes sooner was handed back
    model.enqueue("The notes.", asyncio.Event())
    first = await journals.services(model)
    first.worker.start(first)
    record = await ask(first)
    await until(lambda: len(model.asked) == 2)

    await journals.close(first)

    second = await journals.services(model)
    there = await kept(second.journal, record.id)
    assert (there.state, there.worker, finished(there)) == ("queued", "", ["research"])
    begin = time.monotonic()
    second.worker.start(second)
    await until(lambda: len(model.asked) > 2)
    assert time.monotonic() - begin < 3
    done = await ended(second, record)
    assert (done.state, finished(done), done.attempt) == ("done", TASKS, 2)
    assert model.stopped == 1
    assert [asked.text.count("Find out what is needed") for asked in model.asked][2:] == [0, 0, 0]
    assert "The notes." in model.asked[2].text
    notes = [e.data["note"] for e in await all_events(second, record) if e.type == "state"]
    assert any("being restarted" in note for note in notes)
    assert done.spent.steps == 4


async def test_a_worker_that_is_told_twice_to_end_still_hands_back(
    journals: Journals, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At SIGTERM, and again when the server has closed its connections."""
    journals.ack_wait_s = 30  # what comes sooner was handed back
    services = await journals.services(model)
    journal = services.journal
    model.enqueue(asyncio.Event())
    services.worker.start(services)
    record = await ask(services)
    await until(lambda: model.now)
    read = journal.read

    async def slowly(run_id: str) -> Any:
        await asyncio.sleep(0.1)
        return await read(run_id)

    monkeypatch.setattr(journal, "read", slowly)

    await asyncio.gather(services.worker.drain(), _later(services.worker.drain, 0.05))

    monkeypatch.undo()
    assert (await kept(journal, record.id)).state == "queued"
    if journals.shared:
        other = await journals.open()
        job = await asyncio.wait_for(other.take(), 8)
        assert (job.run_id, job.tries) == (record.id, 1)


async def _later(do: Any, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await do()


async def test_a_worker_that_ends_takes_nothing_more(journals: Journals, model: FakeModel) -> None:
    services = await journals.services(model)
    services.worker.start(services)
    await asyncio.sleep(0.1)
    await services.worker.drain()

    record = await ask(services)
    await asyncio.sleep(0.3)

    assert services.worker.draining
    assert (await kept(services.journal, record.id)).state == "queued"
    assert model.asked == []


async def test_a_run_that_ends_while_its_worker_is_closed_tells_its_end(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says `done`: so do the events, now or when it is taken up again."""
    journal, ending = with_model.journal, asyncio.Event()
    add = journal.add

    async def slowly(run_id: str, event: Event) -> None:
        if event.last and not ending.is_set():
            ending.set()
            await asyncio.sleep(0.5)
        await add(run_id, event)

    monkeypatch.setattr(journal, "add", slowly)
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await asyncio.wait_for(ending.wait(), 8)
    await with_model.worker.close()
    again = with_worker(with_model)
    again.worker.start(again)

    done = await ended(again, record, 3)

    assert done.state == "done"
    await again.worker.close()


async def test_a_run_of_a_worker_that_was_lost_is_taken_up_and_the_lost_one_stops(
    replicas: Journals,
) -> None:
    hangs, works, go_on = FakeModel(), FakeModel(), asyncio.Event()
    hangs.enqueue("The notes.", go_on)
    lost = await replicas.services(hangs, runs_at_once=1)
    lost.worker._beat_s = 1000  # silent
    lost.worker.start(lost)
    record = await ask(lost)
    await until(lambda: hangs.now and len(hangs.asked) == 2)
    works.enqueue(asyncio.Event())
    other = await replicas.services(works)
    other.worker.start(other)
    await until(lambda: works.now)

    go_on.set()
    await until(lambda: not lost.worker.busy or hangs.stopped, 3)

    there = await kept(other.journal, record.id)
    assert (there.worker, there.attempt) == (other.worker.name, 2)
    assert len(hangs.asked) == 2


async def test_a_worker_that_says_that_it_works_is_not_lost(
    replicas: Journals, model: FakeModel
) -> None:
    replicas.ack_wait_s, go_on = 4, asyncio.Event()
    model.enqueue("The notes.", go_on)
    for _ in range(2):
        services = await replicas.services(model)
        services.worker.start(services)
    record = await ask(services)
    await until(lambda: len(model.asked) == 2)

    await asyncio.sleep(5)
    go_on.set()
    done = await ended(services, record)

    assert (done.state, done.attempt, len(model.asked)) == ("done", 1, 4)


async def test_a_run_that_came_back_to_its_own_worker_is_stopped_like_any_other(
    replicas: Journals, model: FakeModel
) -> None:
    """As after an outage of the server that was longer than ACK_WAIT_S."""
    model.enqueue(asyncio.Event())
    services = await replicas.services(model)
    services.worker.start(services)
    record = await ask(services)
    await until(lambda: model.now)
    await services.journal.queue(record.id)
    await asyncio.sleep(0.3)

    await cancel(services, record.id, ANA)

    await until(lambda: model.stopped == 1, 2)
    await idle(services)


async def test_a_run_that_is_in_the_queue_twice_is_done_once(replicas: Journals) -> None:
    """As after an acknowledgement that was lost, or a restart in the middle of handing back."""
    model = FakeModel(seconds=1.3)
    pair = [await replicas.services(model) for _ in range(2)]
    record = await ask(pair[0])
    await pair[0].journal.queue(record.id)
    for services in pair:
        services.worker.start(services)

    done = await ended(pair[0], record, 9)

    assert (done.state, finished(done)) == ("done", TASKS)
    assert done.attempt <= 2


async def test_a_server_that_is_restarted_in_the_middle_of_a_run_ends_no_run(
    replicas: Journals, jetstream: Jetstream, model: FakeModel
) -> None:
    replicas.ack_wait_s, go_on = 5, asyncio.Event()
    model.enqueue("The notes.", go_on)
    services = await replicas.services(model)
    services.journal._js._timeout = 1
    services.worker.start(services)
    record = await ask(services)
    await until(lambda: len(model.asked) == 2)

    jetstream.stop()
    go_on.set()
    await asyncio.sleep(0.5)
    jetstream.start()

    done = await in_state(services, record, "done", 9)
    assert (done.attempt, len(model.asked)) == (1, 4)


@pytest.mark.parametrize("number", [1, 2])
async def test_what_cannot_be_kept_for_a_moment_is_not_the_end_of_a_run(
    number: int, with_model: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken up again, after the last task that could be kept."""
    journal, written, fails = with_model.journal, [], {number + 1}
    write = journal.write

    async def full(record: Record) -> None:
        written.append(record.state)
        if len(written) in fails:
            raise Unavailable("The runs cannot be kept (disk full); free some.", "journal")
        await write(record)

    monkeypatch.setattr(journal, "write", full)
    with_model.worker.start(with_model)
    record = await ask(with_model)

    done = await in_state(with_model, record, "done", 4)

    assert finished(done) == TASKS
    assert done.attempt == 2


async def test_a_disk_that_is_full_for_a_while_is_no_lost_worker(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.02)
    journal, failed = with_model.journal, []
    write = journal.write

    async def full(record: Record) -> None:
        if len(failed) < 2 * TRIES:
            failed.append(record.state)
            raise Unavailable("The runs cannot be kept (disk full); free some.", "journal")
        await write(record)

    monkeypatch.setattr(journal, "write", full)
    with_model.worker.start(with_model)
    record = await ask(with_model)

    await until(lambda: len(failed) == 2 * TRIES)

    assert (await ended(with_model, record)).state == "done"


async def test_a_disk_that_is_full_and_then_is_not_leaves_no_run_behind(
    with_model: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing at all can be written for a while, and reading goes on."""
    journal: Any = with_model.journal
    real, full = journal._db, False

    class Full:
        def execute(self, statement: str, *values: Any) -> Any:
            if full and not statement.startswith("SELECT"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(journal, "_db", Full())
    record = await ask(with_model)
    full = True
    with_model.worker.start(with_model)
    await asyncio.sleep(0.5)
    full = False

    assert (await ended(with_model, record, 3)).state == "done"


async def test_a_run_that_could_not_be_kept_is_not_lost_from_the_queue(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while a crew works."""
    journal: Any = with_model.journal
    real, full = journal._db, False

    class Full:
        def execute(self, statement: str, *values: Any) -> Any:
            if full and not statement.startswith("SELECT"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    go_on = asyncio.Event()
    model.enqueue(go_on)
    monkeypatch.setattr(journal, "_db", Full())
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: model.now)
    full = True
    go_on.set()
    await asyncio.sleep(0.5)
    full = False

    assert (await in_state(with_model, record, "done", 3)).outputs


async def test_a_run_that_lost_its_workers_three_times_is_put_aside(
    journals: Journals, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    services = await journals.services(model)
    record = await ask(services)
    for _ in range(TRIES):
        await (await services.journal.take()).lost()
    services.worker.start(services)

    done = await ended(services, record)
    await idle(services, 1)

    assert done.state == "failed"
    assert "lost its worker 3 times and was put aside" in done.error
    assert model.asked == []
    page = services.measures.page().decode()
    assert "agent_dead_letters_total 1.0" in page
    assert [one.message for one in caplog.records if one.name == "agent.worker"] == []
    after = await ask(services, "Another")
    assert (await ended(services, after)).state == "done"


async def test_a_worker_that_was_lost_twice_is_no_reason_to_give_up(
    journals: Journals, model: FakeModel
) -> None:
    services = await journals.services(model)
    record = await ask(services)
    for _ in range(TRIES - 1):
        await (await services.journal.take()).lost()
    services.worker.start(services)

    assert (await ended(services, record)).state == "done"


async def test_a_run_that_was_taken_up_again_says_so(
    with_model: Services, model: FakeModel
) -> None:
    record = await ask(with_model)
    job = await with_model.journal.take()
    record.state, record.attempt = "running", 1
    record.outputs.append({"task": "research", "agent": "Researcher", "text": "The notes."})
    await with_model.journal.write(record)
    await job.lost()
    with_model.worker.start(with_model)

    done = await ended(with_model, record)

    assert (done.attempt, len(model.asked)) == (2, 3)
    states = [e.data for e in await all_events(with_model, record) if e.type == "state"]
    assert states[-1]["note"] == "Taken up again after 1 finished tasks."
    assert "agent_redelivered_total 1.0" in with_model.measures.page().decode()


async def test_a_worker_whose_run_was_changed_by_another_stops(
    with_model: Services, model: FakeModel
) -> None:
    go_on = asyncio.Event()
    model.enqueue(go_on)
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: model.now)
    theirs = await kept(with_model.journal, record.id)
    theirs.worker = "another"
    await with_model.journal.write(theirs)

    go_on.set()
    await idle(with_model)

    there = await kept(with_model.journal, record.id)
    assert (there.worker, there.state, there.spent.steps) == ("another", "running", 0)
    assert len(model.asked) == 1
    events = await happened(with_model.journal, record.id, 3)
    assert [event.type for event in events] == ["state", "state", "task"]


# Budgets

BUDGETS = {
    "steps": ({"steps": 2}, 2, "its budget of 2 calls of a model"),
    "tokens": ({"tokens": 20}, 2, "its budget of 20 tokens"),
    "dollars": ({"dollars": 0.0015}, 2, "its budget of 0.0015 dollars"),
}


@pytest.mark.parametrize("process", ["sequential", "hierarchical"])
@pytest.mark.parametrize("kind", BUDGETS)
async def test_a_budget_is_overrun_by_one_call_at_most(
    kind: str, process: str, with_model: Services, model: FakeModel
) -> None:
    budget, calls, sentence = BUDGETS[kind]
    model.otherwise = delegating if process == "hierarchical" else "Noted."
    with_model.worker.start(with_model)
    record = await ask(with_model, budget=budget, process=process)

    done = await ended(with_model, record)
    await idle(with_model)

    assert done.state == "failed"
    assert sentence in done.error
    assert done.error.endswith(".")
    assert len(model.asked) == done.spent.steps == calls
    last = (await all_events(with_model, record))[-1]
    assert (last.type, last.data["detail"]) == ("error", done.error)
    assert last.data["spent"] == vars(done.spent)


async def test_outputs_of_before_the_budget_was_reached_are_kept(
    with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    record = await ask(with_model, budget={"steps": 3})

    done = await ended(with_model, record)

    assert finished(done) == ["research", "analysis", "draft"]


async def test_a_run_may_use_all_of_its_budget(with_model: Services, model: FakeModel) -> None:
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model, budget={"steps": 4}))

    assert done.state == "done"


async def test_a_run_whose_seconds_are_over_is_ended_in_the_middle_of_a_call(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", asyncio.Event())
    with_model.worker.start(with_model)
    begin = time.monotonic()
    record = await ask(with_model, budget={"seconds": 1.5})

    done = await ended(with_model, record)
    await idle(with_model)

    assert 1.4 < time.monotonic() - begin < 4
    assert done.state == "failed"
    assert done.error == "The run has used its 1.5 seconds and was ended."
    assert (model.stopped, len(model.asked), finished(done)) == (1, 2, ["research"])
    assert done.spent.seconds == pytest.approx(1.5, abs=0.5)


async def test_seconds_of_earlier_attempts_count(with_model: Services, model: FakeModel) -> None:
    record = await ask(with_model, budget={"seconds": 9})
    record.spent.seconds = 9.1
    await with_model.journal.write(record)
    with_model.worker.start(with_model)

    done = await ended(with_model, record)

    assert (done.state, model.asked) == ("failed", [])
    assert "has used its 9 seconds" in done.error


async def test_seconds_that_end_while_the_record_is_written_end_the_run_as_well(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Any = with_model.journal
    real, slow = journal._db, False

    class Slow:
        def execute(self, statement: str, *values: Any) -> Any:
            nonlocal slow
            if slow and statement.startswith("UPDATE runs SET state"):
                slow = False
                time.sleep(0.8)
            return real.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    def and_then_slowly(asked: Asked) -> str:
        nonlocal slow
        slow = True
        return "The notes."

    monkeypatch.setattr(journal, "_db", Slow())
    model.enqueue(and_then_slowly)
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model, budget={"steps": 1}))  # imports take time
    slow = False
    model.enqueue(and_then_slowly)
    record = await ask(with_model, budget={"seconds": 0.5})

    done = await in_state(with_model, record, "failed", 3)

    assert "has used its 0.5 seconds" in done.error


# Cancelling


async def test_cancelling_ends_the_call_of_the_model_and_no_other_is_made(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue(asyncio.Event())
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: model.now)
    begin = time.monotonic()

    await cancel(with_model, record.id, ANA)
    await until(lambda: model.stopped, 2)

    assert time.monotonic() - begin < 1
    await idle(with_model)
    await asyncio.sleep(0.2)
    assert (model.stopped, len(model.asked)) == (1, 1)
    assert (await kept(with_model.journal, record.id)).state == "cancelled"
    assert (await all_events(with_model, record))[-1].data["state"] == "cancelled"


async def test_a_cancelled_run_makes_room_for_the_next(
    folder: Path, model: FakeModel, anyio_backend: str
) -> None:
    services = await make_services(folder, model, runs_at_once=1)
    model.enqueue(asyncio.Event())
    services.worker.start(services)
    first = await ask(services)
    await until(lambda: model.now)
    second = await ask(services, "Another")

    await cancel(services, first.id, ANA)

    assert (await ended(services, second, 4)).state == "done"
    await services.close()


@pytest.mark.parametrize("after_s", [0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04])
async def test_cancelling_at_any_moment_leaves_the_run_cancelled_or_done(
    after_s: float, with_model: Services, model: FakeModel
) -> None:
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model))  # imports take time
    for _ in range(3):
        record = await ask(with_model)
        await asyncio.sleep(after_s)
        cancelled = await cancel(with_model, record.id, ANA)

        done = await ended(with_model, record, 3)

        assert done.state == cancelled.state
        assert done.state in ("cancelled", "done")
    await idle(with_model, 3)


async def test_cancelling_in_the_middle_of_a_tool_stops_the_tool(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def calculate(box: Toolbox, expression: str) -> str:
        """Work something out."""
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return ""

    give(monkeypatch, calculate)
    model.enqueue("The notes.", wants("calculate", expression="1"))
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await asyncio.wait_for(begun.wait(), 8)

    await cancel(with_model, record.id, ANA)

    await asyncio.wait_for(stopped.wait(), 2)
    await idle(with_model)
    assert len(model.asked) == 2


# What fails


@pytest.mark.parametrize("process", ["sequential", "hierarchical"])
async def test_a_model_that_is_away_fails_the_run_with_its_sentence(
    process: str, with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", Unavailable("The gateway answers 401; check the key.", "model"))
    with_model.worker.start(with_model)
    record = await ask(with_model, process=process)

    done = await ended(with_model, record)
    await idle(with_model)

    assert (done.state, done.error) == ("failed", "The gateway answers 401; check the key.")
    assert finished(done) == ["research"]
    assert len(model.asked) == 2
    assert 'agent_model_calls_total{outcome="failed"} 1.0' in with_model.measures.page().decode()


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), KeyError("choices"), TimeoutError("odd"), ValueError("odd")]
)
async def test_a_model_that_fails_in_any_other_way_fails_the_run(
    error: Exception, with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", error)
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model))
    await idle(with_model)

    assert done.state == "failed"
    assert type(error).__name__ in done.error
    assert finished(done) == ["research"]


async def test_a_run_that_failed_has_the_seconds_that_it_worked(
    with_model: Services, model: FakeModel
) -> None:
    go_on = asyncio.Event()
    model.enqueue("The notes.", go_on)
    model.otherwise = Unavailable("The gateway is away.", "model")
    with_model.worker.start(with_model)
    record = await ask(with_model)
    await until(lambda: len(model.asked) == 2)
    before = (await kept(with_model.journal, record.id)).spent.seconds
    await asyncio.sleep(0.5)
    go_on.set()

    done = await ended(with_model, record)

    assert done.spent.seconds > before + 0.4


MALFORMED: list[Any] = [
    [{"id": "1"}],
    [{"id": "1", "type": "function", "function": {"name": "calculate"}}],
    [{"id": "1", "type": "function", "function": {"name": "calculate", "arguments": "{no"}}],
    [{"id": "1", "type": "function", "function": {"name": "calculate", "arguments": "[1]"}}],
    [{"id": "1", "type": "function", "function": {"name": "no_such_tool", "arguments": "{}"}}],
    ["odd"],
]


@pytest.mark.parametrize("calls", MALFORMED, ids=str)
async def test_tool_calls_that_make_no_sense_do_not_hang_a_run_and_are_paid_for(
    calls: Any, with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", Said("", "fake", calls, 10, 5, 0.5))
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model))
    await idle(with_model)

    assert done.state in ("done", "failed")
    assert done.spent.dollars
    assert done.spent.dollars >= 0.5


@pytest.mark.parametrize("arguments", [{"task": "t", "coworker": "Researcher"}, None, "[]", ""])
async def test_a_manager_whose_delegation_makes_no_sense_does_not_end_the_run(
    arguments: Any, with_model: Services, model: FakeModel
) -> None:
    function = {"name": "delegate_work_to_coworker", "arguments": arguments}
    call = {"id": "1", "type": "function", "function": function}
    model.enqueue(Said("", "fake", [call], 10, 5))
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model, process="hierarchical"))

    assert done.state == "done"


async def test_a_model_that_wants_tools_for_ever_comes_to_an_end(
    with_model: Services, model: FakeModel
) -> None:
    model.otherwise = lambda asked: (
        wants("calculate", expression=f"1 + {len(model.asked)}") if asked.tools else "Enough."
    )
    with_model.worker.start(with_model)

    done = await ended(with_model, await ask(with_model))

    assert done.final
    assert len(model.asked) <= done.budget.steps


async def test_a_model_that_knows_no_tools_is_asked_in_words(
    folder: Path, gateway: FakeGateway, anyio_backend: str
) -> None:
    import httpx

    refusal = {"error": {"message": "this model does not support tools"}}
    gateway.enqueue(httpx.Response(400, json=refusal))
    model = ChatModel(gateway.http, "chat", 100, 10)
    services = await make_services(folder, model)
    gateway.enqueue(*["Thought: I know.\nFinal Answer: The notes."] * 8)
    services.worker.start(services)

    done = await ended(services, await ask(services))

    assert (done.state, done.error) == ("done", "")
    assert "The notes." in done.outputs[0]["text"]
    assert gateway.chats()[0]["tools"]
    assert "tools" not in gateway.chats()[1]
    await services.close()


async def test_a_failure_leaves_nothing_but_its_sentence_in_the_log(
    with_model: Services, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    """No trace of a task whose error nobody has looked at."""
    import gc

    model.enqueue(Unavailable("The gateway is away.", "model"))
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model))
    await ended(with_model, await ask(with_model, budget={"steps": 1}))
    model.enqueue(asyncio.Event())
    record = await ask(with_model)
    await until(lambda: model.now)
    await cancel(with_model, record.id, ANA)
    await idle(with_model)
    gc.collect()
    await asyncio.sleep(0.05)

    assert [one.message for one in caplog.records if "never retrieved" in one.message] == []


# Tools


def give(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    monkeypatch.setitem(tools.TOOLS, "calculate", (do, lambda box: True))


async def told_of(services: Services, model: FakeModel, *expressions: str) -> tuple[Any, str]:
    """The events of an analyst's use of `calculate`, and what the model was told then."""
    calls = [wants("calculate", expression=e).calls[0] for e in expressions]
    model.enqueue("The notes.", Said("", "fake", calls, 10, 5))
    services.worker.start(services)
    record = await ask(services)
    done = await ended(services, record)
    assert done.state == "done", done.error
    events = await all_events(services, record)
    answers = [str(m["content"]) for m in model.asked[2].messages if m["role"] == "tool"]
    return [event.data for event in events if event.type == "tool"], "\n".join(answers)


async def test_the_result_of_a_tool_is_told_to_the_agent_and_to_the_reader(
    with_model: Services, model: FakeModel
) -> None:
    (used,), told = await told_of(with_model, model, "6 * 7")

    assert told == "42"
    assert (used["task"], used["agent"], used["tool"]) == ("analysis", "Analyst", "calculate")
    assert (used["arguments"], used["result"], used["ok"]) == ({"expression": "6 * 7"}, "42", True)
    page = with_model.measures.page().decode()
    assert 'agent_tool_calls_total{outcome="ok",tool="calculate"} 1.0' in page


async def test_several_tools_at_once_are_all_used(with_model: Services, model: FakeModel) -> None:
    used, told = await told_of(with_model, model, "1 + 1", "2 * 50", "10 ** 3")

    assert {one["result"] for one in used} == {"2", "100", "1000"}
    assert {"2", "100", "1000"} <= set(re.findall(r"\d+", told))


async def test_a_tool_that_refuses_is_told_to_the_agent_which_goes_on(
    with_model: Services, model: FakeModel
) -> None:
    (used,), told = await told_of(with_model, model, "1 / 0")

    assert not used["ok"]
    assert "This did not work: " in told


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("broken\n" * 9), TimeoutError(), OSError(5, "disk")]
)
async def test_so_is_an_error_of_any_kind_in_a_tool(
    error: Exception, with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def calculate(box: Toolbox, expression: str) -> str:
        """Work something out."""
        raise error

    give(monkeypatch, calculate)

    (used,), told = await told_of(with_model, model, "1")

    assert not used["ok"]
    assert f"This did not work: {type(error).__name__}" in told


@pytest.mark.parametrize("result", [None, 42, {"a": 1}, b"bytes"], ids=str)
async def test_a_tool_that_gives_no_text_is_a_tool_all_the_same(
    result: Any, with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def calculate(box: Toolbox, expression: str) -> Any:
        """Work something out."""
        return result

    give(monkeypatch, calculate)

    (used,), told = await told_of(with_model, model, "1")

    assert used["result"] == str(result)
    assert str(result) in told


async def test_a_tool_that_is_cancelled_from_within_does_not_end_the_run(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def calculate(box: Toolbox, expression: str) -> str:
        """Work something out."""
        raise asyncio.CancelledError

    give(monkeypatch, calculate)
    model.enqueue("The notes.", wants("calculate", expression="1"))
    with_model.worker.start(with_model)

    assert (await ended(with_model, await ask(with_model))).state == "done"


async def test_a_tool_with_other_parameters_takes_them_by_name(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = []

    async def calculate(
        box: Toolbox,
        first: Annotated[int, Field(description="A number.", ge=0)],
        second: Annotated[str, Field(description="A word.")] = "none",
    ) -> str:
        """Work something out."""
        had.append((first, second))
        return "ok"

    give(monkeypatch, calculate)
    model.enqueue("The notes.", wants("calculate", first=7))
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model))

    assert had == [(7, "none")]
    (schema,) = [
        tool["function"] for tool in model.asked[1].tools or []
        if tool["function"]["name"] == "calculate"
    ]  # fmt: skip
    assert schema["description"].endswith("Work something out.")
    assert set(schema["parameters"]["properties"]) == {"first", "second"}


async def test_a_long_result_of_a_tool_is_cut_and_says_so(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def calculate(box: Toolbox, expression: str) -> str:
        """Work something out."""
        return "x" * 50_000

    give(monkeypatch, calculate)

    (used,), told = await told_of(with_model, model, "1")

    assert len(told) < 13_000
    assert len(used["result"]) <= 240
    assert not told.endswith("xxx")


async def test_a_document_of_any_length_can_be_read_to_its_end(
    with_model: Services, model: FakeModel
) -> None:
    """As far as an agent follows the note at the end of what it reads."""
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 40 for number in range(120))
    await with_model.documents.add("long.md", text)
    read: list[str] = []

    def reader(asked: Asked) -> Any:
        if "read_document" not in asked.tool_names or "You are Researcher" not in asked.text:
            return "Noted."
        told = [str(m["content"]) for m in asked.messages if m["role"] == "tool"]
        read[:] = told
        if not told:
            return wants("read_document", name="long.md", start=0)
        more = re.search(r"read on from (\d+)\]", told[-1])
        return wants("read_document", name="long.md", start=int(more[1])) if more else "Noted."

    model.otherwise = reader
    with_model.worker.start(with_model)

    await ended(with_model, await ask(with_model))

    found = {int(number) for number in re.findall(r"Paragraph (\d+)\.", "".join(read))}
    assert found == set(range(120))


# Figures and tidiness


async def test_what_a_run_used_is_counted(with_model: Services) -> None:
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model))
    await idle(with_model)
    await with_model.tend()

    page = with_model.measures.page().decode()
    for line in (
        'agent_runs_total{door="api",outcome="done",process="sequential"} 1.0',
        'agent_tokens_total{direction="input"} 40.0',
        'agent_tokens_total{direction="output"} 20.0',
        "agent_dollars_total 0.004",
        'agent_model_calls_total{outcome="ok"} 4.0',
        "agent_runs_running 0.0",
    ):
        assert line in page


async def test_runs_in_each_state_are_counted(with_model: Services, model: FakeModel) -> None:
    await ask(with_model)
    await with_model.tend()
    assert "agent_runs_queued 1.0" in with_model.measures.page().decode()

    model.enqueue(asyncio.Event())
    with_model.worker.start(with_model)
    await until(lambda: model.now)
    await with_model.tend()

    page = with_model.measures.page().decode()
    assert "agent_runs_queued 0.0" in page
    assert "agent_runs_running 1.0" in page


async def test_a_queue_that_does_not_answer_is_asked_again(
    with_model: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take, failed = with_model.journal.take, []

    async def away() -> Any:
        if len(failed) < 3:
            failed.append(1)
            raise Unavailable("NATS is away.")
        return await take()

    monkeypatch.setattr(with_model.journal, "take", away)
    with_model.worker.start(with_model)

    assert (await ended(with_model, await ask(with_model))).state == "done"
    assert "NATS is away." in caplog.text


async def test_nothing_of_what_was_asked_is_written_to_the_log(
    with_model: Services, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model.enqueue("A secret note.", RuntimeError("broken"))
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model, "A secret topic"))

    assert "secret" not in caplog.text.lower()


async def test_crewai_keeps_nothing_on_the_disk(
    with_model: Services, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    with_model.worker.start(with_model)
    await ended(with_model, await ask(with_model))

    assert list(tmp_path.iterdir()) == []
    kept_by_crewai = Path(os.environ["CREWAI_STORAGE_DIR"])
    assert not any(
        b"Which heating?" in path.read_bytes()
        for path in kept_by_crewai.rglob("*")
        if path.is_file()
    )
