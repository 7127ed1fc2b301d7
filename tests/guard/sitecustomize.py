"""Python runs this at its start in an app under test (PYTHONPATH): no way out of this machine.

Whatever goes elsewhere than to 127.0.0.0/8 is refused and noted in the file `REFUSED_LOG`, one
"host:port" a line. `NAMES` gives names to servers on this machine, as the cluster's DNS does:
{"qdrant.qdrant.svc.cluster.local:6333": 40123}, host and port to the local port.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

PORTS: dict[str, int] = json.loads(os.environ.pop("NAMES", "{}"))
HOSTS = sorted({name.rpartition(":")[0] for name in PORTS})
LOG = Path(os.environ.pop("REFUSED_LOG", os.devnull))
FIRST_ADDRESS = 2130771969  # 127.1.0.1: each name gets an address of its own
connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
sendto, getaddrinfo = socket.socket.sendto, socket.getaddrinfo


def local(host: str) -> str:
    """The loopback address of `host`, or an error as when there is no network."""
    if host in HOSTS:
        return str(ip_address(FIRST_ADDRESS + HOSTS.index(host)))
    if host in ("localhost", "", "0.0.0.0", "::"):
        return host
    try:
        if ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    refuse(host, "")
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def place(host: str, port: int) -> tuple[str, int]:
    """Where a connection to `host` and `port` really goes."""
    address = local(host)
    number = int(ip_address(address)) - FIRST_ADDRESS if address[:4] == "127." else -1
    if 0 <= number < len(HOSTS):
        return "127.0.0.1", PORTS.get(f"{HOSTS[number]}:{port}", 1)  # nobody listens at port 1
    return host, port


def refuse(host: str, port: Any) -> None:
    with LOG.open("a") as log:
        log.write(f"{host}:{port}\n")


def on_this_machine(address: Any) -> Any:
    """`address` of a socket, with a name's own address replaced; OSError when it is elsewhere."""
    if not isinstance(address, tuple):
        return address  # a Unix socket
    return (*place(address[0], address[1]), *address[2:])


class Guarded:
    """Methods of socket.socket."""

    def connect(self: Any, address: Any) -> None:
        return connect(self, on_this_machine(address))

    def connect_ex(self: Any, address: Any) -> int:
        return connect_ex(self, on_this_machine(address))

    def sendto(self: Any, data: bytes, *rest: Any) -> int:
        return sendto(self, data, *rest[:-1], on_this_machine(rest[-1]))


def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host or ""
    return getaddrinfo(local(name) or None, port, *args, **kwargs)


def guard_uvloop() -> None:
    """It connects in C, past Python's sockets."""
    uvloop = importlib.import_module("uvloop")
    create_connection = uvloop.Loop.create_connection

    async def guarded(
        self: Any, factory: Any, host: Any = None, port: Any = None, **kw: Any
    ) -> Any:
        if host is not None:
            host, port = place(host, port)
        return await create_connection(self, factory, host, port, **kw)

    async def lookup(self: Any, host: Any, port: Any, **kw: Any) -> Any:
        return resolve(host, port, **kw)

    uvloop.Loop.create_connection = guarded
    uvloop.Loop.getaddrinfo = lookup


for method in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, method, vars(Guarded)[method])
socket.getaddrinfo = resolve
with contextlib.suppress(ImportError):
    guard_uvloop()
