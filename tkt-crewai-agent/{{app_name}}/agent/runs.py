"""Long work that outlives the connection that asked for it.

The platform's edge cuts every response after 15 seconds. So an answer is a *run*: it goes on in the
server, its events are numbered, and a client that was cut off reads on after the last number it
saw. A run that nobody has read for `ABANDONED_S` is cancelled, and with it the call to the model.
This file knows nothing of what a run does.
"""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

SEGMENT_S = 10
"""A streamed response ends by itself before the edge cuts it; the client asks for the rest."""
HEARTBEAT_S = 4
"""Silence after which a comment is sent, so that nothing on the way takes the stream for dead."""
ABANDONED_S = 30
"""Long enough for a phone that changes networks, short enough not to pay for an unread answer."""
KEPT_S = 900
"""How long the events of an ended run can still be read."""
KEPT = 500
"""How many ended runs, so that a busy hour fills no memory: the oldest go first."""
DRAIN_S = 16
"""What running answers get at SIGTERM; the server cuts what is open after 20 s."""
RESTARTED = "The app is being restarted and could not finish this; ask again in a few seconds."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What happens in a run. The last one is `done` or `error`."""

    type: str
    data: dict[str, Any]

    @property
    def last(self) -> bool:
        return self.type in ("done", "error")


@dataclass
class Run:
    owner: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    events: list[Event] = field(default_factory=list)
    read_at: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    last_chance: bool = False
    """The process is about to end, so a stream of this run goes on for as long as it can."""

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].last

    def add(self, event: Event) -> None:
        if not self.ended:
            self.events.append(event)
        self.wake()

    def wake(self) -> None:
        """Let everyone look who waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()

    def fresh(self, after: int = 0) -> list[Event]:
        """Events after number `after`; whoever asks is a reader, so the run goes on."""
        self.read_at = time.monotonic()
        return self.events[after:]

    async def wait(self, seconds: float) -> Event | None:
        """The last event, or None when the run has not ended in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self.changed.wait()
        self.read_at = time.monotonic()
        return self.events[-1] if self.ended else None


Work = Callable[[Run], AsyncGenerator[Event, None]]


class Runs:
    """The runs of this process. They end with it."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._ended: dict[str, asyncio.TimerHandle] = {}

    def start(self, work: Work, limit_s: float | None, owner: str = "", id: str = "") -> Run:
        """Begin; with a limit in seconds, or None for work that goes on also when nobody reads.
        `id` is that of work which has one already."""
        run = Run(owner, id or uuid.uuid4().hex)
        self._runs[run.id] = run
        run.task = asyncio.create_task(self._go(run, work, limit_s))
        return run

    def get(self, run_id: str, owner: str = "") -> Run | None:
        """The run of this id, where it is `owner`'s."""
        run = self._runs.get(run_id)
        return run if run and run.owner == owner else None

    def running(self, owner: str | None = None) -> int:
        """How many have not ended, of `owner` or of all."""
        runs = self._runs.values()
        return sum(not run.ended for run in runs if owner is None or run.owner == owner)

    async def cancel(self, run: Run) -> None:
        if run.task and not run.task.done():
            run.task.cancel()
            await asyncio.wait([run.task], timeout=2)

    async def drain(self) -> None:
        """The process is about to end: give each run the time that is left, and end its streams.

        A client cannot come back to this process, so what is open stays open meanwhile.
        """
        unfinished = {run.task: run for run in self._runs.values() if run.task and not run.ended}
        for run in unfinished.values():
            run.last_chance = True
            run.wake()
        if unfinished:
            _, late = await asyncio.wait(unfinished, timeout=DRAIN_S)
            for task in late:
                unfinished[task].add(_error(unfinished[task], RESTARTED))
                task.cancel()

    async def close(self) -> None:
        await asyncio.gather(*(self.cancel(run) for run in self._runs.values()))

    async def _go(self, run: Run, work: Work, limit_s: float | None) -> None:
        watch = asyncio.create_task(self._watch(run)) if limit_s else None
        try:
            async with contextlib.aclosing(work(run)) as events, asyncio.timeout(limit_s):
                async for event in events:
                    run.add(event)
        except TimeoutError:
            run.add(_error(run, f"This took longer than {limit_s:g} s and was given up."))
        except asyncio.CancelledError:
            run.add(_error(run, "This was cancelled."))
        except Exception:
            log.exception("run %s failed", run.id)
            run.add(_error(run, "This failed; the log says why, under the run's id."))
        finally:
            if watch:
                watch.cancel()
            self._keep_for_a_while(run.id)

    def _keep_for_a_while(self, run_id: str) -> None:
        loop = asyncio.get_running_loop()
        self._ended[run_id] = loop.call_later(KEPT_S, self._forget, run_id)
        if len(self._ended) > KEPT:
            self._forget(next(iter(self._ended)))

    def _forget(self, run_id: str) -> None:
        self._ended.pop(run_id).cancel()
        del self._runs[run_id]

    async def _watch(self, run: Run) -> None:
        while run.task:
            await asyncio.sleep(ABANDONED_S / 10)
            if time.monotonic() - run.read_at > ABANDONED_S:
                run.task.cancel()


def _error(run: Run, detail: str) -> Event:
    return Event("error", {"run_id": run.id, "detail": detail})


async def segment(run: Run, after: int) -> AsyncIterator[str]:
    """One response of server-sent events: what has happened after number `after`, then what does,
    until the run ends or the segment's time is over."""
    yield "retry: 500\n\n"
    deadline = time.monotonic() + SEGMENT_S
    while (left := deadline - time.monotonic()) > 0 or run.last_chance:
        changed = run.changed
        if fresh := run.fresh(after):
            yield "".join(_frame(after + n, event) for n, event in enumerate(fresh, 1))
            after += len(fresh)
        if run.ended:
            return
        try:
            async with asyncio.timeout(HEARTBEAT_S if run.last_chance else min(left, HEARTBEAT_S)):
                await changed.wait()
        except TimeoutError:
            yield ": still working\n\n"


def _frame(number: int, event: Event) -> str:
    data = json.dumps(event.data, ensure_ascii=False)
    return f"id: {number}\nevent: {event.type}\ndata: {data}\n\n"


STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Asks proxies on the way to pass each event on at once."""
