"""A rendered app to measure: rendered, installed as its image is, started, watched."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import apps  # noqa: E402
from parts.programs import call  # noqa: E402


def clean_environment(**extra: object) -> dict[str, str]:
    """What a new shell has; bytecode may be written, since the image compiles it."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "SSL_CERT_FILE")}
    return kept | {key: str(value) for key, value in extra.items()}


def install(template: str, folder: Path) -> Path:
    """Render `template` into `folder`, install its requirements; gives the app's folder."""
    app = apps.render(template, folder, "bench")
    install_as_the_image(app, app / ".venv")
    return app


def install_as_the_image(app: Path, venv: Path) -> None:
    """What the stage `packages` of the app's Dockerfile does, with this Python and uv for pip.

    RuntimeError when a command fails.
    """
    dockerfile = (app / "Dockerfile").read_text()
    for command in apps.commands(dockerfile, "packages"):
        call(["sh", "-ec", here(command, app, venv)], env=clean_environment())
    call([venv / "bin/python", "-m", "compileall", "-q", "agent", *app.glob("*.py")], app)


def here(command: str, app: Path, venv: Path) -> str:
    """The command with the paths of this machine, and uv, which keeps what it has fetched."""
    python, uv = f"{venv}/bin/python", f"{sys.executable} -m uv"
    words = {
        r"\bpython3? -m venv\b": f"{uv} venv --quiet --python {sys.executable}",
        r"\S*\bpip3? install\b": f"{uv} pip install --quiet --python {python}",
        r"\s--no-cache-dir\b|\s--no-compile\b": "",
        r"(?<=\s)/requirements": f"{app}/requirements",
        r"(?<=\s)/venv\b": str(venv),
        r"/python3\.\d+/": f"/python3.{sys.version_info.minor}/",
    }
    for pattern, here in words.items():
        command = re.sub(pattern, lambda _, here=here: here, command)
    return command


def packages(venv: Path) -> int:
    """Distributions in the environment, without what installs them."""
    (folder,) = venv.glob("lib/python*/site-packages")
    names = {found.name.lower() for found in distributions(path=[str(folder)])}
    return len(names - {"pip", "setuptools"})


def megabytes(venv: Path, bytecode: bool) -> float:
    """10^6 bytes of the files in `lib`: those that are bytecode, or all others."""
    sizes = (
        path.lstat().st_size
        for path in (venv / "lib").rglob("*")
        if not path.is_dir() and (path.suffix == ".pyc") == bytecode
    )
    return sum(sizes) / 10**6


class Process(SimpleNamespace):
    """A running app: `url`, and what /proc says of it."""

    def cpu_s(self) -> float:
        """CPU seconds of all threads, user and system, since the start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory of the process."""
        return self._status("VmRSS")

    def peak_mib(self) -> float:
        """The most that was ever resident."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


@contextmanager
def running(
    app: Path, port: int, programs: Path | None = None, **environment: object
) -> Iterator[Process]:
    """Start `app` as its Containerfile does, with `programs` or its own; ends it afterwards. What
    it says is in the file `log` of its folder."""
    found = programs or app / ".venv/bin"
    command = [*apps.command(app, port), "--log-level", "warning"]
    env = clean_environment(PORT=port, **environment)
    with (app / "log").open("ab") as log:
        words = [str(found / command[0]), *command[1:]]
        child = subprocess.Popen(words, cwd=app, env=env, stdout=log, stderr=log)
    try:
        yield Process(pid=child.pid, url=f"http://127.0.0.1:{port}")
    finally:
        child.terminate()
        child.wait(30)


def wait_for(
    url: str, good: Callable[[httpx.Response], Any], every_s: float = 0.01, limit_s: float = 300
) -> None:
    """Ask `url` until `good(response)`; each answer costs the app some 3 ms of CPU."""
    deadline = time.monotonic() + limit_s
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < deadline:
            try:
                if good(client.get(url)):
                    return
            except httpx.TransportError:
                pass
            time.sleep(every_s)
    raise TimeoutError(f"{url} did not become ready within {limit_s} s")
