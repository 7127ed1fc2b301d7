"""How tkt-rag-agent bears many answers at once: 200 streams for a minute, and tokens at full speed.

    python benchmarks/load.py              both
    python benchmarks/load.py streams      200 streams of 10 tokens a second, resumed until `done`
    python benchmarks/load.py throughput   beside a bare app that only hands on what the model says

App, gateway double and clients are a process each and share the machine's cores. Prints what was
seen; a script that keeps it calls `streams` and `throughput`.
"""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from rendered import ROOT, wait_for
from rendered import Process as Measured

sys.path.insert(0, str(ROOT))
from bare import DOCUMENT, KEY, QUESTION, marked

from parts.programs import free_port
from tests import live

STREAMS, WORDS, PACE = 200, 600, 10
"""A minute of 200 answers at 10 tokens a second."""
FAST_STREAMS, AT_ONCE, FAST_WORDS, ROUNDS = 96, 16, 1000, 5
"""Answers about as long as ANSWER_TOKENS lets them be unless it is set."""
HEALTH_EVERY_S = 0.25
GIVE_UP_S = 280
SETTINGS: dict[str, Any] = {
    "LITELLM_MASTER_KEY": KEY,
    "CHAT_MODEL": "double",
    "EMBEDDING_MODEL": "none",
    "REQUESTS_PER_MINUTE": "0",
    "CONCURRENT_RUNS": "0",
}


class Process(Measured):
    def anonymous_mib(self) -> float:
        """Resident memory that no file stands behind."""
        return self._status("RssAnon")


def main() -> None:
    known = {"streams": streams, "throughput": throughput}
    for name in sys.argv[1:] or known:
        for key, value in known[name]().items():
            print(f"{key:28} {value}", flush=True)


def streams() -> dict[str, Any]:
    """200 streams of 10 tokens a second for a minute: what gets lost, and what it costs."""
    with double(PACE) as gateway, agent(gateway.url, ANSWER_TOKENS=WORDS) as app:
        rest_mib, app_s, gateway_s = app.rss_mib(), app.cpu_s(), gateway.cpu_s()
        with ProcessPoolExecutor(1) as clients:
            asking = clients.submit(ask_all, app.url, STREAMS, STREAMS, WORDS)
            health, anonymous_mib = watch(app, asking)
        asked = asking.result()
        measured = {
            "seconds": asked.seconds,
            "tokens_per_s": STREAMS * WORDS / asked.seconds,
            "rest_mib": rest_mib,
            "peak_mib": app.peak_mib(),
            "peak_anonymous_mib": anonymous_mib,
            "health_asked": len(health),
            "health_median_ms": statistics.median(ms for ms, _ in health),
            "health_slowest_ms": max(health)[0],
            "health_slowest_at_s": max(health)[1],
            "app_cpu_s": app.cpu_s() - app_s,
            "double_cpu_s": gateway.cpu_s() - gateway_s,
            "clients_cpu_s": asked.cpu_s,
        }
    if asked.faults:
        print(f"  lost: {sorted(set(asked.faults))[:5]}", flush=True)
    counts = {
        "streams": asked.streams,
        "lost": len(asked.faults),
        "crossed": asked.crossed,
        "segments": asked.segments,
    }
    return counts | {key: round(value, 1) for key, value in measured.items()}


def throughput() -> dict[str, Any]:
    """Tokens a second at full speed, and as a share of the bare app's; the two take turns."""
    speeds: dict[str, list[float]] = {"app": [], "bare": []}
    costs: dict[str, list[float]] = {"app": [], "bare": []}
    with (
        double(None) as gateway,
        passing(gateway.url) as bare,
        agent(gateway.url, ANSWER_TOKENS=FAST_WORDS) as app,
    ):
        for n in range(ROUNDS + 1):
            for name, process in {"app": app, "bare": bare}.items():
                speed, cost = full_speed(process)
                print(f"  {name}: {speed:.0f} tokens/s, {cost:.0f} µs each", flush=True)
                if n:  # the first round warms up
                    speeds[name].append(speed)
                    costs[name].append(cost)
    app_speed, bare_speed = statistics.median(speeds["app"]), statistics.median(speeds["bare"])
    return {
        "throughput_streams": AT_ONCE,
        "throughput_tokens_per_s": round(app_speed),
        "bare_tokens_per_s": round(bare_speed),
        "throughput_ratio": round(app_speed / bare_speed, 3),
        "app_cpu_us_per_token": round(statistics.median(costs["app"])),
        "bare_cpu_us_per_token": round(statistics.median(costs["bare"])),
    }


def full_speed(process: Process) -> tuple[float, float]:
    """Tokens a second, and CPU microseconds that the process takes for each."""
    before_s = process.cpu_s()
    with ProcessPoolExecutor(1) as clients:
        asked = clients.submit(ask_all, process.url, FAST_STREAMS, AT_ONCE, FAST_WORDS).result()
    if asked.faults:
        raise RuntimeError(f"{len(asked.faults)} answers are not whole: {asked.faults[0]}")
    tokens = FAST_STREAMS * FAST_WORDS
    return tokens / asked.seconds, (process.cpu_s() - before_s) / tokens * 1e6


@contextmanager
def double(tokens_per_s: float | None) -> Iterator[Process]:
    """The gateway double at this pace, None as fast as can be."""
    with _served("benchmarks.bare:model", "/health/liveliness") as process:
        pace = {"tokens_per_second": tokens_per_s}
        httpx.post(f"{process.url}/_double", json=pace).raise_for_status()
        yield process


@contextmanager
def passing(gateway: str) -> Iterator[Process]:
    """The bare app."""
    with _served("benchmarks.bare:passing", "/docs", LITELLM_ENDPOINT=gateway) as process:
        yield process


@contextmanager
def agent(gateway: str, **env: Any) -> Iterator[Process]:
    """The app with its page and one document."""
    with live.started(LITELLM_ENDPOINT=gateway, **SETTINGS, **env) as app:
        live.wait_for_page(app)
        live.load(app, {"lease.md": DOCUMENT})
        live.ask(app, QUESTION.format(mark="streama", words=10))
        yield Process(pid=app.process.pid, url=app.url)


@contextmanager
def _served(factory: str, ready: str, **env: str) -> Iterator[Process]:
    """A server of this repository, by the command and in the environment of the app."""
    port = free_port()
    words = [factory if word == "app:create_app" else word for word in live.command(port)]
    own = {"PATH": f"{live.bin_folder()}:/usr/bin:/bin", "PYTHONPATH": str(live.GUARD)}
    command = [*words, "--log-level", "error"]
    child = subprocess.Popen(command, cwd=ROOT, env=own | env, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}{ready}", lambda r: r.status_code == 200, every_s=0.1)
        yield Process(pid=child.pid, url=url)
    finally:
        child.kill()
        child.wait()


def watch(app: Process, asking: "Future[Asked]") -> tuple[list[tuple[float, float]], float]:
    """Until all was asked: the milliseconds of each /health and the second it was asked at, and
    the most anonymous memory."""
    health: list[tuple[float, float]] = []
    anonymous_mib, began = 0.0, time.monotonic()
    with httpx.Client(base_url=app.url, timeout=60) as client:
        while not asking.done():
            before = time.monotonic()
            client.get("/health").raise_for_status()
            health.append(((time.monotonic() - before) * 1000, before - began))
            anonymous_mib = max(anonymous_mib, app.anonymous_mib())
            if len(health) % round(10 / HEALTH_EVERY_S) == 0:
                print(f"  {before - began:.0f} s, /health {health[-1][0]:.0f} ms", flush=True)
            time.sleep(max(0, before + HEALTH_EVERY_S - time.monotonic()))
    return health, anonymous_mib


@dataclass
class Stream:
    """One answer as a client got it: the bodies of its segments, looked into when all is over."""

    mark: str
    words: int
    bodies: list[bytes] = field(default_factory=list)
    trouble: str = ""

    @property
    def whole(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def fault(self) -> str:
        """What is wrong with it; empty when each event came once and the text is the model's."""
        wanted, lines = marked(self.mark, self.words), self.whole.decode().split("\n")
        if self.trouble or "data: [DONE]" in lines:
            said = re.findall('"content": "([^"]*)"', "".join(lines))
            return self.trouble or ("" if "".join(said) == wanted else "another text")
        events = list(live.frames(lines))
        if not events or events[-1][1] != "done":
            return f"no done, {events[-1:]}"
        if [number for number, _, _ in events] != list(range(1, len(events) + 1)):
            return "a gap or a repeat"
        text = "".join(data["text"] for _, kind, data in events if kind == "token")
        return "" if text == events[-1][2]["answer"] == wanted else "another text"

    @property
    def crossed(self) -> bool:
        """Whether it holds a word of another stream."""
        return bool(set(re.findall(rb"stream[a-j]+", self.whole)) - {self.mark.encode()})


@dataclass
class Asked:
    """What became of all streams; `faults` are the lost ones'."""

    streams: int
    segments: int
    faults: list[str]
    crossed: int
    seconds: float
    """From the first question to the last word."""
    cpu_s: float
    """Of the clients, without what they do when all is over."""


def ask_all(url: str, streams: int, at_once: int, words: int) -> Asked:
    """Ask `streams` questions, so many at once, and read their answers to the end."""
    began, began_cpu_s = time.monotonic(), time.process_time()
    marks = ["stream" + "".join("abcdefghij"[int(d)] for d in str(n)) for n in range(streams)]
    asked = [Stream(mark, words) for mark in marks]
    asyncio.run(_read_all(int(url.rpartition(":")[2]), asked, at_once))
    seconds, cpu_s = time.monotonic() - began, time.process_time() - began_cpu_s
    faults = [fault for stream in asked if (fault := stream.fault)]
    segments = sum(len(stream.bodies) for stream in asked)
    return Asked(streams, segments, faults, sum(s.crossed for s in asked), seconds, cpu_s)


async def _read_all(port: int, streams: list[Stream], at_once: int) -> None:
    free = asyncio.Semaphore(at_once)

    async def read(stream: Stream) -> None:
        async with free:
            await _read(port, stream)

    await asyncio.gather(*(read(stream) for stream in streams))


async def _read(port: int, stream: Stream) -> None:
    """One answer, read on after each segment; what has no run is whole after the first."""
    question = QUESTION.format(mark=stream.mark, words=stream.words)
    body = json.dumps({"question": question, "stream": True})
    try:
        async with asyncio.timeout(GIVE_UP_S):
            run = await _segment(port, stream, "POST /api/chat", body)
            while run and not re.search(rb"^event: (done|error)$", stream.bodies[-1], re.M):
                last = re.findall(rb"^id: (\d+)$", stream.whole, re.M)[-1:] or [b"0"]
                more = f"Last-Event-ID: {last[0].decode()}"
                run = await _segment(port, stream, f"GET /api/runs/{run}/events", "", more)
    except (OSError, TimeoutError, ValueError) as error:
        stream.trouble = repr(error)


async def _segment(port: int, stream: Stream, what: str, body: str, *more: str) -> str:
    """One response on a connection of its own, added to the stream; gives the run's id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    kind, length = "Content-Type: application/json", f"Content-Length: {len(body)}"
    head = [f"{what} HTTP/1.1", "Host: app", "Connection: close", kind, length, *more]
    writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    said, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    if not said.startswith(b"HTTP/1.1 200"):
        raise ValueError(said[:100] + rest[:200])
    stream.bodies.append(_unchunked(rest))
    found = re.search(rb"^x-run-id: (\w+)", said, re.M | re.I)
    return found[1].decode() if found else ""


def _unchunked(body: bytes) -> bytes:
    """The data of `Transfer-Encoding: chunked`: a length in hex, a line's end, as many bytes."""
    parts, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


if __name__ == "__main__":
    main()
