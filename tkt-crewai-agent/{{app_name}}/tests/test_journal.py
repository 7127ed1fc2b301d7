"""Where runs are kept and wait: both journals keep what `Journal` promises."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from world import Jetstream, Journals, a_record, happened, kept, until

from agent import health, journal_nats, nats_server
from agent.errors import Unavailable
from agent.journal import Changed, Job
from agent.journal_local import LocalJournal
from agent.journal_nats import NatsJournal
from agent.nats_server import NatsServer
from agent.runs import Event

pytestmark = pytest.mark.anyio


async def taken(journal: Any, seconds: float = 5) -> Job:
    job: Job = await asyncio.wait_for(journal.take(), seconds)
    return job


async def nothing_to_take(journal: Any, seconds: float = 0.3) -> bool:
    """Takes what is there, so it is for the end of a test."""
    try:
        await asyncio.wait_for(journal.take(), seconds)
    except TimeoutError:
        return True
    return False


def told(number: int) -> Event:
    return Event("step", {"number": number})


DONE = Event("done", {"result": "# Report"})


# Records


async def test_a_run_that_was_created_is_there_and_queued(journals: Journals) -> None:
    journal = await journals.open()

    record = await journal.create(a_record(topic="Häuser"), "")

    there = await kept(journal, record.id)
    assert there == record
    assert there.revision > 0
    job = await taken(journal)
    assert (job.run_id, job.tries) == (record.id, 1)


async def test_a_run_that_was_never_created_is_not_there(journals: Journals) -> None:
    journal = await journals.open()

    assert await journal.read("0" * 32) is None
    assert await journal.read("") is None
    assert await journal.read("../x") is None
    assert await journal.read("*") is None


@pytest.mark.parametrize("run_id", ["é" * 8, "٣٣٣", "a" * 5000], ids=["é", "digits", "long"])
async def test_an_id_that_nobody_gave_is_nowhere_and_found_out_at_once(
    run_id: str, journals: Journals
) -> None:
    journal = await journals.open()

    assert await asyncio.wait_for(journal.read(run_id), 2) is None

    record = await asyncio.wait_for(journal.create(a_record(), ""), 2)  # its connection is well
    assert await asyncio.wait_for(journal.read(record.id), 2)


async def test_the_same_key_of_the_same_owner_is_the_same_run(journals: Journals) -> None:
    journal = await journals.open()
    first = await journal.create(a_record(), "key")

    again = await journal.create(a_record(topic="Another"), "key")
    of_another = await journal.create(a_record(owner="bo"), "key")
    without = [await journal.create(a_record(), "") for _ in range(2)]

    assert (again.id, again.topic) == (first.id, first.topic)
    assert len({first.id, of_another.id, *(record.id for record in without)}) == 4
    assert [(await taken(journal)).run_id for _ in range(4)] == [
        first.id, of_another.id, *(record.id for record in without),
    ]  # fmt: skip
    assert await nothing_to_take(journal)


async def test_the_same_key_many_times_at_once_is_one_run(journals: Journals) -> None:
    journal = await journals.open()

    made = await asyncio.gather(*(journal.create(a_record(), "key") for _ in range(10)))

    assert len({record.id for record in made}) == 1
    assert (await taken(journal)).run_id == made[0].id
    assert await nothing_to_take(journal)


async def test_a_key_is_known_after_a_restart(journals: Journals) -> None:
    journal = await journals.open()
    first = await journal.create(a_record(), "key")
    await journals.close(journal)

    again = await (await journals.open()).create(a_record(), "key")

    assert again.id == first.id


@pytest.mark.parametrize("key", ["ключ 🔑", "a.b > *", "'; DROP TABLE runs", "k" * 200])
async def test_a_key_may_be_any_text(key: str, journals: Journals) -> None:
    journal = await journals.open()

    first = await journal.create(a_record(), key)

    assert (await journal.create(a_record(), key)).id == first.id
    assert (await journal.create(a_record(), f"{key}?")).id != first.id


async def test_what_was_changed_since_it_was_read_cannot_be_written(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    mine, others = await kept(journal, record.id), await kept(journal, record.id)
    others.state = "cancelled"
    await journal.write(others)

    mine.state = "running"
    with pytest.raises(Changed):
        await journal.write(mine)

    assert (await kept(journal, record.id)).state == "cancelled"
    others.error = "This was cancelled."
    await journal.write(others)  # whoever wrote last may write again
    assert (await kept(journal, record.id)).error == "This was cancelled."


async def test_of_many_who_write_at_once_one_wins(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    read = [await kept(journal, record.id) for _ in range(8)]
    for number, mine in enumerate(read):
        mine.worker = f"worker-{number}"

    written = await asyncio.gather(*map(journal.write, read), return_exceptions=True)

    assert [type(error) for error in written].count(Changed) == 7
    winner = read[written.index(None)]
    assert (await kept(journal, record.id)).worker == winner.worker


async def test_a_write_that_was_given_up_on_does_not_shut_its_writer_out(
    journals: Journals,
) -> None:
    """A worker is stopped while it writes, and has a last word to write."""
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    writing = asyncio.create_task(journal.write(record))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])

    record.state = "failed"
    await journal.write(record)

    assert (await kept(journal, record.id)).state == "failed"


async def test_everybody_who_listens_hears_of_each_record_that_is_written(
    journals: Journals,
) -> None:
    journal, heard = await journals.open(), []
    journal.on_change = lambda record: heard.append((record.id, record.state))
    record = await journal.create(a_record(), "")

    record.state = "running"
    await journal.write(record)

    await until(lambda: (record.id, "running") in heard)


async def test_runs_are_listed_newest_first_and_only_ones_own(journals: Journals) -> None:
    journal = await journals.open()
    times = [f"2030-01-0{n}T00:00:00.000+00:00" for n in (2, 1, 3)]
    for at in times:
        await journal.create(a_record(topic=f"of {at[8:10]}", created_at=at), "")
    await journal.create(a_record(owner="bo", topic="x" * 500), "")

    mine = await journal.listed("ana", 10)
    (others,) = await journal.listed("bo", 10)

    assert [one.topic for one in mine] == ["of 03", "of 02", "of 01"]
    assert {one.owner for one in mine} == {"ana"}
    assert len(await journal.listed("ana", 2)) == 2
    assert len(others.topic) == 200
    assert await journal.listed("nobody", 10) == []


async def test_a_list_shows_what_was_written_last(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    record.state = "done"
    record.spent.add(10, 5, 0.5)

    await journal.write(record)

    (one,) = await journal.listed("ana", 10)
    assert (one.id, one.state, one.dollars) == (record.id, "done", 0.5)
    assert one.updated_at == record.updated_at


async def test_runs_that_have_not_ended_are_counted(journals: Journals) -> None:
    journal = await journals.open()
    for state in ("queued", "queued", "running", "waiting", "done", "failed", "cancelled"):
        record = await journal.create(a_record(), "")
        record.state = state
        await journal.write(record)

    assert await journal.counts() == {"queued": 2, "running": 1, "waiting": 1}


# Events


async def test_events_are_read_in_their_order_up_to_the_last(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    other = await journal.create(a_record(), "")
    for number in range(30):
        await journal.add(record.id, told(number))
        await journal.add(other.id, told(-number))
    await journal.add(record.id, DONE)

    async with asyncio.timeout(5):
        found = [event async for event in journal.events(record.id)]

    assert found == [*map(told, range(30)), DONE]


async def test_events_are_followed_while_they_come(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    await journal.add(record.id, told(0))
    seen: list[Event] = []

    async def follow() -> None:
        async for event in journal.events(record.id):
            seen.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: len(seen) == 1)
    for number in range(1, 20):
        begin = time.monotonic()
        await journal.add(record.id, told(number))
        await until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]
        assert time.monotonic() - begin < 1
    await journal.add(record.id, DONE)

    await asyncio.wait_for(following, 5)
    assert seen == [*map(told, range(20)), DONE]


async def test_many_readers_of_many_runs_all_read_all(journals: Journals) -> None:
    journal = await journals.open()
    records = [await journal.create(a_record(), "") for _ in range(5)]

    async def read(run_id: str) -> list[Event]:
        return [event async for event in journal.events(run_id)]

    async def write(run_id: str) -> None:
        for number in range(20):
            await journal.add(run_id, told(number))
        await journal.add(run_id, DONE)

    async with asyncio.timeout(9):
        readers = [asyncio.create_task(read(one.id)) for one in records for _ in range(3)]
        await asyncio.gather(*(write(one.id) for one in records))
        found = await asyncio.gather(*readers)

    assert found == [[*map(told, range(20)), DONE]] * 15


async def test_events_are_there_after_a_restart_and_go_on_after_those_before(
    journals: Journals,
) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    await journal.add(record.id, told(1))
    await journals.close(journal)

    journal = await journals.open()
    await journal.add(record.id, DONE)

    async with asyncio.timeout(5):
        assert [event async for event in journal.events(record.id)] == [told(1), DONE]


async def test_an_event_holds_any_text(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    event = Event("done", {"result": 'a "quote"\n\u2028🏠', "spent": {"dollars": None}})

    await journal.add(record.id, event)

    assert await happened(journal, record.id, 1) == [event]


async def test_a_reader_who_leaves_disturbs_nobody(journals: Journals) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    await journal.add(record.id, told(1))

    async def read() -> list[Event]:
        return [event async for event in journal.events(record.id)]

    leaving, staying = asyncio.create_task(read()), asyncio.create_task(read())
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.wait([leaving])
    await journal.add(record.id, DONE)

    assert await asyncio.wait_for(staying, 5) == [told(1), DONE]


# The queue


async def test_runs_are_taken_in_the_order_in_which_they_came(journals: Journals) -> None:
    journal = await journals.open()
    records = [await journal.create(a_record(), "") for _ in range(5)]

    assert [(await taken(journal)).run_id for _ in records] == [one.id for one in records]


async def test_who_waits_for_work_gets_it_as_soon_as_there_is_some(journals: Journals) -> None:
    journal = await journals.open()
    waiting = asyncio.create_task(taken(journal))
    await asyncio.sleep(0.1)
    begin = time.monotonic()

    record = await journal.create(a_record(), "")

    assert (await waiting).run_id == record.id
    assert time.monotonic() - begin < 1


async def test_what_is_done_is_taken_by_nobody_any_more(journals: Journals) -> None:
    journal = await journals.open()
    await journal.create(a_record(), "")
    job = await taken(journal)

    await job.done()

    assert await nothing_to_take(journal, 1.2 if journals.shared else 0.2)


async def test_what_is_handed_back_is_taken_again_at_once_and_counts_as_no_try(
    journals: Journals,
) -> None:
    journals.ack_wait_s = 30  # what comes sooner was handed back
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    for _ in range(5):
        job = await taken(journal, 8)
        assert (job.run_id, job.tries) == (record.id, 1)
        await job.again()


async def test_what_was_lost_is_taken_again_and_its_tries_are_counted(journals: Journals) -> None:
    journal = await journals.open()
    await journal.create(a_record(), "")
    for tries in (1, 2, 3, 4):
        job = await taken(journal)
        assert job.tries == tries
        await job.lost()


async def test_what_is_buried_is_taken_by_nobody_any_more(journals: Journals) -> None:
    journal = await journals.open()
    await journal.create(a_record(), "")
    job = await taken(journal)

    await job.bury("lost its workers")

    assert await nothing_to_take(journal, 1.2 if journals.shared else 0.2)


async def test_a_run_that_is_queued_anew_counts_its_tries_anew(journals: Journals) -> None:
    """As one does that waited for a person."""
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    await (await taken(journal)).lost()
    await (await taken(journal)).done()

    await journal.queue(record.id)

    assert (await taken(journal)).tries == 1


async def test_after_a_restart_what_was_queued_or_worked_on_is_taken_up_again(
    journals: Journals,
) -> None:
    journal = await journals.open()
    records = [await journal.create(a_record(), "") for _ in range(3)]
    finished = await taken(journal)
    done = await kept(journal, finished.run_id)
    done.state = "done"
    await journal.write(done)
    await finished.done()
    interrupted = await kept(journal, (await taken(journal)).run_id)
    interrupted.state = "running"
    await journal.write(interrupted)
    await journals.close(journal)

    journal = await journals.open()

    jobs = [await taken(journal), await taken(journal)]
    assert {job.run_id for job in jobs} == {record.id for record in records[1:]}
    tries = {job.run_id: job.tries for job in jobs}
    assert tries == {records[1].id: 2, records[2].id: 1}
    for job in jobs:
        await job.done()
    assert await nothing_to_take(journal)


async def test_a_run_that_waits_for_a_person_is_taken_by_nobody_after_a_restart(
    journals: Journals,
) -> None:
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    job = await taken(journal)
    record.state = "waiting"
    await journal.write(record)
    await job.done()
    await journals.close(journal)

    journal = await journals.open()

    assert await nothing_to_take(journal)
    assert await journal.counts() == {"waiting": 1}


async def test_a_journal_says_where_it_is_and_that_it_is_well(journals: Journals) -> None:
    journal = await journals.open()

    said = await journal.check()

    assert ("NATS" in said) == journals.shared
    assert journal.shared == journals.shared


async def test_a_journal_leaves_no_task_behind(journals: Journals) -> None:
    before = asyncio.all_tasks()
    journal = await journals.open()
    record = await journal.create(a_record(), "")
    await journal.add(record.id, DONE)
    await happened(journal, record.id, 1)

    await journals.close(journal)

    def left() -> list[asyncio.Task[Any]]:
        others = asyncio.all_tasks() - before
        return [task for task in others if "activity_check" not in repr(task)]  # ends by itself

    await until(lambda: not left())


# SQLite alone


async def test_a_second_process_is_kept_out_of_the_same_folder(folder: Path) -> None:
    first, second = LocalJournal(folder, 30), LocalJournal(folder, 30)
    await first.start()

    with pytest.raises(Unavailable, match="Another process works on the runs"):
        await second.start()
    await second.close()

    await first.close()
    third = LocalJournal(folder, 30)
    await third.start()
    await third.close()


async def test_a_disk_that_is_full_is_told_and_nothing_in_the_queue_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = LocalJournal(folder, 30)
    await journal.start()
    record = await journal.create(a_record(), "")
    full, real = True, journal._db

    class Full:
        def execute(self, statement: str, *values: Any) -> Any:
            if full and not statement.startswith("SELECT"):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *values)

        def close(self) -> None:
            real.close()

    monkeypatch.setattr(journal, "_db", Full())
    with pytest.raises(Unavailable, match=r"cannot be kept \(database or disk is full\)"):
        await taken(journal, 1)

    full = False

    assert (await taken(journal, 1)).run_id == record.id
    await journal.close()


async def test_what_ended_long_ago_is_forgotten_and_what_did_not_end_is_kept(
    folder: Path,
) -> None:
    long_ago = "2020-01-01T00:00:00.000+00:00"
    journal = LocalJournal(folder, 30)
    await journal.start()
    ids = {}
    for state in ("done", "failed", "cancelled", "queued", "running", "waiting"):
        record = a_record(state=state, created_at=long_ago, updated_at=long_ago)
        ids[state] = (await journal.create(record, "")).id
    fresh = await journal.create(a_record(state="done"), "")

    await journal.add(fresh.id, told(1))

    there = {state for state, run_id in ids.items() if await journal.read(run_id)}
    assert there == {"queued", "running", "waiting"}
    assert await journal.read(fresh.id)
    await journal.close()


async def test_what_has_just_ended_is_kept_however_long_ago_it_began(folder: Path) -> None:
    journal = LocalJournal(folder, 30)
    await journal.start()
    record = await journal.create(a_record(created_at="2020-01-01T00:00:00.000+00:00"), "")
    record.state = "done"
    await journal.write(record)

    await journal.add(record.id, DONE)

    assert await journal.read(record.id)
    assert await happened(journal, record.id, 1) == [DONE]
    await journal.close()


async def test_nothing_stays_in_memory_of_a_run_that_was_read_to_its_end(folder: Path) -> None:
    journal = LocalJournal(folder, 30)
    await journal.start()
    for _ in range(20):
        record = await journal.create(a_record(), "")
        await journal.add(record.id, DONE)
        await happened(journal, record.id, 1)

    await until(lambda: journal._news == {})  # the last reader is put away
    await journal.close()


async def test_a_slow_disk_stops_nobody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = LocalJournal(folder, 30)
    await journal.start()
    begun, came = threading.Event(), threading.Event()
    in_time = []

    def slow(run_id: str, seen: int) -> list[tuple[str]]:
        begun.set()
        in_time.append(came.wait(5))
        return []

    monkeypatch.setattr(journal, "_since", slow)
    reading = asyncio.create_task(happened(journal, "x", 1))

    await until(begun.is_set)
    came.set()  # by the loop, which would not be here if it waited for the disk itself
    await until(lambda: in_time)

    assert in_time[0]
    reading.cancel()
    await asyncio.wait([reading])
    await journal.close()


async def test_events_are_also_told_to_those_who_listen_on_nats(folder: Path) -> None:
    heard = []

    class Listeners:
        url = "nats://somewhere"

        async def announce(self, run_id: str, event: Event) -> None:
            heard.append((run_id, event))

        async def close(self) -> None:
            heard.append(("", told(-1)))

    journal = LocalJournal(folder, 30, Listeners())
    await journal.start()
    record = await journal.create(a_record(), "")

    await journal.add(record.id, DONE)
    await journal.close()

    assert "JetStream is off at nats://somewhere" in journal.place
    assert heard == [(record.id, DONE), ("", told(-1))]


# NATS alone


@pytest.fixture
def soon_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader misses its server after 1 s, and not after 10."""
    monkeypatch.setattr(journal_nats, "TAKE_S", 0.5)
    subscribe = JetStreamContext.subscribe

    async def impatiently(self: JetStreamContext, *args: Any, **options: Any) -> Any:
        return await subscribe(self, *args, **options | {"idle_heartbeat": 0.5})

    monkeypatch.setattr(JetStreamContext, "subscribe", impatiently)


async def opened(jetstream: Jetstream, **options: Any) -> NatsJournal:
    server = await jetstream.connect(options.pop("app", "crew"))
    journal = NatsJournal(server, options.pop("keep_days", 30), options.pop("ack_wait_s", 1))
    await asyncio.wait_for(journal.start(), 3)
    return journal


async def test_two_workers_on_one_queue_never_have_one_run_at_the_same_time(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journals = [await opened(jetstream) for _ in range(2)]
    records = [await journals[0].create(a_record(), "") for _ in range(30)]
    had: list[str] = []

    async def work(journal: NatsJournal) -> None:
        while len(had) < len(records):
            try:
                job = await asyncio.wait_for(journal.take(), 1)
            except TimeoutError:
                continue
            had.append(job.run_id)
            await asyncio.sleep(0.01)
            await job.done()

    await asyncio.gather(*map(work, journals))

    assert sorted(had) == sorted(record.id for record in records)
    for journal in journals:
        await journal.close()


async def test_a_run_is_anothers_when_its_worker_is_silent_and_not_before(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    first, second = [await opened(jetstream, ack_wait_s=4) for _ in range(2)]
    record = await first.create(a_record(), "")
    job = await taken(first)
    waiting = asyncio.create_task(taken(second, 20))
    for _ in range(5):
        await asyncio.sleep(1)
        await job.working()
    assert not waiting.done()

    again = await waiting

    assert (again.run_id, again.tries) == (record.id, 2)
    await first.close()
    await second.close()


async def test_ack_wait_s_is_the_one_that_was_set_last(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    """A worker beats three times in it: were the old, shorter one in force, it would be lost."""
    await (await opened(jetstream, ack_wait_s=1)).close()

    journal = await opened(jetstream, ack_wait_s=7)

    info = await journal._queue.consumer_info()
    assert info.config.ack_wait == 7
    await journal.close()


async def test_keep_days_are_those_that_were_set_last(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    await (await opened(jetstream, keep_days=30)).close()

    journal = await opened(jetstream, keep_days=3)

    for name in ("crew-work", "crew-events", "crew-dead", "KV_crew-runs"):
        info = await journal._js.stream_info(name)
        assert (name, info.config.max_age) == (name, 3 * 86_400)
    await journal.close()


async def test_every_replica_lists_and_counts_what_another_keeps(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    first = await opened(jetstream)
    old = await first.create(a_record(topic="before"), "")
    second, heard = await opened(jetstream), []
    second.on_change = lambda record: heard.append((record.id, record.state))
    new = await first.create(a_record(topic="after"), "")
    old.state = "cancelled"
    await first.write(old)

    await until(lambda: (old.id, "cancelled") in heard and (new.id, "queued") in heard)

    listed = await second.listed("ana", 10)
    assert {(one.topic, one.state) for one in listed} == {
        ("before", "cancelled"),
        ("after", "queued"),
    }
    assert await second.counts() == {"queued": 1}
    await first.close()
    await second.close()


async def test_two_apps_on_one_server_do_not_see_each_others_runs(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    mine, theirs = await opened(jetstream, app="mine"), await opened(jetstream, app="theirs")
    record = await mine.create(a_record(), "key")

    assert await theirs.read(record.id) is None
    assert await theirs.listed("ana", 10) == []
    assert await nothing_to_take(theirs)
    await mine.close()
    await theirs.close()


@pytest.mark.usefixtures("soon_missed")
async def test_a_server_that_is_restarted_in_the_middle_loses_nothing(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journal = await opened(jetstream)
    journal._js._timeout = 1
    record = await journal.create(a_record(), "")
    await journal.add(record.id, told(0))
    seen: list[Event] = []

    async def follow() -> None:
        async for event in journal.events(record.id):
            seen.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: len(seen) == 1)
    jetstream.stop()
    adding = asyncio.create_task(journal.add(record.id, told(1)))
    record.state = "running"
    writing = asyncio.create_task(journal.write(record))
    await asyncio.sleep(0.3)
    jetstream.start()

    await asyncio.wait_for(asyncio.gather(adding, writing), 8)
    await journal.add(record.id, DONE)

    assert (await kept(journal, record.id)).state == "running"
    await asyncio.wait_for(following, 8)
    assert seen == [told(0), told(1), DONE]
    await journal.close()


@pytest.mark.usefixtures("soon_missed")
async def test_who_waits_for_work_gets_it_after_the_server_was_restarted(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journal = await opened(jetstream)

    async def patient() -> Job:
        while True:
            try:
                return await journal.take()
            except Unavailable:
                await asyncio.sleep(0.2)

    waiting = asyncio.create_task(patient())
    await asyncio.sleep(0.1)
    jetstream.stop()
    await asyncio.sleep(0.2)
    jetstream.start()
    record = await asyncio.wait_for(journal.create(a_record(), ""), 8)

    assert (await asyncio.wait_for(waiting, 8)).run_id == record.id
    await journal.close()


@pytest.mark.usefixtures("soon_missed")
async def test_changes_are_heard_of_after_the_server_was_restarted(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    first, second = await opened(jetstream), await opened(jetstream)
    heard = []
    second.on_change = lambda record: heard.append((record.id, record.state))
    jetstream.stop()
    await asyncio.sleep(0.2)
    jetstream.start()
    record = await asyncio.wait_for(first.create(a_record(), ""), 8)
    record.state = "cancelled"
    await first.write(record)

    await until(lambda: (record.id, "cancelled") in heard, 9)
    await first.close()
    await second.close()


async def test_a_server_that_stays_away_is_told_in_a_sentence(
    jetstream: Jetstream, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_nats, "PATIENCE_S", 0.3)
    monkeypatch.setattr(health, "LIMIT_S", 0.3)
    journal = await opened(jetstream)
    record = await journal.create(a_record(), "")
    jetstream.stop()
    journal._js._timeout = 0.3

    for call in (
        journal.create(a_record(), ""),
        journal.create(a_record(), "key"),
        journal.read(record.id),
        journal.write(record),
        journal.add(record.id, DONE),
        journal.queue(record.id),
    ):
        with pytest.raises(Unavailable, match=r"NATS at .* check NATS_URL") as failure:
            await asyncio.wait_for(call, 4)
        assert str(failure.value).endswith(".")
    found = await health.probe({"runs": journal.check})
    assert not found["runs"]["ok"]
    await journal.close()


@pytest.mark.parametrize("data", [b"{no json", b"[]", b"{}", b'{"id": 5}'])
async def test_a_record_that_is_none_stops_nobody_else(
    data: bytes, jetstream: Jetstream, anyio_backend: str
) -> None:
    first = await opened(jetstream)
    await first._bucket.put("run.broken", data)
    record = await first.create(a_record(), "")

    second = await opened(jetstream)

    assert [one.id for one in await second.listed("ana", 10)] == [record.id]
    late = await first.create(a_record(), "")
    heard = second._known

    await until(lambda: late.id in heard)
    await first.close()
    await second.close()


async def test_what_the_server_has_forgotten_is_not_listed_any_more(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journal = await opened(jetstream, keep_days=30)
    record = await journal.create(a_record(), "")
    await journal._js.purge_stream("KV_crew-runs")  # as it does by itself after KEEP_DAYS
    journal._keep_s = 0
    await asyncio.sleep(0.1)

    assert await journal.read(record.id) is None
    assert await journal.listed("ana", 10) == []
    assert await journal.counts() == {}
    await journal.close()


async def test_a_run_whose_place_in_the_queue_was_lost_gets_another(
    jetstream: Jetstream, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_nats, "FORGOTTEN_S", 2)
    monkeypatch.setattr(journal_nats, "TAKE_S", 0.5)
    journals = [await opened(jetstream, ack_wait_s=20) for _ in range(3)]
    record = await journals[0].create(a_record(), "")
    await (await taken(journals[0])).done()  # as if it had never come into the queue
    await asyncio.sleep(2.3)

    jobs = [asyncio.create_task(taken(journal, 3)) for journal in journals]
    await asyncio.wait(jobs)

    had = [job.result().run_id for job in jobs if not job.exception()]
    assert had == [record.id]
    for journal in journals:
        await journal.close()


async def test_a_dead_letter_says_which_run_and_why(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journal = await opened(jetstream)
    record = await journal.create(a_record(), "")

    await (await taken(journal)).bury("lost its workers")

    message = await journal._js.get_last_msg("crew-dead", "agents.crew.dead")
    letter = json.loads(message.data or b"")
    assert (letter["run_id"], letter["why"]) == (record.id, "lost its workers")
    await journal.close()


async def test_an_event_on_nats_says_of_which_run_and_when(
    jetstream: Jetstream, anyio_backend: str
) -> None:
    journal = await opened(jetstream)
    listening = await journal._server.client.subscribe("agents.crew.events.*")
    record = await journal.create(a_record(), "")

    await journal.add(record.id, DONE)

    sent = json.loads((await listening.next_msg(2)).data)
    assert set(sent) == {"run_id", "type", "data", "at"}
    assert (sent["run_id"], sent["type"], sent["data"]) == (record.id, "done", DONE.data)
    await journal.close()


async def test_a_server_without_jetstream_is_found_out(
    jetstream: Jetstream, folder: Path, anyio_backend: str
) -> None:
    plain = Jetstream(folder, "-V")
    plain.start()
    server, with_it = await plain.connect(), await jetstream.connect()

    assert not await server.has_jetstream()
    assert await with_it.has_jetstream()
    await server.close()
    await with_it.close()
    plain.stop()


async def test_a_server_that_is_slow_to_say_is_not_taken_for_one_without_jetstream(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the runs on it would be forgotten over an empty SQLite until the next start."""
    server = NatsServer(Client(), "nats://127.0.0.1:9", "", "crew")

    class Slow:
        async def account_info(self) -> None:
            raise TimeoutError

    monkeypatch.setattr(server.client, "jetstream", Slow)

    with pytest.raises(Unavailable):
        await server.has_jetstream()


async def test_a_server_that_is_away_at_the_start_is_told(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "CONNECT_S", 0.3)
    server = NatsServer(Client(), "nats://127.0.0.1:9", "", "crew")

    with pytest.raises(Unavailable, match=r"NATS at nats://127\.0\.0\.1:9"):
        await asyncio.wait_for(server.connect(), 6)


async def test_a_server_that_asks_for_a_token_is_given_it_and_never_shows_it(
    jetstream: Jetstream,
    folder: Path,
    anyio_backend: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    closed = Jetstream(folder, "--auth", "s3cret")
    closed.start()

    right = await closed.connect(token="s3cret")
    assert "NATS" in await right.check()
    monkeypatch.setattr(nats_server, "CONNECT_S", 0.3)
    with pytest.raises(Unavailable) as failure:
        await asyncio.wait_for(closed.connect(token="other"), 6)

    assert "s3cret" not in f"{failure.value} {caplog.text} {right!r}"
    await right.close()
    closed.stop()
