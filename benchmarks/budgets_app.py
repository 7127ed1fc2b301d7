"""What one template costs: to render, to install, to start, at rest, and after work.

The CPU seconds of one start differ widely from one hour to the next on one machine.
So versions take turns with the floor, the least that does the same kind of work: a template of one
file, an app of one field. Limits are on how many times the floor's seconds a template takes.
"""

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
NOW, BEFORE, FLOOR = "now", "before", "floor"
NEEDS = {
    "tkt-rag-agent": "langchain_core.runnables qdrant_edge qdrant_client",
    "tkt-crewai-agent": "crewai qdrant_edge qdrant_client",
}
"""What the bare app imports too."""


def measured(template: str, commit: str, scratch: Path) -> dict[str, Figures]:
    """All figures of a template as it lies here: NOW; with a commit of this repository also as it
    was there: BEFORE."""
    repositories = {NOW: published(template, "", scratch / "collection")}
    if commit:
        repositories[BEFORE] = published(template, commit, scratch / "collection-before")
    renderings, apps = rendered(repositories, scratch)
    packed = {version: installed(app) for version, app in apps.items()}
    starts = started(template, apps, scratch / "bare")
    found = {}
    for version, app in apps.items():
        found[version] = renderings[version] | packed[version] | starts[version]
        print(f"  {template} {version}: {found[version]}", flush=True)
        found[version] |= worked(template, app, scratch / f"data-{version}")
    return found


def published(template: str, commit: str, folder: Path) -> Path:
    """The template as a repository of its own, as the platform gets it."""
    collection = at_commit(commit, folder) if commit else as_it_lies(folder)
    commit_all(collection / template)
    return collection / template


def rendered(
    repositories: dict[str, Path], scratch: Path, times: int = TIMES
) -> tuple[dict[str, Figures], dict[str, Path]]:
    """Seconds of the platform's own call of Copier, a process each; and the apps. By version."""
    data = [word for name, value in PLATFORM.items() for word in ("--data", f"{name}={value}")]
    turns = repositories | {FLOOR: _bare_template(scratch / "bare-template")}
    rows: dict[str, list[Figures]] = {version: [] for version in turns}
    for n in range(times):
        for version, repository in turns.items():
            began, began_cpu_s = time.perf_counter(), _children_s()
            to = scratch / f"{version}-{n}"
            call([copier(), "copy", "--force", "--vcs-ref=HEAD", repository, to, *data])
            seconds, cpu_s = time.perf_counter() - began, _children_s() - began_cpu_s
            rows[version].append({"render_s": seconds, "render_cpu_s": cpu_s})
    last = {version: scratch / f"{version}-{times - 1}" for version in repositories}
    return beside_floor(rows), {v: to / PLATFORM["project_name"] for v, to in last.items()}


def _bare_template(folder: Path) -> Path:
    """A repository with one question and one file that has its answer."""
    folder.mkdir()
    (folder / "copier.yml").write_text("project_name:\n  type: str\n")
    (folder / "README.md.jinja").write_text("# {{ project_name }}\n")
    commit_all(folder)
    return folder


def _children_s() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def beside_floor(rows: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Medians by version, with those of the floor, and CPU seconds as so many times the floor's."""
    medians = {
        version: {key: statistics.median(row[key] for row in those) for key in those[0]}
        for version, those in rows.items()
    }
    floor = medians.pop(FLOOR)
    least = {f"floor_{key}": round(value, 2) for key, value in floor.items()}
    return {
        version: {key: round(value, 2) for key, value in seen.items()}
        | least
        | {
            f"{key}_of_floor": round(seen[key] / floor[key], 2)
            for key in seen
            if key.endswith("_cpu_s")
        }
        for version, seen in medians.items()
    }


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


def started(
    template: str, apps: dict[str, Path], bare: Path, times: int = TIMES
) -> dict[str, Figures]:
    """CPU seconds until /health and until the page, and MiB at rest. By version."""
    turns = apps | {FLOOR: _bare_page(apps[NOW], bare)}
    for app in turns.values():
        _start(template, app)  # reads the disk, and makes the store
    rows: dict[str, list[Figures]] = {version: [] for version in turns}
    for _ in range(times):
        for version, app in turns.items():
            rows[version].append(_start(template, app))
    rest_mib = {version: _rest_mib(template, app) for version, app in turns.items()}
    return {
        version: found | {"rest_mib": rest_mib[version], "floor_rest_mib": rest_mib[FLOOR]}
        for version, found in beside_floor(rows).items()
    }


def _bare_page(app: Path, bare: Path) -> Path:
    """The least that has a page, with the packages of the app."""
    bare.mkdir()
    shutil.copy(app / "Containerfile", bare)
    shutil.copy(Path(__file__).parent / "bare_page.py", bare / "app.py")
    (bare / ".venv").symlink_to(app / ".venv")
    return bare


def _start(template: str, app: Path) -> Figures:
    with _running(template, app) as process:
        wait_for(f"{process.url}/health", lambda r: r.status_code == 200)
        health_s = process.cpu_s()
        _page(process)
        return {"health_cpu_s": health_s, "page_cpu_s": process.cpu_s()}


def _rest_mib(template: str, app: Path) -> int:
    with _running(template, app) as process:
        _page(process)
        return round(_at_rest(process))


def _page(process: Process) -> None:
    wait_for(process.url, lambda r: "gradio" in r.text, every_s=0.1)


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
def _running(template: str, app: Path) -> Iterator[Process]:
    """With nothing configured; the model server's engine is a program that says nothing."""
    env: dict[str, object] = {"DATA_DIR": app / "empty", "NEEDS": NEEDS.get(template, "")}
    if template == "tkt-vllm-gradio":
        (app / "none").mkdir(exist_ok=True)
        (app / "none" / "config.json").write_text("{}")
        env |= {"ENGINE": "vllm", "ENGINE_COMMAND": "sh -c 'sleep 600'", "MODEL_ID": app / "none"}
    with running(app, free_port(), app / ".venv/bin", **env) as process:
        yield process


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
