"""Where runs are kept and wait for a worker: what its two forms have in common.

`journal_local` is SQLite in DATA_DIR, for one process; `journal_nats` is JetStream, which many
workers share. Both keep a record a run, its events in order, and a queue of runs to work on.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agent.records import Record
from agent.runs import Event

T = TypeVar("T")
TRIES = 3
"""Workers that may be lost over a run before it is put aside as a dead letter."""


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What is begun is done, also when whoever asked is cancelled meanwhile: or they would not know
    whether it was."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=5)
        raise


class Changed(Exception):
    """Somebody else has changed the record since it was read."""


@dataclass(frozen=True)
class Brief:
    """What a list shows of a run."""

    id: str
    owner: str
    topic: str
    state: str
    dollars: float | None
    created_at: str
    updated_at: str


def brief(record: Record) -> Brief:
    told = (record.id, record.owner, record.topic[:200], record.state, record.spent.dollars)
    return Brief(*told, record.created_at, record.updated_at)


class Job(Protocol):
    """A run that a worker has taken from the queue. It is another's when nobody says `working`
    for ACK_WAIT_S seconds."""

    run_id: str
    tries: int
    """How often it was taken since it was queued, this time included."""

    @property
    def ticket(self) -> str:
        """Which message of the queue it is; "" where there is none."""
        return ""

    async def working(self) -> None: ...
    async def done(self) -> None:
        """It needs no worker any more."""

    async def again(self) -> None:
        """Handed back in good order: another worker may have it at once, and it counts as no
        try."""

    async def lost(self) -> None:
        """It could not be worked on: it is taken up again in a moment."""

    async def bury(self, why: str) -> None:
        """Put it aside as a dead letter."""


class Journal(Protocol):
    """Calls raise `Unavailable` when the journal cannot be reached or is full."""

    place: str
    """Where it is, in words that the page can show."""
    shared: bool
    """Whether other processes work on the same queue."""
    on_change: Callable[[Record], None]
    """Called with each record that anybody has written."""

    async def start(self) -> None:
        """Connect, and take up again what a process that ended has left."""

    async def found(self, owner: str, key: str) -> Record | None:
        """The run that its owner began with this key."""

    async def create(self, record: Record, key: str, first: Event | None = None) -> Record:
        """Keep and queue a new run, and tell `first` before a worker can have it. With a `key` that
        its owner has used before nothing is created, and the record of that time is given."""

    async def read(self, run_id: str) -> Record | None: ...

    async def write(self, record: Record) -> None:
        """Keep it, unless it was changed since it was read: then `Changed`."""

    async def listed(self, owner: str, limit: int) -> list[Brief]:
        """The runs of `owner`, newest first."""

    async def counts(self) -> dict[str, int]:
        """How many runs are in each state that is not final."""

    async def queue(self, run_id: str) -> None:
        """Ask for a worker."""

    async def take(self) -> Job:
        """The next run in the queue, waiting until there is one."""

    async def take_no_more(self) -> None:
        """What is queued from now on goes to other workers."""

    async def add(self, run_id: str, event: Event) -> None: ...

    def events(self, run_id: str) -> AsyncGenerator[Event, None]:
        """All events of a run in order, then those that come, up to the last one."""
        raise NotImplementedError

    async def check(self) -> str:
        """In words how it is; raises when it does not answer."""

    async def close(self) -> None: ...
