"""tkt-crewai-agent: many runs at once, a lost worker, what the service adds, its start, its drills.

    python benchmarks/crew.py [many kill overhead start cancel drills]

Without names it measures all parts, in about 12 minutes. The model is the gateway double, in a
process of its own, which answers a call in a second; app, double and client share the machine's
cores. Prints a table and keeps it in results/crew.json.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
from rendered import ROOT, Process, install, running, wait_for
from results import save

sys.path.insert(0, str(ROOT))
from parts.programs import free_port
from tests import live
from tests.crewing import CREW, TASKS, crew, events, finished, nats, repeated, topics
from tests.crewing import start as begin

RUNS = 100
CALL_S = 1.0
"""What the double takes for a call of the model."""
COMPARED = 8
"""Runs of each side, taking turns."""
FREE = {"REQUESTS_PER_MINUTE": 0, "CONCURRENT_RUNS": 0, "RUNS_AT_ONCE": RUNS}
DRILLS = ["tests/test_crew_bad_days.py", "tests/test_crew_on_nats.py"]


def main() -> None:
    known = {
        "many": many, "kill": kill, "overhead": overhead, "start": started, "cancel": cancel,
        "drills": drilled,
    }  # fmt: skip
    for name in sys.argv[1:] or known:
        print(f"\n{name}", flush=True)
        save("crew", known[name]())


@contextmanager
def gateway() -> Iterator[str]:
    """The double in its own process, playing a crew's model."""
    port = free_port()
    code = (
        "from tests.crewing import playing; from tests.doubles.gateway import Gateway; "
        "from tests.doubles import serve; "
        f"serve.by_hand(Gateway(reply=playing, first_token_s={CALL_S}, cost=0.001).app, {port})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", lambda r: r.status_code == 200)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


def many() -> dict[str, Any]:
    """100 runs at once in one process; /health all the while."""
    with gateway() as url, crew(LITELLM_ENDPOINT=url, **live.KEY, **FREE) as app:
        process = Process(pid=app.process.pid, url=app.url)
        slowest, going = [0.0], [True]

        def look() -> None:
            while going[0]:
                asked = time.monotonic()
                httpx.get(f"{app.url}/health", timeout=30).raise_for_status()
                slowest[0] = max(slowest[0], time.monotonic() - asked)
                time.sleep(0.05)

        with ThreadPoolExecutor(1) as watching:
            watch = watching.submit(look)
            asked = time.monotonic()
            ids = [begin(app, f"topic-{n} and nothing else") for n in range(RUNS)]
            ends = [finished(app, run_id, 300) for run_id in ids]
            seconds = time.monotonic() - asked
            going[0] = False
            watch.result()
        lost = sum(end["state"] != "done" for end in ends)
        crossed = sum(topics(end) != {f"topic-{n}"} for n, end in enumerate(ends))
        return {
            "runs": RUNS,
            "runs_lost": lost,
            "runs_crossed": crossed,
            "runs_seconds": round(seconds, 1),
            "runs_health_ms": round(slowest[0] * 1000),
            "peak_mib": round(process.peak_mib()),
        }


def kill() -> dict[str, Any]:
    """Three workers on one NATS; one is killed in the middle."""
    count = 30
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, url = stack.enter_context(nats(folder)), stack.enter_context(gateway())
        env = live.KEY | FREE | {"RUNS_AT_ONCE": 10, "ACK_WAIT_S": 5}
        apps = [
            stack.enter_context(crew(LITELLM_ENDPOINT=url, NATS_URL=server.url, **env))
            for _ in range(3)
        ]
        ids = [begin(apps[0], f"topic-{n} and nothing else") for n in range(count)]
        live.wait_until(lambda: _finished_tasks(apps[0], ids) >= count / 2, 60)
        apps[1].process.kill()
        killed = time.monotonic()
        ends = [finished(apps[0], run_id, 120) for run_id in ids]
        seconds = time.monotonic() - killed
        told = [events(apps[2], run_id) for run_id in ids]
    again = sum(len(end["outputs"]) != len(TASKS) or end["state"] != "done" for end in ends)
    return {
        "worker_kill_runs": count,
        "worker_kill_runs_lost": again,
        "worker_kill_runs_taken_up": sum(end["attempt"] > 1 for end in ends),
        "worker_kill_tasks_repeated": sum(len(repeated(one)) for one in told),
        "worker_kill_seconds": round(seconds, 1),
    }


def _finished_tasks(app: Any, ids: list[str]) -> int:
    return sum(len(app.http.get(f"/api/runs/{run_id}").json()["outputs"]) for run_id in ids)


def overhead() -> dict[str, Any]:
    """A run through the service against the same crew called directly, one after the other."""
    topics = [f"topic-{n}" for n in range(COMPARED + 1)]
    bare: list[float] = []
    service: list[float] = []
    with gateway() as url, crew(LITELLM_ENDPOINT=url, **live.KEY, **FREE) as app:
        document = ("sample.md", "Heat pumps cost 1,200 pounds a school.")
        app.http.post("/api/documents", files=[("files", document)]).raise_for_status()
        python = live.bin_folder(CREW) / "python"
        words = [live.rendered(CREW), f"{url}/v1", "sk-double", *topics]
        command = [str(python), str(ROOT / "benchmarks/bare_crew.py"), *map(str, words)]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        direct = subprocess.Popen(command, text=True, **quiet)
        assert direct.stdout
        for _ in topics:  # the service answers while the other one waits for its model
            bare.append(float(direct.stdout.readline()))
        direct.wait()
        for topic in topics:
            asked = time.monotonic()
            run_id = begin(app, topic)
            assert events(app, run_id)[-1][0] == "done"
            service.append(time.monotonic() - asked)
    middle = {"bare": statistics.median(bare[1:]), "service": statistics.median(service[1:])}
    return {
        "overhead_bare_s": round(middle["bare"], 3),
        "overhead_service_s": round(middle["service"], 3),
        "overhead_ratio": round(middle["service"] / middle["bare"], 4),
    }


def started() -> dict[str, Any]:
    """CPU until it answers, until its page is there; memory at rest."""
    with tempfile.TemporaryDirectory() as folder:
        app = install(CREW, Path(folder) / "app")
        cpu, page, rest = [], [], []
        for n in range(4):
            data = Path(folder) / f"data-{n}"
            with running(app, free_port(), DATA_DIR=data) as process:
                wait_for(f"{process.url}/health", lambda r: r.status_code == 200)
                cpu.append(process.cpu_s())
                wait_for(process.url, lambda r: "gradio" in r.text, 0.1)
                page.append(process.cpu_s())
                time.sleep(8)  # CrewAI is imported last
                rest.append(process.rss_mib())
    return {
        "health_cpu_s": round(statistics.median(cpu[1:]), 2),
        "page_cpu_s": round(statistics.median(page[1:]), 2),
        "rest_mib": round(statistics.median(rest[1:])),
    }


def cancel() -> dict[str, Any]:
    """From the request to stop a run to the moment when its call of the model has ended."""
    took = []
    with gateway() as url, crew(LITELLM_ENDPOINT=url, **live.KEY, **FREE) as app:
        for n in range(10):
            run_id = begin(app, f"topic-{n}")
            live.wait_until(lambda: httpx.get(f"{url}/_double").json()["active"] == 1, 20)
            asked = time.monotonic()
            app.http.delete(f"/api/runs/{run_id}").raise_for_status()
            live.wait_until(lambda: httpx.get(f"{url}/_double").json()["active"] == 0, 20)
            took.append(time.monotonic() - asked)
            assert finished(app, run_id)["state"] == "cancelled"
        calls = httpx.get(f"{url}/_double").json()
        time.sleep(2 * CALL_S)
        assert httpx.get(f"{url}/_double").json() == calls, "it went on asking"
    return {"cancel_s": round(max(took), 3), "cancel_median_s": round(statistics.median(took), 3)}


def drilled() -> dict[str, Any]:
    """Bad days, each a test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *DRILLS], cwd=ROOT
        )
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if list(case)]
    each = {case.get("name"): "failed" if case in bad else "passed" for case in cases}
    return {"drills": len(cases), "drills_passed": len(cases) - len(bad), "drills_each": each}


if __name__ == "__main__":
    main()
