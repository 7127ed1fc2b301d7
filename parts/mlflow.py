"""The real MLflow server: runs, artefacts and registered models in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from parts.environments import environment
from parts.programs import answers, free_port, running

WANTED = ["mlflow==3.17.2"]


@dataclass(frozen=True)
class Mlflow:
    url: str
    artefacts: Path
    """What the platform mounts into the pods at /mlflow-models."""


@contextmanager
def server(folder: Path) -> Iterator[Mlflow]:
    """A server whose store in `folder` outlives it; up in about 12 s."""
    program = environment("mlflow", WANTED) / "mlflow"
    here = Mlflow(f"http://127.0.0.1:{free_port()}", folder / "artefacts")
    here.artefacts.mkdir(parents=True, exist_ok=True)
    env = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": folder,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # or there are ten processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        program, "server", "--workers", "1", "--host", "127.0.0.1",
        "--port", here.url.rpartition(":")[2],
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", here.artefacts,
    ]  # fmt: skip
    ready = f"{here.url}/health"
    with running(command, folder / "mlflow.log", lambda: answers(ready), env=env, cwd=folder):
        yield here
