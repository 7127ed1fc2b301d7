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
from agent.journal import Brief, Changed, brief
from agent.nats_server import NatsServer, message
from agent.records import FINAL, Record, load, now
from agent.runs import Event

T = TypeVar("T")
TAKE_S = 5
"""How long one request for work waits at the server."""
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

    async def working(self) -> None:
        await self._message.in_progress()

    async def done(self) -> None:
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
                ack_policy=AckPolicy.EXPLICIT, ack_wait=self._ack_wait_s, max_ack_pending=10_000
            )
            self._queue = await self._js.pull_subscribe(
                self._server.subject("work"), "workers", f"{app}-work", consumer
            )
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
            return await self._js.key_value(name)
        except BucketNotFoundError:
            config = KeyValueConfig(name, history=1, ttl=self._keep_s)
            return await self._js.create_key_value(config)

    async def create(self, record: Record, key: str) -> Record:
        if key:
            owned = hashlib.sha256(f"{record.owner}\n{key}".encode()).hexdigest()
            try:
                await self._ask(lambda: self._bucket.create(f"key.{owned}", record.id.encode()))
            except KeyWrongLastSequenceError:
                earlier = (await self._bucket.get(f"key.{owned}")).value.decode()
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
        await self.queue(record.id)
        return record

    async def read(self, run_id: str) -> Record | None:
        if not run_id.isalnum():
            return None
        try:
            entry = await self._ask(lambda: self._bucket.get(f"run.{run_id}"))
            return load(entry.value, entry.revision)
        except KeyNotFoundError:
            return None

    async def write(self, record: Record) -> None:
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
        mine = [one for one in self._known.values() if one.owner == owner]
        return sorted(mine, key=lambda one: one.created_at, reverse=True)[:limit]

    async def counts(self) -> dict[str, int]:
        oldest = time.time() - self._keep_s
        self._known = {k: b for k, b in self._known.items() if _epoch(b.updated_at) > oldest}
        states = [one.state for one in self._known.values() if one.state not in FINAL]
        return {state: states.count(state) for state in set(states)}

    async def queue(self, run_id: str) -> None:
        await self._publish("work", run_id.encode())

    async def take(self) -> NatsJob:
        while True:
            try:
                (taken,) = await self._queue.fetch(1, TAKE_S)
            except (TimeoutError, NatsError) as error:
                if isinstance(error, TimeoutError):
                    await self._find_forgotten()
                    continue
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
            following = await self._js.subscribe(subject, ordered_consumer=True)
        except (NatsError, StreamError, TimeoutError) as error:
            raise self._server.away(error) from error
        try:
            while True:
                try:
                    told = json.loads((await following.next_msg(TAKE_S)).data)
                except TimeoutError:
                    continue
                except NatsError as error:
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
                        self._seen(load(entry.value, entry.revision))
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
            await self.queue(forgotten[0])

    async def _publish(self, name: str, body: bytes) -> None:
        subject = self._server.subject(*name.split("."))
        once = {"Nats-Msg-Id": uuid.uuid4().hex}  # a second try of it is no second message
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


def _epoch(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
