"""Runs on NATS with JetStream, which any number of workers share.

A key-value bucket holds a record a run, a stream their events, and a second stream the queue: each
message in it is a run that wants a worker, and stays until that worker has acknowledged it. All are
kept on the server's disk. A record is written only over the revision that was read, so two workers
that both think they have a run cannot both go on with it.
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MsgAlreadyAckdError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    KeyValueConfig,
    RetentionPolicy,
    StreamConfig,
)
from nats.js.errors import (
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)
from nats.js.errors import (
    Error as StreamError,
)

from agent.errors import Unavailable
from agent.journal import Brief, Changed, brief, to_its_end
from agent.nats_server import NatsServer, message
from agent.records import FINAL, Record, load, now
from agent.runs import Event

T = TypeVar("T")
TAKE_S = 5
"""How long one request for work waits at the server."""
HEARTBEAT_S = 1
"""Of a stream that is followed; two that are missing, and it is asked for anew."""
PATIENCE_S = 30
"""How long a call is tried again while the server is away, as when it is being restarted."""
PAUSE_S = 0.5
DAY_S = 86_400
FORGOTTEN_S = 60
"""A run that has been queued for longer, while nobody works and nothing waits in the queue, has
lost its message there and gets another."""


@dataclass
class NatsJob:
    run_id: str
    tries: int
    _message: Msg
    _journal: "NatsJournal"

    @property
    def ticket(self) -> str:
        return str(self._message.metadata.sequence.stream)

    async def working(self) -> None:
        await self._message.in_progress()

    async def done(self) -> None:
        with suppress(MsgAlreadyAckdError):  # it was buried
            await self._message.ack()

    async def again(self) -> None:
        await self._journal.queue(self.run_id)
        await self._message.ack()

    async def lost(self) -> None:
        await self._message.nak()

    async def bury(self, why: str) -> None:
        await self._journal.bury(self.run_id, why)
        await self._message.term()


class NatsJournal:
    shared = True

    def __init__(self, server: NatsServer, keep_days: int, ack_wait_s: float) -> None:
        self.place = f"JetStream at {server.url}"
        self.on_change: Callable[[Record], None] = lambda record: None
        self._server, self._keep_s, self._ack_wait_s = server, keep_days * DAY_S, ack_wait_s
        self._js = server.client.jetstream(timeout=5)
        self._known: dict[str, Brief] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the bucket and the streams where they are not there yet, and watch the records."""
        app = self._server.app
        try:
            await self._stream(f"{app}-work", "work", RetentionPolicy.WORK_QUEUE)
            await self._stream(f"{app}-events", "events.*", RetentionPolicy.LIMITS)
            await self._stream(f"{app}-dead", "dead", RetentionPolicy.LIMITS)
            self._bucket = await self._records(f"{app}-runs")
            consumer = ConsumerConfig(
                durable_name="workers",
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_wait_s,
                max_ack_pending=10_000,
            )
            await self._js.add_consumer(f"{app}-work", consumer)  # or changed, where it is there
            self._queue = await self._js.pull_subscribe_bind("workers", f"{app}-work")
        except (NatsError, StreamError, OSError, TimeoutError) as error:
            raise self._server.away(error) from error
        there = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(there))
        try:
            await asyncio.wait_for(there.wait(), PATIENCE_S)
        except TimeoutError as error:
            raise self._server.away(error) from error

    async def _stream(self, name: str, subject: str, retention: RetentionPolicy) -> None:
        subjects = [self._server.subject(*subject.split("."))]
        config = StreamConfig(name, subjects=subjects, retention=retention, max_age=self._keep_s)
        try:
            await self._js.add_stream(config)
        except StreamError:  # it is there, and KEEP_DAYS may have changed
            await self._js.update_stream(config)

    async def _records(self, name: str) -> Any:
        try:
            bucket = await self._js.key_value(name)
        except BucketNotFoundError:
            config = KeyValueConfig(name, history=1, ttl=self._keep_s)
            return await self._js.create_key_value(config)
        there = (await self._js.stream_info(f"KV_{name}")).config
        if there.max_age != self._keep_s:
            await self._js.update_stream(there.evolve(max_age=self._keep_s))
        return bucket

    async def found(self, owner: str, key: str) -> Record | None:
        try:
            there = await self._ask(lambda: self._bucket.get(_key(owner, key)))
            return await self.read(there.value.decode())
        except KeyNotFoundError:
            return None

    async def create(self, record: Record, key: str, first: Event | None = None) -> Record:
        if key:
            owned = _key(record.owner, key)
            try:
                await self._ask(lambda: self._bucket.create(owned, record.id.encode()))
            except KeyWrongLastSequenceError:
                earlier = (await self._ask(lambda: self._bucket.get(owned))).value.decode()
                if found := await self.read(earlier):
                    return found
                record.id = earlier  # its record was never written
        try:
            record.revision = await self._ask(
                lambda: self._bucket.create(f"run.{record.id}", record.dump())
            )
        except KeyWrongLastSequenceError:  # this very call, whose first answer was lost
            return await self.read(record.id) or record
        self._seen(record)
        if first:
            await self.add(record.id, first)
        await self.queue(record.id)
        return record

    async def read(self, run_id: str) -> Record | None:
        if not (run_id.isascii() and run_id.isalnum()):
            return None
        try:
            entry = await self._ask(lambda: self._bucket.get(f"run.{run_id}"))
            return load(entry.value, entry.revision)
        except KeyNotFoundError:
            return None

    async def write(self, record: Record) -> None:
        await to_its_end(self._write(record))

    async def _write(self, record: Record) -> None:
        record.updated_at = now()
        data = record.dump()
        try:
            record.revision = await self._ask(
                lambda: self._bucket.update(f"run.{record.id}", data, record.revision)
            )
        except KeyWrongLastSequenceError:
            there = await self._ask(lambda: self._bucket.get(f"run.{record.id}"))
            if there.value != data:  # else it was this very call, whose first answer was lost
                raise Changed(record.id) from None
            record.revision = there.revision
        self._seen(record)

    async def listed(self, owner: str, limit: int) -> list[Brief]:
        self._forget()
        mine = [one for one in self._known.values() if one.owner == owner]
        return sorted(mine, key=lambda one: one.created_at, reverse=True)[:limit]

    async def counts(self) -> dict[str, int]:
        self._forget()
        states = [one.state for one in self._known.values() if one.state not in FINAL]
        return {state: states.count(state) for state in set(states)}

    def _forget(self) -> None:
        """What the server has forgotten by itself, which it does not tell."""
        oldest = time.time() - self._keep_s
        self._known = {k: b for k, b in self._known.items() if _epoch(b.updated_at) > oldest}

    async def queue(self, run_id: str) -> None:
        await self._publish("work", run_id.encode())

    async def take(self) -> NatsJob:
        while True:
            try:
                (taken,) = await self._queue.fetch(1, TAKE_S)
            except TimeoutError:
                await self._find_forgotten()
                continue
            except NatsError as error:
                raise self._server.away(error) from error
            return NatsJob(taken.data.decode(), taken.metadata.num_delivered, taken, self)

    async def take_no_more(self) -> None:
        """The last request for work still waits at the server, and would get what is handed
        back."""
        with suppress(NatsError, StreamError, OSError):
            await self._queue.unsubscribe()
            await self._server.client.flush(TAKE_S)

    async def add(self, run_id: str, event: Event) -> None:
        await self._publish(f"events.{run_id}", message(run_id, event.type, event.data))

    async def events(self, run_id: str) -> AsyncGenerator[Event, None]:
        subject = self._server.subject("events", run_id)
        try:
            following = await self._js.subscribe(
                subject, ordered_consumer=True, idle_heartbeat=HEARTBEAT_S
            )
        except (NatsError, StreamError, TimeoutError) as error:
            raise self._server.away(error) from error
        try:
            while True:
                try:
                    told = json.loads((await following.next_msg(TAKE_S)).data)
                except TimeoutError:
                    continue
                except NatsError as error:
                    if self._server.client.is_closed:  # for good: the process is ending
                        raise asyncio.CancelledError from error
                    raise self._server.away(error) from error
                event = Event(told["type"], told["data"])
                yield event
                if event.last:
                    return
        finally:
            with suppress(NatsError, StreamError, OSError):
                await following.unsubscribe()

    async def bury(self, run_id: str, why: str) -> None:
        told = {"run_id": run_id, "why": why, "at": now()}
        await self._publish("dead", json.dumps(told).encode())

    async def check(self) -> str:
        server = await self._server.check()
        if not await self._server.has_jetstream():
            raise Unavailable(f"JetStream is off at {self._server.url}; runs wait for it.")
        return f"{server}, JetStream"

    async def close(self) -> None:
        if self._watching:
            self._watching.cancel()
        await self._server.close()

    async def _watch(self, there: asyncio.Event) -> None:
        """Learn of every record that anybody writes. `there` is set when all old ones are known."""
        while True:
            try:
                watcher = await self._bucket.watch("run.>")
                while True:
                    try:
                        entry = await watcher.updates(timeout=60)
                    except TimeoutError:
                        continue
                    if entry is None:
                        there.set()
                    elif entry.value:
                        with suppress(ValueError, TypeError, KeyError, AttributeError):
                            self._seen(load(entry.value, entry.revision))  # or it is none
            except (NatsError, StreamError, OSError, ValueError):
                await asyncio.sleep(PAUSE_S)

    def _seen(self, record: Record) -> None:
        self._known[record.id] = brief(record)
        self.on_change(record)

    async def _find_forgotten(self) -> None:
        """Between writing a record and queueing it a process can end: then nobody would take it."""
        oldest = time.time() - FORGOTTEN_S
        waiting = [b for b in self._known.values() if b.state in ("queued", "running")]
        forgotten = [b.id for b in waiting if _epoch(b.updated_at) < oldest]
        if not forgotten:
            return
        info = await self._ask(self._queue.consumer_info)
        if not (info.num_pending or info.num_ack_pending):
            # All replicas find it at the same time: the server takes the first one's message.
            moment = f"{forgotten[0]}-{int(time.time() // FORGOTTEN_S)}"
            await self._publish("work", forgotten[0].encode(), moment)

    async def _publish(self, name: str, body: bytes, number: str = "") -> None:
        subject = self._server.subject(*name.split("."))
        once = {"Nats-Msg-Id": number or uuid.uuid4().hex}  # a second try is no second message
        await self._ask(lambda: self._js.publish(subject, body, headers=once))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of the server, which may be away for a moment."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except (KeyNotFoundError, KeyWrongLastSequenceError):
                raise
            except (NatsError, StreamError, OSError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise self._server.away(error) from error
                await asyncio.sleep(PAUSE_S)


def _key(owner: str, key: str) -> str:
    """Where the bucket has the id of the run that was begun with this key."""
    return f"key.{hashlib.sha256(f'{owner}{chr(10)}{key}'.encode()).hexdigest()}"


def _epoch(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
