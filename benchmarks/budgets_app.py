"""What one template costs: to render, to install, to start, at rest, and after work."""

import resource
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from budgets_work import ANSWERS, DOCUMENTS, at_work
from rendered import Process, install_as_the_image, megabytes, packages, running, wait_for

from parts.programs import free_port
from tests.rendering import call, commit_all, copier
from tests.updating import PLATFORM, as_it_lies, at_commit

Figures = dict[str, Any]
TIMES = 5
REST_S, IDLE_S = 5, 2
FLOOR = ("health_cpu_s", "page_cpu_s", "rest_mib")
NEEDS = {
    "tkt-rag-agent": "langchain_core.runnables qdrant_edge qdrant_client",
    "tkt-crewai-agent": "crewai qdrant_edge qdrant_client",
}
"""What the bare app imports too."""


def measured(template: str, commit: str, scratch: Path) -> Figures:
    """All figures of a template as it lies here, or as it was at a commit of this repository."""
    repository = published(template, commit, scratch / "collection")
    figures, app = rendered(repository, scratch)
    figures |= installed(app)
    figures |= started(template, app, app / ".venv/bin")
    if not commit:
        figures |= floor(template, app, scratch / "bare")
    print(f"  {template}: {figures}", flush=True)
    return figures | worked(template, app, scratch / "data")


def published(template: str, commit: str, folder: Path) -> Path:
    """The template as a repository of its own, as the platform gets it."""
    collection = at_commit(commit, folder) if commit else as_it_lies(folder)
    commit_all(collection / template)
    return collection / template


def rendered(repository: Path, scratch: Path, times: int = TIMES) -> tuple[Figures, Path]:
    """Seconds of the platform's own call of Copier, a process each, medians; and the app."""
    data = [word for name, value in PLATFORM.items() for word in ("--data", f"{name}={value}")]
    seconds, cpu = [], []
    for n in range(times):
        to = scratch / f"rendered-{n}"
        began, began_cpu_s = time.perf_counter(), _children_s()
        call([copier(), "copy", "--force", "--vcs-ref=HEAD", repository, to, *data])
        seconds.append(time.perf_counter() - began)
        cpu.append(_children_s() - began_cpu_s)
    return {
        "render_s": round(statistics.median(seconds), 2),
        "render_cpu_s": round(statistics.median(cpu), 2),
    }, to / PLATFORM["project_name"]


def _children_s() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def installed(app: Path) -> Figures:
    """What the image's packages are, in `.venv` of the app's folder."""
    venv = app / ".venv"
    install_as_the_image(app, venv)
    figures = {
        "packages": packages(venv),
        "install_mb": round(megabytes(venv, bytecode=False), 1),
        "bytecode_mb": round(megabytes(venv, bytecode=True), 1),
    }
    if (engine := app / "requirements-engine.txt").exists():
        pins = [line for line in engine.read_text().splitlines() if line[:1].isalnum()]
        figures["engine_packages"] = len(pins)
    return figures


def started(template: str, app: Path, programs: Path, times: int = TIMES) -> Figures:
    """CPU seconds until /health and until the page, MiB at rest: medians of some starts; and the
    CPU seconds of a fixed loop in between, which say how fast the machine was."""
    with _running(template, app, programs) as process:
        wait_for(process.url, lambda r: "gradio" in r.text, every_s=0.1)  # reads the disk
    rows, loops = [], []
    for _ in range(times):
        loops.append(loop_s())
        rows.append(_start(template, app, programs))
    health, page, rest = zip(*rows, strict=True)
    return {
        "health_cpu_s": round(statistics.median(health), 2),
        "page_cpu_s": round(statistics.median(page), 2),
        "rest_mib": round(statistics.median(rest)),
        "loop_cpu_s": round(statistics.median(loops), 3),
    }


def floor(template: str, app: Path, bare: Path) -> Figures:
    """The same starts of the least that has a page, with the packages of the app."""
    bare.mkdir()
    shutil.copy(app / "Containerfile", bare)
    shutil.copy(Path(__file__).parent / "bare_page.py", bare / "app.py")
    seen = started(template, bare, app / ".venv/bin")
    return {f"floor_{name}": seen[name] for name in FLOOR}


def _start(template: str, app: Path, programs: Path) -> tuple[float, float, float]:
    with _running(template, app, programs) as process:
        wait_for(f"{process.url}/health", lambda r: r.status_code == 200)
        health = process.cpu_s()
        wait_for(process.url, lambda r: "gradio" in r.text, every_s=0.1)
        page = process.cpu_s()
        return health, page, _at_rest(process)


def _at_rest(process: Process) -> float:
    """MiB of the app's own process, some seconds after the page and once it does nothing more:
    what the page does not need is imported after it."""
    time.sleep(REST_S)
    for _ in range(30):
        before = process.cpu_s()
        time.sleep(IDLE_S)
        if process.cpu_s() - before < 0.2:  # the page alone takes 0.1, and a busy machine more
            break
    return process.rss_mib()


@contextmanager
def _running(template: str, app: Path, programs: Path) -> Iterator[Process]:
    """With nothing configured; the model server's engine is a program that says nothing."""
    env: dict[str, object] = {"DATA_DIR": app / "empty", "NEEDS": NEEDS.get(template, "")}
    if template == "tkt-vllm-gradio":
        (app / "none").mkdir(exist_ok=True)
        (app / "none" / "config.json").write_text("{}")
        env |= {"ENGINE": "vllm", "ENGINE_COMMAND": "sh -c 'sleep 600'", "MODEL_ID": app / "none"}
    with running(app, free_port(), programs, **env) as process:
        yield process


def loop_s() -> float:
    """CPU seconds of a fixed loop of plain Python."""
    began = time.process_time()
    for _ in range(20):
        rows = [{"n": n, "text": str(n * 7919 % 10007)} for n in range(10_000)]
        rows.sort(key=lambda row: row["text"])
        sum(len(row["text"]) + row["n"] for row in rows)
    return time.process_time() - began


def worked(template: str, app: Path, folder: Path) -> Figures:
    """Memory after 1,000 documents, where the template holds some, and after 100 answers."""
    with at_work(template, app, folder) as work:
        figures: Figures = {}
        if work.take_in:
            began = time.perf_counter()
            work.take_in(DOCUMENTS)
            figures["documents_per_s"] = round(DOCUMENTS / (time.perf_counter() - began), 1)
            figures["documents_mib"] = round(work.process.rss_mib())
        before_s, began = work.process.cpu_s(), time.perf_counter()
        for n in range(ANSWERS):
            work.answer(n)
        print(f"  {template}: {ANSWERS} answers in {time.perf_counter() - began:.0f} s", flush=True)
        return figures | {
            "answers": ANSWERS,
            "answer_cpu_ms": round((work.process.cpu_s() - before_s) / ANSWERS * 1000, 1),
            "loaded_mib": round(work.process.rss_mib()),
            "peak_mib": round(work.process.peak_mib()),
        }
