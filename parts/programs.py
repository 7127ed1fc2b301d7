"""A program that is run to its end, and a server until it answers and until it is ended."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

STOP_S = 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def call(command: Sequence[Any], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command to its end; what it says, both streams, is in the error when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}")
    return done.stdout


@contextmanager
def running(
    command: Sequence[Any],
    log: Path,
    ready: Callable[[], bool],
    limit_s: float = 90,
    env: Mapping[str, Any] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The server that `command` starts, once `ready` says so; RuntimeError with the end of its log
    when it ends before that or takes longer than `limit_s`."""
    words = [str(word) for word in command]
    given = {name: str(value) for name, value in env.items()} if env is not None else None
    with log.open("ab") as file:
        child = subprocess.Popen(words, cwd=cwd, env=given, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + limit_s
        while not ready():
            over = time.monotonic() > deadline
            if over or child.poll() is not None:
                why = f"is not ready after {limit_s:.0f} s" if over else "ended"
                said = log.read_text(errors="replace")[-1500:]
                raise RuntimeError(f"{Path(words[0]).name} {why}; its log {log} ends with:\n{said}")
            time.sleep(0.1)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def answers(url: str) -> bool:
    """Whether `url` answers with 200."""
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
