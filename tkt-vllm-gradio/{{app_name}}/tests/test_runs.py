"""Runs outlive the connection that asked for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

import agent.runs as module
from agent.runs import Event, Run, Runs, segment

pytestmark = pytest.mark.anyio


def token(n: int) -> Event:
    return Event("token", {"text": str(n)})


async def five(_: Run) -> AsyncGenerator[Event, None]:
    for n in range(1, 5):
        await asyncio.sleep(0)
        yield token(n)
    yield Event("done", {})


class Endless:
    """Work that never ends by itself, and says when it was stopped."""

    stopped = False

    async def __call__(self, _: Run) -> AsyncGenerator[Event, None]:
        try:
            yield token(1)
            await asyncio.Event().wait()
        finally:
            self.stopped = True


def parse(frames: str) -> list[tuple[int, str, Any]]:
    found = []
    for frame in frames.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
        if "id" in lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


async def read(run: Run, after: int = 0) -> str:
    return "".join([frame async for frame in segment(run, after)])


@pytest.fixture
async def runs(anyio_backend: str) -> AsyncIterator[Runs]:
    made = Runs()
    yield made
    await made.close()


async def test_events_are_numbered_and_a_segment_ends_with_the_run(runs: Runs) -> None:
    text = await read(runs.start(five, 60))

    assert text.startswith("retry: 500\n\n")
    assert [(n, type) for n, type, _ in parse(text)] == [
        (1, "token"),
        (2, "token"),
        (3, "token"),
        (4, "token"),
        (5, "done"),
    ]


@pytest.mark.parametrize("seen", range(6))
async def test_a_reader_goes_on_after_the_last_number_it_saw(runs: Runs, seen: int) -> None:
    run = runs.start(five, 60)
    await run.wait(1)

    assert [n for n, _, _ in parse(await read(run, seen))] == list(range(seen + 1, 6))


async def test_a_reader_cut_off_after_every_event_still_gets_all_in_order(runs: Runs) -> None:
    run, seen = runs.start(five, 60), []
    while not seen or seen[-1][1] != "done":
        async for frames in segment(run, len(seen)):
            if new := parse(frames):
                seen += new[:1]  # and the connection breaks
                break

    assert [n for n, _, _ in seen] == [1, 2, 3, 4, 5]


async def test_text_with_line_ends_and_any_letters_stays_one_frame(runs: Runs) -> None:
    odd = "a\n\ndata: b\r\u2028ü"

    async def work(_: Run) -> AsyncGenerator[Event, None]:
        yield Event("done", {"text": odd})

    assert parse(await read(runs.start(work, 60))) == [(1, "done", {"text": odd})]


async def test_a_segment_ends_in_time_with_heartbeats_while_the_run_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_S", 1.5)
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.1)
    run = runs.start(Endless(), 60)
    loop = asyncio.get_running_loop()
    begun = loop.time()

    text = await read(run)

    assert 1.4 < loop.time() - begun < 5
    assert text.count(": still working\n\n") >= 2
    assert [n for n, _, _ in parse(text)] == [1]
    assert not run.ended


async def test_a_run_that_nobody_reads_is_cancelled_and_its_work_with_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 0.1)
    work = Endless()
    run = runs.start(work, 60)

    await run.wait(5)  # counts as a read only at its end

    assert work.stopped
    assert run.events[-1].data["detail"] == "This was cancelled."


async def test_a_run_that_is_read_goes_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 1)
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(module, "SEGMENT_S", 2.5)
    run = runs.start(Endless(), 60)

    await read(run)

    assert not run.ended


async def test_work_without_a_limit_goes_on_also_when_nobody_reads(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 0.05)
    run = runs.start(Endless(), None)

    await asyncio.sleep(0.2)

    assert not run.ended


async def test_a_run_is_given_up_at_its_limit(runs: Runs) -> None:
    work = Endless()
    last = await runs.start(work, 0.1).wait(2)

    assert last is not None
    assert last.data["detail"] == "This took longer than 0.1 s and was given up."
    assert work.stopped


async def test_a_run_can_be_cancelled_and_ends_once(runs: Runs) -> None:
    work = Endless()
    run = runs.start(work, 60)
    await asyncio.sleep(0.01)

    await runs.cancel(run)
    await runs.cancel(run)
    run.add(token(9))

    assert work.stopped
    assert [event.type for event in run.events] == ["token", "error"]


async def test_work_that_breaks_ends_in_an_error_that_tells_no_secrets(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Run) -> AsyncGenerator[Event, None]:
        yield token(1)
        raise RuntimeError("key sk-123")

    run = runs.start(broken, 60)
    last = await run.wait(2)

    assert last == Event(
        "error",
        {"run_id": run.id, "detail": "This failed; the log says why, under the run's id."},
    )
    assert run.id in caplog.text


async def test_waiting_for_a_run_gives_up_in_time_and_leaves_it_running(runs: Runs) -> None:
    run = runs.start(Endless(), 60)

    assert await run.wait(0.05) is None
    assert not run.ended


async def test_an_ended_run_can_be_read_for_a_while_and_is_then_forgotten(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.1)
    run = runs.start(five, 60)
    await run.wait(1)
    assert runs.get(run.id) is run

    await asyncio.sleep(0.2)

    assert runs.get(run.id) is None
    assert runs.get("never") is None


async def test_of_many_ended_runs_the_oldest_are_forgotten_and_none_that_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    going = runs.start(Endless(), 60)
    ended = [runs.start(five, 60) for _ in range(4)]
    for run in ended:
        await run.wait(1)
    await asyncio.sleep(0.01)

    assert [runs.get(run.id) for run in ended] == [None, None, *ended[2:]]
    assert runs.get(going.id) is going


async def test_closing_stops_all_runs() -> None:
    runs, works = Runs(), [Endless(), Endless()]
    for work in works:
        runs.start(work, 60)
    await asyncio.sleep(0.01)

    await runs.close()

    assert all(work.stopped for work in works)
