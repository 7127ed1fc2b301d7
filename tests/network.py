"""Ports, a server that never answers, and a machine without a network."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def no_network() -> Iterator[None]:
    """A network namespace with 127.0.0.1 alone, for this thread and what it starts; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
            yield
        finally:
            libc.setns(before.fileno(), CLONE_NEWNET)


def packets_without_a_way() -> int:
    """How often the kernel was asked for a way to another machine since `no_network` began."""
    names, values = Path("/proc/thread-self/net/snmp").read_text().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["OutNoRoutes"])
