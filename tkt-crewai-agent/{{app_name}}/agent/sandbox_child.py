"""What runs in sandbox.py's child process: it closes the doors, then runs the program.

A script that Python starts with -I, so it imports nothing of the app's. The kernel closes what it
can, by Landlock (files) and seccomp (system calls), where it has them. An audit hook of Python's
closes the same doors once more: it is there on every kernel, and it says in words what is refused.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import platform
import resource
import struct
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

MIB = 1 << 20
CPU_S, MEMORY_MIB = 5, 512
LIMITS = {
    resource.RLIMIT_CPU: (CPU_S, CPU_S + 1),  # a signal, and a second later the end
    resource.RLIMIT_AS: (MEMORY_MIB * MIB, MEMORY_MIB * MIB),
    resource.RLIMIT_FSIZE: (10 * MIB, 10 * MIB),
    resource.RLIMIT_NOFILE: (64, 64),
    resource.RLIMIT_NPROC: (0, 0),  # neither processes nor threads; root is above this one
    resource.RLIMIT_CORE: (0, 0),
}
NO_MEMORY = 86
"""Exit status of a program that needed more memory than it may have."""

LIBRARIES = ("/usr/lib", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
"""What modules in C are made of; the kernel lets them be read, the audit hook does not."""
DATA = ("/usr/share/zoneinfo", "/dev/null", "/dev/urandom")

# Landlock's rights: https://docs.kernel.org/userspace-api/landlock.html
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_FILE, TRUNCATE = (
    1 << bit for bit in (1, 2, 3, 5, 8, 14)
)
OWN = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_FILE | MAKE_FILE | TRUNCATE
"""In the program's folder: files, but no folders, so that it is emptied quickly."""

SYSTEM_CALLS = {
    # On x86_64: sockets; programs, processes and threads; signals to others; others' memory and
    # limits; folders, links and devices; rights of files; mounts; memory that no limit counts.
    "x86_64": "41 425 | 56 57 58 59 322 435 | 62 129 200 234 297 424 434 438 | 101 302 310 311 440"
    "| 83 86 88 133 258 259 265 266 304 | 90 91 92 93 94 188 189 190 260 268 452"
    "| 141 142 144 203 251 314 | 155 161 165 166 272 308 428 429 430 442"
    "| 29 64 68 240 248 249 250 298 319 321 323 447",
    "aarch64": "198 425 | 220 221 281 435 | 129 130 131 138 240 424 434 438 | 117 261 270 271 440"
    "| 33 34 36 37 265 | 5 6 7 52 53 54 55 452"
    "| 118 119 122 140 274 30 | 39 40 41 51 97 268 428 429 430 442"
    "| 180 186 190 194 217 218 219 241 279 280 282 447",
}
"""The numbers of the system calls that are refused."""
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""How seccomp calls them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = _words(
    "ctypes _ctypes _posixsubprocess _posixshmem _multiprocessing _sqlite3 _ssl _dbm _gdbm readline"
    " _curses _tkinter nis spwd syslog _testcapi _testinternalcapi _remote_debugging _interpreters"
    " _interpchannels _interpqueues _xxsubinterpreters _xxinterpchannels _xxinterpqueues"
)
"""They reach files, programs or memory by ways that raise no audit event."""
HARMLESS = _words(
    "compile exec marshal.loads marshal.load marshal.dumps builtins.id builtins.input"
    " builtins.input/result object.__getattr__ object.__delattr__ function.__new__ sys._getframe"
    " sys._getframemodulename sys.excepthook sys.unraisablehook time.sleep array.__new__"
    " pickle.find_class tempfile.mkstemp glob.glob glob.glob/2 pathlib.Path.glob pathlib.Path.rglob"
    " os.walk os.putenv os.unsetenv shutil.copyfile shutil.move"
)
"""Audit events of ordinary programs. Whatever else there is, or comes to be, is refused."""
CHANGES = frozenset({"os.remove", "os.rename", "os.truncate", "os.utime"})
LISTS = frozenset({"os.listdir", "os.scandir"})


def main() -> None:
    code, folder = sys.stdin.buffer.read().decode(), os.getcwd()
    for limit, most in LIMITS.items():
        with contextlib.suppress(OSError, ValueError):  # not every system has every limit
            resource.setrlimit(limit, most)
    library = [path for path in sys.path if os.path.isdir(path)]
    close_in_kernel(folder, [*library, *LIBRARIES, *DATA])
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]
    close_in_python(folder, library)
    run(code)


def close_in_kernel(folder: str, readable: list[str]) -> list[str]:
    """What of Landlock and seccomp this kernel has, and now holds this process for good."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return []
    import ctypes

    def long(argument: int | bytes) -> Any:
        return ctypes.c_long(argument) if isinstance(argument, int) else argument

    def call(*arguments: int | bytes) -> int:
        return int(libc.syscall(*map(long, arguments)))

    def prctl(*arguments: int | bytes) -> int:
        return int(libc.prctl(*map(long, (*arguments, 0, 0))))

    libc = ctypes.CDLL(None)
    prctl(1, 9, 0)  # die with the app
    prctl(38, 1, 0)  # no new rights: without that there is neither
    closed = ["landlock"] if _landlock(call, folder, readable) else []
    if program := _seccomp_program():
        kept = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
        closed += ["seccomp"] if prctl(22, 2, head) == 0 else []
    return closed


def _landlock(call: Callable[..., int], folder: str, readable: list[str]) -> bool:
    version = call(444, 0, 0, 1)
    if version < 1:
        return False
    every = (1 << min(12 + version, 15)) - 1
    # Files; nothing of the network, which seccomp closes; and no signals to others, where known.
    wanted = struct.pack("QQQ", every, 0, 3)
    rules = call(444, wanted, len(wanted) if version >= 6 else 8, 0)
    for path in (folder, *readable):
        with contextlib.suppress(OSError):  # not every system has each of them
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = OWN if path == folder else READ_FILE | READ_DIR
            rights |= WRITE_FILE if path == "/dev/null" else 0
            rights &= every if os.path.isdir(path) else every & ~READ_DIR
            call(445, rules, 1, struct.pack("=Qi", rights, opened), 0)
            os.close(opened)
    closed = call(446, rules, 0) == 0
    os.close(rules)
    return closed


def _seccomp_program() -> bytes:
    """A filter that answers "not permitted" to SYSTEM_CALLS; nothing for another machine."""
    machine = platform.machine()
    if machine not in MACHINES:
        return b""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refused = (give, 0, 0, 0x00050001)
    steps = [(load, 0, 0, 4), (equal, 1, 0, MACHINES[machine]), (give, 0, 0, 0x80000000)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refused]  # x32's numbers
    for number in SYSTEM_CALLS[machine].replace("|", " ").split():
        steps += [(equal, 0, 1, int(number)), refused]
    steps.append((give, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def close_in_python(folder: str, library: list[str]) -> None:
    """The audit hook, for good: Python knows no way to take one off."""

    # What it needs are its defaults: unlike globals, closures and builtins, nobody can change them.
    # It asks for exact types, as a subclass could say one thing now and another thing later.
    def hook(
        event: str,
        args: tuple[Any, ...],
        own: tuple[str, ...] = (folder + "/", "/dev/null/"),
        readable: tuple[str, ...] = tuple(path + "/" for path in (folder, *library, *DATA)),
        native: tuple[str, ...] = tuple(path + "/" for path in library),
        modules: frozenset[str] = MODULES,
        harmless: frozenset[str] = HARMLESS,
        lists: frozenset[str] = LISTS,
        changes: frozenset[str] = CHANGES,
        writing: int = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
        type: Any = type,
        str: Any = str,
        number_or_none: tuple[Any, ...] = (int, type(None)),
        refused: Any = PermissionError,
        refused_import: Any = ImportError,
    ) -> None:
        if event in harmless:
            return
        if event == "import":
            name, file = args[:2]
            fine = type(name) is str
            fine = fine and name.split(".")[0] not in modules and name.split(".")[-1] not in modules
            if type(file) is str:  # a module in C
                fine = fine and "/../" not in file and file.startswith(native)
            if not fine or (file is not None and type(file) is not str):
                raise refused_import(f"{name if type(name) is str else event} is refused here")
            return
        fine = False
        if event == "object.__setattr__":
            fine = type(args[1]) is str and args[1] != "__code__"
        elif event == "open" or event in lists or event in changes:
            reads = event in lists
            if event == "open":
                reads = args[1] in (None, "r", "rb") and args[2] & writing == 0
            fine = True
            for path in args[:2] if event == "os.rename" else args[:1]:
                if type(path) is not str:
                    fine = fine and type(path) in number_or_none  # what is open already
                elif "/../" in f"/{path}/" or "-packages/" in path:
                    fine = False
                elif path.startswith("/"):
                    fine = fine and f"{path}/".startswith(readable if reads else own)
        if not fine:
            raise refused(
                f"{event} is refused here: a program has no network, no other programs, no threads,"
                " and no files but those that it writes into its own folder"
            )

    sys.addaudithook(hook)


def run(code: str) -> None:
    """Run the program as Python would run a file, and leave without any clearing up: Python takes
    its audit hooks off before the last objects go."""
    status, leave, out = 1, os._exit, sys.stdout
    program = sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = ["program.py"]
    linecache.cache["program.py"] = (len(code), None, code.splitlines(True), "program.py")
    out.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    try:
        exec(compile(code, "program.py", "exec"), vars(program))
        status = 0
    except SystemExit as end:
        status = 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except MemoryError:
        status = NO_MEMORY
    except BaseException as error:
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace and trace.tb_next)
    finally:
        with contextlib.suppress(BaseException):
            out.flush()
        leave(status)


if __name__ == "__main__":
    main()
