"""A rendered app to measure: rendered, installed with compiled bytecode, started, watched."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx

ROOT = Path(__file__).resolve().parent.parent


def clean_environment(**extra: object) -> dict[str, str]:
    """What a new shell has; bytecode may be written, since the image compiles it."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "SSL_CERT_FILE")}
    return kept | {key: str(value) for key, value in extra.items()}


def install(template: str, folder: Path) -> Path:
    """Render `template` into `folder`, install its requirements; gives the app's folder."""
    subprocess.run(
        [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet", "--data",
         "project_name=bench", str(ROOT / template), str(folder)],
        check=True,
    )  # fmt: skip
    app = folder / "bench"
    uv = [sys.executable, "-m", "uv"]
    python = app / ".venv/bin/python"
    subprocess.run([*uv, "venv", "--quiet", str(app / ".venv")], check=True)
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python),
         "--requirement", str(app / "requirements.txt")],
        check=True,
    )  # fmt: skip
    subprocess.run(
        [python, "-m", "compileall", "-q", "agent", "app.py", "ui.py"], cwd=app, check=True
    )
    return app


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
def running(app: Path, port: int, **environment: object) -> Iterator[Process]:
    """Start `app` as its Containerfile does; ends it afterwards."""
    command = [
        str(app / ".venv/bin/uvicorn"), "--factory", "app:create_app", "--host", "127.0.0.1",
        "--port", str(port), "--log-level", "warning",
    ]  # fmt: skip
    env = clean_environment(PORT=port, **environment)
    child = subprocess.Popen(command, cwd=app, env=env)
    try:
        yield Process(pid=child.pid, url=f"http://127.0.0.1:{port}")
    finally:
        child.terminate()
        child.wait(30)


def wait_for(url: str, good: object, every_s: float = 0.01, limit_s: float = 60) -> None:
    """Ask `url` until `good(response)`; each answer costs the app some 3 ms of CPU."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if good(httpx.get(url, timeout=5)):
                return
        except httpx.TransportError:
            pass
        time.sleep(every_s)
    raise TimeoutError(f"{url} did not become ready within {limit_s} s")
