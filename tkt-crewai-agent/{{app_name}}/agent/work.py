"""How a run is begun, followed, approved and stopped: what every door does.

A door never waits for a crew. It puts a run into the journal, from which a worker, here or in
another process, takes it; and it follows the events that the journal has of it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent import prompts
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.journal import Brief, Changed
from agent.records import Budget, Record
from agent.runs import Event, Run
from agent.worker import PAUSE_S, last_event

if TYPE_CHECKING:
    from agent.services import Services

QUEUED = Event("state", {"state": "queued", "attempt": 0, "note": ""})
CANCELLED = "This was cancelled."
SILENCE_S = 2
"""How long the last event of a run that has ended may take."""
LONGEST_COMMENT = 4000
PROCESSES = ("sequential", "hierarchical")


@dataclass(frozen=True)
class Ask:
    """What somebody wants of the crew."""

    topic: str
    process: str = "sequential"
    approve: tuple[str, ...] = ()
    budget: dict[str, float] = field(default_factory=dict)
    """Less than the settings allow: steps, tokens, dollars, seconds."""
    user: User = field(default_factory=User)
    door: str = "api"
    key: str = ""
    """The same key from the same user is the same run."""
    traceparent: str = ""


async def begin(here: "Services", ask: Ask) -> Record:
    """Queue a run; Refused when it cannot be."""
    topic = ask.topic.strip()
    longest = here.settings.max_topic_chars
    if not topic or len(topic) > longest:
        raise Refused(f"A topic has 1 to {longest:,} characters; this one has {len(topic):,}.")
    if ask.process not in PROCESSES:
        raise Refused(f"There is no process {ask.process[:50]!r}; there are {PROCESSES}.")
    tasks = [step.name for step in prompts.TASKS[:-1]]
    if unknown := [name for name in ask.approve if name not in tasks]:
        raise Refused(f"No task to approve is called {unknown[0][:50]!r}; there are {tasks}.")
    here.limits.request(ask.user)
    if not (ask.key and await here.journal.found(ask.user.id, ask.key)):
        here.limits.run(ask.user, here.runs)
    wanted = Record(
        ask.user.id,
        topic,
        _budget(here, ask.budget),
        ask.process,
        list(ask.approve),
        ask.door,
        traceparent=ask.traceparent,
    )
    record = await here.journal.create(wanted, ask.key, QUEUED)
    if record is not wanted and (record.topic, record.process) != (topic, ask.process):
        raise Refused("This key was used before, for another topic or process; use a new one.", 409)
    _mirror(here, record)
    return record


def _budget(here: "Services", wanted: dict[str, float]) -> Budget:
    most = here.settings.budget
    for name, amount in wanted.items():
        if name not in vars(most):
            raise Refused(f"There is no budget of {name[:50]!r}; there are {list(vars(most))}.")
        limit = getattr(most, name)
        if not 0 < amount <= limit:
            raise Refused(f"The budget of {name} is more than 0 and at most {limit:g} here.")
    return Budget(**vars(most) | wanted)


async def record_of(here: "Services", run_id: str, user: User) -> Record:
    """The record of a run of this user; others' are not to be told from none."""
    record = await here.journal.read(run_id)
    if record is None or record.owner != user.id:
        raise Refused(f"There is no run {run_id[:64]!r}, or it is too long ago.", 404)
    return record


async def follow(here: "Services", run_id: str, user: User) -> Run:
    """The run's events so far and as they come, also those of another process' worker."""
    if run := here.runs.get(run_id, user.id):
        return run
    record = await record_of(here, run_id, user)
    return here.runs.get(run_id, user.id) or _mirror(here, record)


def _mirror(here: "Services", record: Record) -> Run:
    async def events(_: Run) -> AsyncGenerator[Event, None]:
        seen = 0
        while True:
            number = 0
            try:
                async with aclosing(_told(here, record)) as events:
                    async for event in events:
                        number += 1
                        if number > seen:
                            seen = number
                            yield event
                return
            except Unavailable:  # the run goes on, and so do its readers when it is back
                await asyncio.sleep(PAUSE_S)

    if run := here.runs.get(record.id, record.owner):
        return run
    return here.runs.start(events, None, record.owner, record.id)


async def _told(here: "Services", record: Record) -> AsyncGenerator[Event, None]:
    """The journal's events; where the process ended before it could tell the last one of a run that
    has ended, that one from the record."""
    async with aclosing(here.journal.events(record.id)) as events:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S if record.final else None):
                    event = await anext(events)
            except TimeoutError:
                yield last_event(record, here.model.rehearses)
                return
            except StopAsyncIteration:
                return
            yield event


async def cancel(here: "Services", run_id: str, user: User) -> Record:
    """End a run, wherever it is; one that has ended stays as it is."""
    while not (record := await record_of(here, run_id, user)).final:
        record.state, record.error, record.asked = "cancelled", CANCELLED, None
        with suppress(Changed):
            await here.journal.write(record)
            await here.journal.add(record.id, last_event(record, here.model.rehearses))
            here.measures.ended(record)
            break
    return record


async def decide(
    here: "Services", run_id: str, user: User, decision: str, comment: str = ""
) -> Record:
    """Let a run that waits go on (`approve`), or do its last task again (`redo`)."""
    comment = comment.strip()[:LONGEST_COMMENT]
    if decision not in ("approve", "redo"):
        raise Refused(f"One can approve or redo, and not {decision[:50]!r}.")
    if decision == "redo" and not comment:
        raise Refused("Say in a comment what should be done otherwise.")
    while True:
        record = await record_of(here, run_id, user)
        if record.state != "waiting" or not record.asked:
            raise Refused(f"This run waits for nobody: it is {record.state}.", 409)
        task = record.asked["task"]
        by = user.name or user.id or "somebody"
        record.comments.append({"task": task, "decision": decision, "comment": comment, "by": by})
        if decision == "redo":
            record.outputs.pop()
        record.state, record.asked = "queued", None
        with suppress(Changed):
            await here.journal.write(record)
            break
    status = "approved" if decision == "approve" else "redo"
    told = {"task": task, "status": status, "comment": comment, "by": by, "text": ""}
    await here.journal.add(run_id, Event("approval", told))
    await here.journal.queue(run_id)
    return record


async def listed(here: "Services", user: User, limit: int = 50) -> list[Brief]:
    """The runs of this user, newest first."""
    return await here.journal.listed(user.id, limit)


def told(record: Record) -> dict[str, Any]:
    """A record as the API gives it: all but what is the workers' own."""
    hidden = ("owner", "traceparent", "revision", "worker", "ticket", "id")
    shown = {name: value for name, value in vars(record).items() if name not in hidden}
    shown |= {"spent": vars(record.spent), "budget": vars(record.budget)}
    return shown | {"run_id": record.id}
