"""Processes that the app starts: what they may see, and that they end with it.

The platform puts its passwords into the environment of every pod. A child gets the few variables
that it needs: a model may bring code of its own.
"""

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_NEEDED = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|USER|LD_\w+|SSL_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|"
    r"https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|XDG_CACHE_HOME|"
    r"(?:HF|VLLM|CUDA|NVIDIA|NCCL|TORCH|TORCHINDUCTOR|TRITON|FLASHINFER|OMP|MKL|PYTORCH)_\w+"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|_KEY$")
GRACE_S = 5
"""Between asking a child to end and ending it."""


def environment() -> dict[str, str]:
    """What a child gets of this process's environment: no secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if _NEEDED.fullmatch(name) and not _SECRET.search(name)
    }


def bound_to_us(command: list[str]) -> list[str]:
    """`command`, ended by the kernel when this process dies without a word; as far as it can."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command


@asynccontextmanager
async def killed(child: Process) -> AsyncIterator[None]:
    """At the end of the block the child has ended, and so have those that it started."""
    try:
        yield
    finally:
        await asyncio.shield(end(child))


async def ended(child: Process) -> int:
    """Its code as soon as it has ended: `wait()` waits as well for whoever holds its output."""
    while child.returncode is None:
        await asyncio.sleep(0.1)
    return child.returncode


async def end(child: Process) -> None:
    """Ask the child's whole group to end, and end it when it does not."""
    _signal(child, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await child.wait()
    _signal(child, signal.SIGKILL)
    await child.wait()


def _signal(child: Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
