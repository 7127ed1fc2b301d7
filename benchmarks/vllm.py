"""tkt-vllm-gradio: what it adds to its engine, what it costs without one, and its drills.

    python benchmarks/vllm.py [overhead cpu_engine start drills]

Without names it measures all parts, in about 20 minutes. `overhead` compares, in one run and taking
turns, the app with its engine asked directly: the engine double, which paces each stream at 50
tokens a second, so that what is missing is the app's doing. `cpu_engine` does the same with vLLM's
own engine on the CPU (installed for it, 3 GB), whose speed is its own. App, engine and clients are
processes that share the machine's cores. Prints a table and keeps it in results/vllm.json.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
from rendered import ROOT, Process, install, running, wait_for
from results import save

sys.path.insert(0, str(ROOT))
from tests import cpu_engine, live
from tests.serving import served

PORT = 7971
CLIENTS, ROUNDS, TOKENS, PACE = (1, 16, 64), 4, 400, 50
FIRSTS = 100
"""Questions of which only the wait for the first token counts, to each side."""
CPU_CLIENTS, CPU_TOKENS, CPU_FIRSTS = (1, 16), 96, 20


@dataclass
class Side:
    """Where one asks: the engine itself, or the app in front of it."""

    name: str
    url: str
    key: str
    model: str


@dataclass
class Stream:
    """What one client saw, in seconds since it asked."""

    whole: bool
    first_s: float


def main() -> None:
    known = {"overhead": overhead, "cpu_engine": on_cpu, "start": start, "drills": drilled}
    for name in sys.argv[1:] or known:
        print(f"\n{name}", flush=True)
        save("vllm", known[name]())


def overhead() -> dict[str, Any]:
    """The app in front of the double, against the double alone."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"tokens_per_second": PACE, "first_token_s": 0.02}
        free = {"REQUESTS_PER_MINUTE": "0", "CONCURRENT_RUNS": "0"}
        with served(Path(folder), options, **free) as here:
            state = here.state
            address = f"http://127.0.0.1:{state['port']}"
            sides = [
                Side("direct", address, state["env"]["VLLM_API_KEY"], "model"),
                Side("app", here.app.url, "", "model"),
            ]
            app = Process(pid=here.app.process.pid, url=here.app.url)
            return {"engine": "double"} | _compared(sides, CLIENTS, TOKENS, FIRSTS, app)


def on_cpu() -> dict[str, Any]:
    """The same with vLLM itself on the CPU."""
    with cpu_engine.served() as (app, address, key):
        sides = [Side("direct", address, key, "model"), Side("app", app.url, "", "model")]
        process = Process(pid=app.process.pid, url=app.url)
        found = _compared(sides, CPU_CLIENTS, CPU_TOKENS, CPU_FIRSTS, process)
    return {f"vllm_cpu_{name}": value for name, value in found.items()}


def _compared(
    sides: list[Side], clients: tuple[int, ...], tokens: int, firsts: int, app: Process
) -> dict[str, Any]:
    """Ratios of tokens a second, and what is added to the first token; the sides take turns."""
    figures: dict[str, Any] = {}
    with ProcessPoolExecutor(1) as elsewhere:
        for count in clients:
            speeds: dict[str, list[float]] = {side.name: [] for side in sides}
            waits: dict[str, list[float]] = {side.name: [] for side in sides}
            cpu_us = []
            for n in range(ROUNDS + 1):
                for side in sides if n % 2 else sides[::-1]:
                    before = app.cpu_s()
                    streams, seconds = elsewhere.submit(ask_all, side, count, tokens).result()
                    assert all(stream.whole for stream in streams), "a stream broke off"
                    made = count * tokens
                    if n:  # the first round warms up
                        speeds[side.name].append(made / seconds)
                        waits[side.name] += [stream.first_s for stream in streams]
                    if n and side.name == "app":
                        cpu_us.append((app.cpu_s() - before) / made * 1e6)
            middle = {name: statistics.median(seen) for name, seen in speeds.items()}
            late = {name: statistics.median(seen) for name, seen in waits.items()}
            figures |= {
                f"throughput_ratio_{count}": round(middle["app"] / middle["direct"], 4),
                f"tokens_per_s_{count}": round(middle["app"], 1),
                f"direct_tokens_per_s_{count}": round(middle["direct"], 1),
                f"first_token_added_ms_{count}": round((late["app"] - late["direct"]) * 1000, 1),
                f"app_cpu_us_per_token_{count}": round(statistics.median(cpu_us)),
            }
            print({k: v for k, v in figures.items() if k.endswith(f"_{count}")}, flush=True)
        seen = {side.name: [] for side in sides}
        for n in range(firsts + 5):
            for side in sides if n % 2 else sides[::-1]:
                (stream,), _ = elsewhere.submit(ask_all, side, 1, 2).result()
                if n >= 5:
                    seen[side.name].append(stream.first_s * 1000)
    first = {name: statistics.median(times) for name, times in seen.items()}
    added = round(first["app"] - first["direct"], 2)
    return {"first_token_added_ms": added} | figures


def ask_all(side: Side, count: int, tokens: int) -> tuple[list[Stream], float]:
    """`count` clients who begin within half a second, and the seconds until the last one's end."""

    async def all_of_them() -> list[Stream]:
        begun = (_ask(side, tokens, 0.5 * n / count) for n in range(count))
        return await asyncio.gather(*begun)

    begin = time.monotonic()
    streams = asyncio.run(all_of_them())
    return streams, time.monotonic() - begin


async def _ask(side: Side, tokens: int, after_s: float) -> Stream:
    """One streamed answer. Plain sockets: a client that costs little leaves the cores to others."""
    await asyncio.sleep(after_s)
    place = urlsplit(side.url)
    said = " ".join(["word"] * tokens)
    body = json.dumps({
        "model": side.model, "stream": True, "max_tokens": tokens, "ignore_eos": True,
        "temperature": 0, "messages": [{"role": "user", "content": said}],
    })  # fmt: skip
    lines = [
        "POST /v1/chat/completions HTTP/1.1", f"Host: {place.netloc}", "Connection: close",
        "Content-Type: application/json", f"Content-Length: {len(body)}",
        f"Authorization: Bearer {side.key}" if side.key else "Accept: */*", "", body,
    ]  # fmt: skip
    begin = time.monotonic()
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**20)
    writer.write("\r\n".join(lines).encode())
    first, end = 0.0, b""
    while data := await reader.read(2**16):
        if not first and data.count(b'"content":"') > data.count(b'"content":""'):
            first = time.monotonic() - begin
        end = (end + data)[-100:]
    writer.close()
    return Stream(b"data: [DONE]" in end, first)


def start() -> dict[str, Any]:
    """CPU until /health, and memory of the app alone once its page is there: medians of 5."""
    with tempfile.TemporaryDirectory() as scratch:
        app = install("tkt-vllm-gradio", Path(scratch) / "rendered")
        health, page, rest = zip(*(_start(app, PORT + n) for n in range(5)), strict=True)
    return {
        "health_cpu_s": round(statistics.median(health), 2),
        "page_cpu_s": round(statistics.median(page), 2),
        "app_mib": round(statistics.median(rest)),
    }


def _start(app: Path, port: int) -> tuple[float, float, float]:
    """One start without an engine: CPU seconds until /health, until the page, MiB after that."""
    with _without_engine(app, port) as process:
        wait_for(f"{process.url}/health", lambda r: r.status_code == 200)
        health = process.cpu_s()
        wait_for(process.url, lambda r: "gradio" in r.text, every_s=0.2)
        page = process.cpu_s()
        for path in ("/ready", "/api/model", "/metrics", "/v1/models"):
            httpx.get(f"{process.url}{path}", timeout=20)
        time.sleep(3)
        return health, page, process.rss_mib()


@contextmanager
def _without_engine(app: Path, port: int) -> Iterator[Process]:
    """Its engine is a program that says nothing, which costs nothing."""
    env = {"ENGINE": "vllm", "ENGINE_COMMAND": "sleep 60", "MODEL_ID": str(app / "none")}
    model = app / "none"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    with running(app, port, **env) as process:
        yield process


def drilled() -> dict[str, Any]:
    """The bad days of tests/test_engine_drills.py."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "drills.xml"
        command = [sys.executable, "-m", "pytest", "tests/test_engine_drills.py"]
        subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    passed = {str(case.get("name")): not len(case) for case in cases}
    return {"drills": len(passed), "drills_passed": sum(passed.values()), "drills_each": passed}


if __name__ == "__main__":
    live.bin_folder(live.VLLM)
    main()
