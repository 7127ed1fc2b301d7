"""Runs in SQLite, in DATA_DIR, worked on by this process alone.

What is in it outlives the process: a run that was being worked on is taken up again at the next
start, after the last task that was finished, and an approval goes on waiting. All calls go to one
thread, so that a slow disk stops nobody else.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json import dumps, loads
from pathlib import Path
from typing import Any

from agent.errors import Unavailable
from agent.journal import Brief, Changed, brief, to_its_end
from agent.records import FINAL, Record, load, now
from agent.runs import Event

TABLES = """
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, owner TEXT, key TEXT, state TEXT,
  created_at TEXT, revision INTEGER, record TEXT, tries INTEGER DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS keys ON runs (owner, key) WHERE key != '';
CREATE INDEX IF NOT EXISTS owners ON runs (owner, created_at);
CREATE INDEX IF NOT EXISTS states ON runs (state);
CREATE TABLE IF NOT EXISTS events (run TEXT, number INTEGER, event TEXT, PRIMARY KEY (run, number));
"""
TIDY_S = 3600
"""How often what is older than KEEP_DAYS is looked for."""


@dataclass
class LocalJob:
    run_id: str
    tries: int
    _journal: "LocalJournal"
    ticket = ""

    async def working(self) -> None:
        """Nobody else could take it."""

    async def done(self) -> None:
        await self._journal.worked(self.run_id)

    async def again(self) -> None:
        with suppress(Unavailable):  # its tries are not worth losing it
            await self.done()
        await self._journal.queue(self.run_id)

    async def lost(self) -> None:
        await self._journal.queue(self.run_id)

    async def bury(self, why: str) -> None:
        await self.done()


class LocalJournal:
    shared = False

    def __init__(self, folder: Path, keep_days: int, listeners: Any = None) -> None:
        """`listeners`: a NATS server without JetStream, on which events are told as they come."""
        self.place = f"SQLite in {folder}"
        if listeners:
            self.place += f", as JetStream is off at {listeners.url}; events are told there"
        self.on_change: Callable[[Record], None] = lambda record: None
        self._folder, self._keep_days, self._listeners = folder, keep_days, listeners
        self._thread = ThreadPoolExecutor(1, "journal")
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._news: dict[str, set[asyncio.Event]] = {}
        self._tidied = 0.0

    async def start(self) -> None:
        for run_id in await self._run(self._open):
            self._waiting.put_nowait(run_id)

    def _open(self) -> list[str]:
        """The ids of runs that nobody has finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                f"Another process works on the runs in {self._folder}: stop it, or ask it by its "
                "page or API; several processes need a NATS server with JetStream (NATS_URL)."
            ) from None
        self._db = sqlite3.connect(
            self._folder / "runs.db", isolation_level=None, check_same_thread=False
        )
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + TABLES)
        left = "SELECT id FROM runs WHERE state IN ('queued', 'running') ORDER BY created_at"
        return [run_id for (run_id,) in self._db.execute(left)]

    async def found(self, owner: str, key: str) -> Record | None:
        kept: Record | None = await self._run(self._find, owner, key)
        return kept

    def _find(self, owner: str, key: str) -> Record | None:
        earlier = "SELECT record, revision FROM runs WHERE owner = ? AND key = ? AND key != ''"
        found = self._db.execute(earlier, (owner, key)).fetchone()
        return load(*found) if found else None

    async def create(self, record: Record, key: str, first: Event | None = None) -> Record:
        def insert() -> Record:
            if found := self._find(record.owner, key):
                return found
            record.revision = 1
            row = (record.id, record.owner, key, record.state, record.created_at, 1)
            self._db.execute(
                "INSERT INTO runs (id, owner, key, state, created_at, revision, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, record.dump().decode()),
            )
            return record

        kept: Record = await self._run(insert)
        if kept is record:
            try:
                if first:
                    await self.add(record.id, first)
            finally:  # it is kept, so somebody must take it
                self._waiting.put_nowait(record.id)
        return kept

    async def read(self, run_id: str) -> Record | None:
        def select() -> Record | None:
            wanted = "SELECT record, revision FROM runs WHERE id = ?"
            found = self._db.execute(wanted, (run_id,)).fetchone()
            return load(*found) if found else None

        kept: Record | None = await self._run(select)
        return kept

    async def write(self, record: Record) -> None:
        await to_its_end(self._write(record))

    async def _write(self, record: Record) -> None:
        record.updated_at = now()

        def update() -> bool:
            done = self._db.execute(
                "UPDATE runs SET state = ?, record = ?, revision = revision + 1 "
                "WHERE id = ? AND revision = ?",
                (record.state, record.dump().decode(), record.id, record.revision),
            )
            return done.rowcount == 1

        if not await self._run(update):
            raise Changed(record.id)
        record.revision += 1
        self.on_change(record)

    async def listed(self, owner: str, limit: int) -> list[Brief]:
        def select() -> list[Brief]:
            wanted = (
                "SELECT record, revision FROM runs WHERE owner = ? ORDER BY created_at DESC LIMIT ?"
            )
            return [brief(load(*row)) for row in self._db.execute(wanted, (owner, limit))]

        kept: list[Brief] = await self._run(select)
        return kept

    async def counts(self) -> dict[str, int]:
        def select() -> dict[str, int]:
            wanted = (
                "SELECT state, count(*) FROM runs WHERE state IN ('queued', 'running', 'waiting') "
                "GROUP BY state"
            )
            return dict(self._db.execute(wanted).fetchall())

        counted: dict[str, int] = await self._run(select)
        return counted

    async def queue(self, run_id: str) -> None:
        self._waiting.put_nowait(run_id)

    async def take(self) -> LocalJob:
        run_id = await self._waiting.get()

        def count() -> int:
            self._db.execute("UPDATE runs SET tries = tries + 1 WHERE id = ?", (run_id,))
            wanted = "SELECT tries FROM runs WHERE id = ?"
            return int((self._db.execute(wanted, (run_id,)).fetchone() or (1,))[0])

        try:
            return LocalJob(run_id, await self._run(count), self)
        except BaseException:
            self._waiting.put_nowait(run_id)
            raise

    async def take_no_more(self) -> None:
        """There are no other workers; the next start of the process takes it."""

    async def worked(self, run_id: str) -> None:
        """Its worker was not lost: its tries are counted anew."""
        await self._run(self._db.execute, "UPDATE runs SET tries = 0 WHERE id = ?", (run_id,))

    async def add(self, run_id: str, event: Event) -> None:
        text = dumps([event.type, event.data], ensure_ascii=False)

        def insert() -> None:
            self._db.execute(
                "INSERT INTO events SELECT ?, count(*) + 1, ? FROM events WHERE run = ?",
                (run_id, text, run_id),
            )

        await self._run(insert)
        for news in self._news.get(run_id, ()):
            news.set()
        if self._listeners:
            await self._listeners.announce(run_id, event)
        await self._tidy()

    async def events(self, run_id: str) -> AsyncGenerator[Event, None]:
        seen, news = 0, asyncio.Event()
        self._news.setdefault(run_id, set()).add(news)
        try:
            while True:
                news.clear()
                for (text,) in await self._run(self._since, run_id, seen):
                    seen += 1
                    event = Event(*loads(text))
                    yield event
                    if event.last:
                        return
                await news.wait()
        finally:
            self._news[run_id].discard(news)
            if not self._news[run_id]:
                del self._news[run_id]

    def _since(self, run_id: str, seen: int) -> list[tuple[str]]:
        wanted = "SELECT event FROM events WHERE run = ? AND number > ? ORDER BY number"
        return self._db.execute(wanted, (run_id, seen)).fetchall()

    async def check(self) -> str:
        await self._run(self._db.execute, "SELECT 1")
        return self.place

    async def close(self) -> None:
        def end() -> None:
            self._db.close()
            self._lock.close()

        if hasattr(self, "_db"):
            await self._run(end)
        self._thread.shutdown()
        if self._listeners:
            await self._listeners.close()

    async def _tidy(self) -> None:
        """Forget what ended more than KEEP_DAYS ago."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._tidied < TIDY_S and self._tidied:
            return
        self._tidied = now_s
        oldest = (datetime.now(UTC) - timedelta(days=self._keep_days)).isoformat()
        states = ", ".join(f"'{state}'" for state in FINAL)

        def delete() -> None:
            self._db.execute(
                f"DELETE FROM runs WHERE json_extract(record, '$.updated_at') < ? "
                f"AND state IN ({states})",
                (oldest,),
            )
            self._db.execute("DELETE FROM events WHERE run NOT IN (SELECT id FROM runs)")

        await self._run(delete)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        except sqlite3.Error as error:
            free = os.statvfs(self._folder).f_bavail if self._folder.exists() else 1
            advice = "look at the disk" if free else "its disk is full: free some"
            raise Unavailable(
                f"The runs in {self._folder} cannot be kept ({error}); {advice}.", "journal"
            ) from error
