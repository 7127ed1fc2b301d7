"""What is done with the runs in the queue: each gets a new crew, a thread and a desk.

A run belongs to its worker as long as that says that it works. One whose worker is lost is taken
up by another, after the last task that was finished; after `TRIES` lost workers it is put aside.
"""

import asyncio
import logging
import platform
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agent import prompts
from agent.desk import Desk, Stopped
from agent.errors import Unavailable
from agent.journal import TRIES, Changed, Job, Journal, to_its_end
from agent.records import Record, now
from agent.runs import Event
from agent.tools import offered
from agent.tracing import Trace

if TYPE_CHECKING:
    from agent.services import Services

END_S = 2
"""What a crew's thread gets to end, once its call was cancelled."""
PAUSE_S = 2
"""Before the queue is asked again, and a run is taken up again that could not be kept."""
DEAD = "This run lost its worker {tries} times and was put aside; the log of the workers says more."
RESTART = "Its worker is being restarted; the next one goes on after the last finished task."

log = logging.getLogger(__name__)


@dataclass
class Work:
    """A run that is being worked on."""

    job: Job
    task: "asyncio.Task[None] | None" = None
    handed_back: bool = False
    attempt: int = 0

    def cancel(self) -> None:
        if self.task:
            self.task.cancel()


class Worker:
    """Works on up to `at_once` runs, in this process."""

    def __init__(self, at_once: int, ack_wait_s: float) -> None:
        self.name = f"{platform.node()}-{uuid.uuid4().hex[:6]}"
        self.at_once = at_once
        self.draining = False
        """The process is about to end; its runs go on elsewhere, or at its next start."""
        self._beat_s = ack_wait_s / 3
        self._threads = ThreadPoolExecutor(at_once, "crew")
        self._room = asyncio.Semaphore(at_once)
        self._at_work: list[Work] = []
        """In the order in which they were taken; a run can be there twice."""
        self._taking: asyncio.Task[None] | None = None
        self._journal: Journal | None = None

    @property
    def busy(self) -> int:
        """How many runs it works on."""
        return len(self._at_work)

    def start(self, here: "Services") -> None:
        self._journal = here.journal
        here.journal.on_change = self._noticed
        self._taking = asyncio.create_task(self._take(here))

    async def drain(self) -> None:
        """Take nothing more, and hand back what is being worked on: it is not lost."""
        self.draining = True
        if self._taking:
            self._taking.cancel()
            await asyncio.wait([self._taking], timeout=END_S)
        if self._journal:
            await self._journal.take_no_more()
        for work in self._at_work:
            if not work.handed_back:  # a second word would break off what the first has begun
                work.handed_back = True
                work.cancel()
        if tasks := [work.task for work in self._at_work if work.task]:
            await asyncio.wait(tasks, timeout=5)

    async def close(self) -> None:
        await self.drain()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _noticed(self, record: Record) -> None:
        """Somebody has written a record: a run that was cancelled is stopped, wherever it is."""
        if record.state == "cancelled":
            for work in self._of(record.id):
                work.cancel()

    async def _take(self, here: "Services") -> None:
        while True:
            await self._room.acquire()
            try:
                job = await here.journal.take()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # it is asked again; what is in the queue stays there
                log.warning("The queue does not answer: %s", error)
                self._room.release()
                await asyncio.sleep(PAUSE_S)
                continue
            before, work = self._of(job.run_id), Work(job)
            self._at_work.append(work)
            work.task = asyncio.create_task(self._have(here, work, before))
            work.task.add_done_callback(partial(self._leave, work))

    def _leave(self, work: Work, _: "asyncio.Task[None]") -> None:
        self._at_work.remove(work)
        self._room.release()

    def _of(self, run_id: str) -> list[Work]:
        return [work for work in self._at_work if work.job.run_id == run_id]

    async def _have(self, here: "Services", work: Work, before: list[Work]) -> None:
        """One job, from the queue to its end; after `before`, where this worker has the run."""
        job = work.job
        beating = asyncio.create_task(self._beat(job))
        try:
            if tasks := [other.task for other in before if other.task]:
                await asyncio.wait(tasks)
            record = await self._begin(here, job)
            if record is None:
                await job.done()
            else:
                work.attempt = record.attempt
                await self._work(here, record, work)
        except asyncio.CancelledError:
            if work.handed_back:
                await self._hand_back(here, job)
            else:
                await job.done()
        except Changed:
            with suppress(Exception):  # it was cancelled, or is another worker's now
                there = await here.journal.read(job.run_id)
                if there is None or there.final or there.ticket != job.ticket:
                    await job.done()  # another has it, with another message of the queue
                elif (there.worker, there.attempt) == (self.name, work.attempt):
                    await job.lost()  # nobody else's: it was this worker's own write
        except Exception as error:
            log.warning("run %s could not be worked on: %s", job.run_id, error)
            await asyncio.sleep(PAUSE_S)
            with suppress(Exception):  # then it is taken up when nobody says that they work on it
                # A journal that is away is no lost worker, and does not count as one.
                await (job.again() if isinstance(error, Unavailable) else job.lost())
        finally:
            beating.cancel()

    async def _beat(self, job: Job) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            with suppress(Exception):
                await job.working()

    async def _begin(self, here: "Services", job: Job) -> Record | None:
        """The record, marked as this worker's; None when there is nothing to do."""
        while True:
            record = await here.journal.read(job.run_id)
            if record is None or record.state == "waiting":
                return None
            if record.final:  # whoever ended it may have ended before they told so
                if job.tries > 1 or not here.journal.shared:
                    event = last_event(record, here.model.rehearses)
                    await here.journal.add(record.id, event)
                return None
            if job.tries > TRIES:
                here.measures.dead_letter()
                await self._end(here, record, "failed", DEAD.format(tries=job.tries - 1))
                await job.bury("lost its workers")
                return None
            again = record.attempt > 0 and job.tries > 1
            record.state, record.worker, record.ticket = "running", self.name, job.ticket
            record.attempt += 1
            with suppress(Changed):
                await here.journal.write(record)
                break
        if again:
            here.measures.redelivered()
        note = f"Taken up again after {len(record.outputs)} finished tasks." if again else ""
        told = {"state": "running", "attempt": record.attempt, "note": note}
        await here.journal.add(record.id, Event("state", told))
        return record

    async def _work(self, here: "Services", record: Record, work: Work) -> None:
        trace = here.tracing.start(
            "crew",
            record.topic,
            session_id=record.id,
            user_id=record.owner or None,
            door=record.door,
            parent=record.traceparent,
        )
        record.trace_id = trace.id
        record.traceparent = trace.traceparent.get("traceparent", record.traceparent)
        desk = Desk(here, record, trace)
        left = record.budget.seconds - record.spent.seconds
        limit = asyncio.timeout(max(0.0, left))
        try:
            async with limit:
                await self._crew(here, record, desk)
            await to_its_end(self._settle(here, record, trace))
        except (asyncio.CancelledError, Changed):
            trace.end(level="WARNING", status_message="stopped")
            raise
        except Exception as error:
            if desk.unkept:
                trace.end(level="WARNING", status_message="stopped")
                raise desk.unkept from error
            if limit.expired():
                most = f"{record.budget.seconds:g} seconds"
                desk.reason = f"The run has used its {most} and was ended."
            if not (desk.reason or isinstance(error, Stopped | Unavailable)):
                log.error("run %s failed: %s", record.id, type(error).__name__, exc_info=error)
            reason = desk.reason or f"The crew failed ({type(error).__name__}: {str(error)[:300]})."
            await to_its_end(self._fail(desk, reason))
        finally:
            desk.stop()
        await work.job.done()

    async def _crew(self, here: "Services", record: Record, desk: Desk) -> None:
        """Let CrewAI do the tasks up to the next approval, in a thread."""
        names = [output["task"] for output in record.outputs]
        steps = []
        for step in prompts.TASKS:
            if step.name not in names:
                steps.append(step)
                if step.name in record.approve:
                    break
        if not steps or record.undecided:
            return
        await desk.begin(steps[0].name, here.agent_of(steps[0].name))
        thinking = asyncio.get_running_loop().run_in_executor(
            self._threads, self._think, record, steps, here, desk
        )
        thinking.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at
        try:
            await asyncio.shield(thinking)
        except BaseException:
            desk.stop()
            await asyncio.wait([thinking], timeout=END_S)
            await desk.quiet()
            raise

    def _think(self, record: Record, steps: Any, here: "Services", desk: Desk) -> None:
        from agent.crew import build

        build(record, steps, offered(here.toolbox), desk).kickoff()

    async def _settle(self, here: "Services", record: Record, trace: Trace) -> None:
        """The crew has come to an end: of its work, or to where a person decides."""
        last = record.outputs[-1]
        if record.undecided:
            asked = {"task": last["task"], "text": last["text"]}
            record.state, record.asked = "waiting", asked | {"at": now()}
            await here.journal.write(record)
            await here.journal.add(record.id, Event("approval", asked | {"status": "asked"}))
            told = {"state": "waiting", "attempt": record.attempt, "note": ""}
            await here.journal.add(record.id, Event("state", told))
            trace.end(output=last["text"])
            return
        record.result = last["text"]
        trace.end(output=record.result)
        await self._end(here, record, "done")

    async def _fail(self, desk: Desk, why: str) -> None:
        desk.trace.end(level="ERROR", status_message=why)
        desk.record.spent.seconds = desk.seconds()
        await self._end(desk.here, desk.record, "failed", why)

    async def _end(self, here: "Services", record: Record, state: str, why: str = "") -> None:
        record.state, record.error, record.asked = state, why, None
        await here.journal.write(record)
        await here.journal.add(record.id, last_event(record, here.model.rehearses))
        here.measures.ended(record)

    async def _hand_back(self, here: "Services", job: Job) -> None:
        while (record := await here.journal.read(job.run_id)) and record.state == "running":
            record.state, record.worker = "queued", ""
            with suppress(Changed):
                await here.journal.write(record)
                told = {"state": "queued", "attempt": record.attempt, "note": RESTART}
                await here.journal.add(record.id, Event("state", told))
                break
        await job.again()


def last_event(record: Record, rehearsal: bool) -> Event:
    """How a run ended, as its readers learn it."""
    told: dict[str, Any] = {"run_id": record.id, "spent": vars(record.spent)}
    if record.state == "done":
        told |= {"result": record.result, "outputs": record.outputs, "model": record.model}
        told |= {"rehearsal": rehearsal}
        return Event("done", told | {"trace_id": record.trace_id})
    return Event("error", told | {"detail": record.error, "state": record.state})
