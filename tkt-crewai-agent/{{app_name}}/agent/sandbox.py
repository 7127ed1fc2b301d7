"""Runs a small Python program that a model wrote, in a child process with limits.

What this is: a fence for honest mistakes, and for the first lines of an attack. The program gets
time, memory and output by measure, an empty folder, an empty environment, and no network, no other
programs and no files elsewhere. What this is not: a jail, as a virtual machine is one. The program
runs under the same kernel and as the same user as the app, inside a Python that has bugs; where the
kernel has neither seccomp nor Landlock (agent/sandbox_child.py), all that stops an attacker is
Python's audit hook, which somebody who knows Python's inside can get around. So it is off unless
RUN_PYTHON is set, and nobody should set it for people whom they would not let run code in the pod.
"""

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from agent.errors import Refused
from agent.sandbox_child import CPU_S, MEMORY_MIB, MIB, NO_MEMORY

MAX_CODE = 20_000
"""Characters; a program that a model writes in one go is shorter."""
MAX_OUTPUT = 10_000
"""Bytes; a tool's result is cut soon after."""
WALL_S = 10.0
"""A program that waits uses no CPU time."""
MAX_FILES, MAX_FOLDER = 100, 50 * MIB
"""In the program's folder; one file is limited by the kernel, many together are not."""
LOOK_S = 0.1
"""How often the folder is looked into: a disk takes some 100 MB in that time."""

_CHILD = str(Path(__file__).with_name("sandbox_child.py"))
# Isolated from the user's settings and packages, without bytecode files, in UTF-8.
_COMMAND = (sys.executable, "-I", "-S", "-B", "-X", "utf8", _CHILD)


def hide_environment() -> None:
    """Let no other process of this user read this one's memory and environment, where the passwords
    are; called once, when the app starts. Root can read them nevertheless."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


async def run_python(code: str) -> str:
    """What the program prints, its errors included."""
    if len(code) > MAX_CODE:
        raise Refused(f"The program is longer than {MAX_CODE:,} characters; write a shorter one.")
    with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder:
        child = await _start(folder)
        watching = asyncio.create_task(_watch(child, folder))
        try:
            async with asyncio.timeout(WALL_S):
                printed = await _talk(child, code)
                if len(printed) > MAX_OUTPUT:
                    return _cut(printed)
                status = await child.wait()
        except TimeoutError:
            advice = "let it do less, and wait for nothing"
            raise Refused(f"The program took more than {WALL_S:g} s; {advice}.") from None
        finally:
            watching.cancel()
            await _end(child)
        if watching.done() and not watching.cancelled():
            room = f"{MAX_FILES} files or {MAX_FOLDER // MIB} MiB"
            raise Refused(f"The program wrote more than {room}; keep things in memory.")
    if status < 0 or status == NO_MEMORY:
        raise _ended(status)
    return printed.decode(errors="replace").strip() or "(The program printed nothing.)"


async def _start(folder: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder},
        start_new_session=True,
    )


async def _talk(child: asyncio.subprocess.Process, code: str) -> bytes:
    """Give it the program; what it prints until it ends, or until that is too much."""
    assert child.stdin and child.stdout
    with suppress(BrokenPipeError, ConnectionResetError):  # how it ended is told by its status
        child.stdin.write(code.encode(errors="replace"))
        await child.stdin.drain()
    child.stdin.close()
    printed = b""
    while len(printed) <= MAX_OUTPUT and (piece := await child.stdout.read(MAX_OUTPUT)):
        printed += piece
    return printed


async def _watch(child: asyncio.subprocess.Process, folder: str) -> None:
    """Kill it once its folder is too full; until then this goes on."""
    while not _full(folder):
        await asyncio.sleep(LOOK_S)
    _kill(child)


def _full(folder: str) -> bool:
    count = size = 0
    with suppress(OSError), os.scandir(folder) as entries:  # a file may go while it is counted
        for count, entry in enumerate(entries, 1):
            size += entry.stat(follow_symlinks=False).st_size
            if count > MAX_FILES or size > MAX_FOLDER:
                return True
    return False


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill it and whatever it began, and wait until it is gone."""
    assert child.stdout
    _kill(child)
    with suppress(TimeoutError):  # a process that left the group could hold the pipe open
        async with asyncio.timeout(1):
            while await child.stdout.read(MAX_OUTPUT):  # asyncio waits for the pipe's end, too
                pass
            await child.wait()


def _kill(child: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _cut(printed: bytes) -> str:
    text = printed[:MAX_OUTPUT].decode(errors="replace")
    return f"{text}\n(Cut here: the program printed more than {MAX_OUTPUT:,} bytes, and was ended.)"


def _ended(status: int) -> Refused:
    if status == NO_MEMORY:
        most = f"more than {MEMORY_MIB} MiB of memory"
        return Refused(f"The program needed {most}; let it hold less at a time.")
    if status == -signal.SIGXCPU:
        return Refused(f"The program used more than {CPU_S} s of CPU time; let it do less.")
    if status == -signal.SIGKILL:  # by the kernel: nobody else is left to do it
        return Refused("The program used too much CPU time or memory; let it do less.")
    name = signal.Signals(-status).name
    return Refused(f"The program was ended by the signal {name}; write it in another way.")
