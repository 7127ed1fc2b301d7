"""Processes that the app starts: what they may see, and that they end with it.

The platform puts its passwords into the environment of every pod. A child gets the few variables
that it needs: a model may bring code of its own.
"""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

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


async def start(command: Sequence[str], cwd: Path, env: dict[str, str], **how: Any) -> Process:
    """A child that ends with this process, however that ends, and its own children with it. `how`:
    what `create_subprocess_exec` is told of its output."""
    guard = [sys.executable, "-S", str(Path(__file__).with_name("guard.py"))]
    return await asyncio.create_subprocess_exec(
        *guard, *command, cwd=cwd, env=env, stdin=asyncio.subprocess.PIPE,
        start_new_session=True, **how,
    )  # fmt: skip


@asynccontextmanager
async def killed(child: Process) -> AsyncIterator[None]:
    """At the end of the block the child has ended, and so have those that it started."""
    try:
        yield
    finally:
        await asyncio.shield(end(child))


async def ended(child: Process) -> int:
    """Its code, negative for a signal, as soon as it has ended: `wait()` waits as well for whoever
    holds its output."""
    while child.returncode is None:
        await asyncio.sleep(0.1)
    code = child.returncode
    return 128 - code if code > 128 else code  # as the guard says it, and as Python does


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
