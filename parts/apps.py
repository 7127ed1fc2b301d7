"""A rendered template that runs, as its Containerfile starts it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parts.environments import ROOT, environment
from parts.programs import answers, call, free_port, running


def render(template: str, to: Path, name: str, **answers: str) -> Path:
    """The app's folder, rendered anew into `to`/`name`, as thinkube-control does it: without trust
    and without questions. `answers` are those to the template's own questions."""
    shutil.rmtree(to / name, ignore_errors=True)
    to.mkdir(parents=True, exist_ok=True)
    copier = [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet", "--overwrite"]
    for question, answer in {"project_name": name, **answers}.items():
        copier += ["--data", f"{question}={answer}"]
    call([*copier, ROOT / template, to])
    return to / name


def _requirements(app: Path) -> list[list[Any]]:
    """What each call of `pip install` gets for an app on a laptop."""
    # The files are complete; what left-out.txt names is not needed.
    wanted: list[Any] = ["--no-deps"]
    for name in ("requirements.txt", "requirements-local.txt"):
        if (app / name).exists():
            wanted += ["--requirement", app / name]
    small = app / "requirements-small.txt"  # what it would bring along is not needed
    return [wanted, ["--no-deps", "--requirement", small] if small.exists() else []]


def programs(app: Path, template: str) -> Path:
    """`bin` of the environment in which the app runs: the image's packages, and what a laptop
    adds."""
    name, dockerfile = template.removeprefix("tkt-"), (app / "Dockerfile").read_text()
    return environment(name, *_requirements(app), then=_trimming(dockerfile), compiled=False)


def _trimming(dockerfile: str) -> list[str]:
    """What the image does to its packages once they are installed, also to compile them; shell
    commands for `environment`."""
    (installing,) = (line for line in commands(dockerfile, "packages") if "pip install" in line)
    return [command.replace("/venv/", '"$VENV"/') for command in installing.split(" && ")[1:]]


def commands(dockerfile: str, stage: str) -> list[str]:
    """What follows RUN in a stage, each on one line."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = re.search(rf"^FROM .+ AS {stage}$(.+?)(?=^FROM |\Z)", whole, re.M | re.S)
    if not found:
        raise RuntimeError(f"The Dockerfile has no stage {stage!r}; see parts/apps.py.")
    return re.findall(r"^RUN (.+)$", found[1], re.M)


@contextmanager
def launched(app: Path, template: str, folder: Path, **env: Any) -> Iterator[str]:
    """The address of the app, which is alive and may not be ready; its log is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port, path = free_port(), programs(app, template)
    given = {"PATH": f"{path}:/usr/bin:/bin", "HOME": folder, "DATA_DIR": folder / "data"} | env
    url = f"http://127.0.0.1:{port}"
    log = folder / "log"
    alive = f"{url}/health"
    with running(command(app, port), log, lambda: answers(alive), env=given, cwd=app):
        yield url


def command(app: Path, port: int) -> list[str]:
    """CMD of the Containerfile, at another port, and on this machine alone."""
    found = re.search(r"^CMD (\[.+\])$", (app / "Containerfile").read_text(), re.M)
    assert found, "The Containerfile has no CMD in its exec form."
    words: list[str] = json.loads(found[1])
    words[words.index("--port") + 1] = str(port)
    words[words.index("--host") + 1] = "127.0.0.1"
    return words
