"""Programs in the sandbox: what they may do, and every way out that we could think of."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import sandbox, sandbox_child
from agent.errors import Refused
from agent.sandbox import MAX_CODE, MAX_OUTPUT, hide_environment, run_python

pytestmark = pytest.mark.anyio

PROGRAMS = {
    "print(6 * 7)": "42",
    "print('first')\nimport sys\nprint('second', file=sys.stderr)\nprint('third')": (
        "first\nsecond\nthird"
    ),
    "print('Grüße, 世界', '\\ud800')": "Grüße, 世界 \\ud800",
    "x = 1": "(The program printed nothing.)",
    "": "(The program printed nothing.)",
    "print(__name__)": "__main__",
    "import sys\nprint(sys.argv)": "['program.py']",
    "import sys\nsys.exit('no data')": "no data",
    "import sys\nprint('done')\nsys.exit(3)": "done",
    "import statistics\nprint(statistics.median([3, 1, 2]))": "2",
    "import json, re, math, random, decimal, fractions, datetime, csv, hashlib\n"
    "print(json.dumps({'a': decimal.Decimal('0.1').as_tuple().exponent}))": '{"a": -1}',
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nprint(P())": "P(x=1)",
    "from collections import namedtuple\nprint(namedtuple('P', 'x y', defaults=[2])(1))": (
        "P(x=1, y=2)"
    ),
    "from enum import Enum\nclass C(Enum):\n    A = 1\nprint(C.A)": "C.A",
    "import pickle\nclass A:\n    x = 5\nprint(pickle.loads(pickle.dumps(A())).x)": "5",
    "import email.message, zipfile, urllib.parse\nprint(urllib.parse.quote('a b'))": "a%20b",
    "open('a.txt', 'w').write('kept')\nprint(open('a.txt').read())": "kept",
    "from pathlib import Path\nPath('a').write_text('1')\nPath('a').rename('b')\nimport os\n"
    "print(os.listdir(), [p.name for p in Path.cwd().glob('*')])\nos.remove('b')": "['b'] ['b']",
    "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    print(f.write('abc'))": "3",
    "with open('/dev/null', 'w') as f:\n    print(f.write('abc'))": "3",
    "import csv\nprint(*csv.reader(['a,b']))": "['a', 'b']",
    "import os\nprint(sorted(os.environ), os.environ['HOME'] == os.getcwd())": (
        "['HOME', 'LANG', 'PATH'] True"
    ),
    "import os\nprint(os.getsid(0) == os.getpid())": "True",
    "import os, resource\nprint(os.get_inheritable(0), resource.RLIM_INFINITY)": "True -1",
    "try:\n    input()\nexcept EOFError:\n    print('nobody there')": "nobody there",
    "try:\n    open('/etc/passwd')\nexcept OSError:\n    print('went on')": "went on",
    "try:\n    import ctypes\nexcept ImportError:\n    print('went on')": "went on",
}


@pytest.mark.parametrize("code", PROGRAMS, ids=lambda code: code[-30:])
def test_an_ordinary_program_runs(code: str, said: dict[str, str]) -> None:
    assert said[code] == PROGRAMS[code]


async def test_an_error_is_shown_with_its_line_as_python_shows_it() -> None:
    printed = await run_python("def half(x):\n    return x / 0\n\nprint('a')\nhalf(1)")

    assert printed.startswith("a\nTraceback")
    assert 'File "program.py", line 2, in half\n    return x / 0' in printed
    assert printed.endswith("ZeroDivisionError: division by zero")
    assert "sandbox" not in printed


@pytest.mark.parametrize("code", ["print(", "a b", "\x00", "return", "print('\ud800')", "é" * 9])
async def test_what_is_no_program_is_answered_with_what_python_says(code: str) -> None:
    printed = await run_python(code)

    assert "Error" in printed or printed == "?"


# Ways out. Each is tried in the whole sandbox; what it must not do is print what it got.

ATTACKS = {
    "opens a connection": "import socket; socket.create_connection(('127.0.0.1', 80))",
    "opens a socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "opens a socket below": "import _socket; _socket.socket(_socket.AF_UNIX)",
    "asks for a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "asks for a name in the old way": "import socket; socket.gethostbyname('localhost')",
    "reads a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
    "runs a shell": "import os; os.system('echo LEAK')",
    "reads from a shell": "import os; print(os.popen('echo LEAK').read())",
    "starts a program": "import subprocess; print(subprocess.check_output(['id']))",
    "starts a program below": "import _posixsubprocess",
    "becomes another program": "import os; os.execv('/bin/echo', ['echo', 'LEAK'])",
    "spawns a program": "import os; os.posix_spawn('/bin/echo', ['echo', 'LEAK'], {})",
    "forks": "import os\nif not os.fork():\n    print('LEAK')",
    "forks with a terminal": "import os; os.forkpty()",
    "starts a process": "import multiprocessing as m; m.Process(target=print).start()",
    "reaches C": "import ctypes; ctypes.CDLL(None).system(b'echo LEAK')",
    "reaches C below": "import _ctypes",
    "reaches C's classes, which are loaded already": (
        "all = {c.__name__: c for c in object.__subclasses__()}\n"
        "data = all['_CData'] if '_CData' in all else all['_SimpleCData']\n"
        "class Any(next(c for c in data.__subclasses__() if c.__name__ == '_SimpleCData')):\n"
        "    _type_ = 'q'\n"
        "print('LEAK', Any.from_address(id(1)))"
    ),
    "loads C from the library under another name": (
        "import importlib.machinery as m, importlib.util as u, glob, sys\n"
        "file = glob.glob(sys.path[-1] + '/_ctypes*.so')[0]\n"
        "loader = m.ExtensionFileLoader('my._ctypes', file)\n"
        "print('LEAK', u.module_from_spec(u.spec_from_loader('my._ctypes', loader)))"
    ),
    "loads a module in C of its own": (
        "import importlib.machinery as m, importlib.util as u\n"
        "open('mine.so', 'wb').write(b'ELF')\n"
        "loader = m.ExtensionFileLoader('mine', './mine.so')\n"
        "print('LEAK', u.module_from_spec(u.spec_from_loader('mine', loader)))"
    ),
    "kills the app": "import os, signal; os.kill(os.getppid(), signal.SIGTERM)",
    "kills the app's group": "import os; os.killpg(os.getpgid(os.getppid()), 15)",
    "kills a thread": "import signal, threading; signal.pthread_kill(threading.get_ident(), 9)",
    "lifts its limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "changes the app's limits": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))"
    ),
    "reads a file": "print('LEAK', open('/etc/passwd').read())",
    "reads a file upwards": "print('LEAK', open('../../../../etc/passwd').read())",
    "reads a file by way of its folder": (
        "import os; print('LEAK', open(os.getcwd() + '/../../etc/passwd').read())"
    ),
    "reads a file by way of the library": (
        "import sys; print('LEAK', open(sys.path[1] + '/../../../../../../etc/passwd').read())"
    ),
    "reads a file with a path in bytes": "print('LEAK', open(b'/etc/passwd').read())",
    "reads a file with pathlib": (
        "from pathlib import Path; print('LEAK', Path('/etc/passwd').read_text())"
    ),
    "reads a file below": "import os; print('LEAK', os.open('/etc/passwd', os.O_RDONLY))",
    "reads a file from an open folder": (
        "import os\n"
        "root = os.open('/', os.O_RDONLY)\n"
        "print('LEAK', os.read(os.open('etc/passwd', os.O_RDONLY, dir_fd=root), 9))"
    ),
    "reads a file above an open folder": (
        "import os\n"
        "here = os.open('.', os.O_RDONLY)\n"
        "print('LEAK', os.open('../../etc/passwd', os.O_RDONLY, dir_fd=here))"
    ),
    "reads a file as code": "import io; print('LEAK', io.open_code('/etc/passwd').read())",
    "reads a file with a text that lies": (
        "class Liar(str):\n"
        "    def startswith(self, *_): return False\n"
        "    def __format__(self, _): return 'a.txt'\n"
        "    __contains__ = __eq__ = lambda self, _: False\n"
        "    __hash__ = str.__hash__\n"
        "print('LEAK', open(Liar('/etc/passwd')).read())"
    ),
    "reads a file with a path that lies": (
        "import _io\n"
        "class Liar:\n"
        "    paths = ['a.txt', '/etc/passwd']\n"
        "    def __fspath__(self): return self.paths.pop()\n"
        "print('LEAK', _io.FileIO(Liar()).read())"
    ),
    "reads its parent's environment": (
        "import os; print('LEAK', open(f'/proc/{os.getppid()}/environ').read())"
    ),
    "reads its parent's memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "reads about itself": "print('LEAK', open('/proc/self/environ').read())",
    "reads what is open by its number": "print('LEAK', open('/dev/fd/0').read())",
    "lists the disk": "import os; print('LEAK', os.listdir('/'))",
    "walks over the disk": "import os; print('LEAK', list(os.scandir('/')))",
    "lists its neighbours": "import os; print('LEAK', os.listdir('..'))",
    "maps a file": "import mmap; mmap.mmap(-1, 9)",
    "writes a file elsewhere": "open('/tmp/LEAK', 'w')",
    "writes into the library": "import os; open(os.__file__, 'a')",
    "writes upwards": "open('../LEAK', 'w')",
    "makes a file elsewhere below": "import os; os.open('/tmp/LEAK', os.O_CREAT)",
    "moves a file out": "import os; open('a', 'w').close(); os.rename('a', '/tmp/LEAK')",
    "moves a file in": "import os; os.rename('/etc/hostname', 'a')",
    "removes a file elsewhere": "import os; os.remove('/etc/hostname')",
    "empties a file elsewhere": "import os; os.truncate('/etc/hostname', 0)",
    "links to a file": "import os; os.symlink('/etc/passwd', 'a'); print('LEAK', open('a').read())",
    "links a file in": "import os; os.link('/etc/passwd', 'a'); print('LEAK', open('a').read())",
    "leaves its folder": "import os; os.chdir('/'); print('LEAK', open('etc/passwd').read())",
    "makes folders": "import os; os.makedirs('a/' * 100)",
    "opens its files to all": "import os; os.chmod('.', 0o777)",
    "attaches a database": (
        "import sqlite3\nsqlite3.connect(':memory:').execute('attach \"/tmp/LEAK\" as a')"
    ),
    "reads a file as its history": "import readline; readline.read_history_file('/etc/passwd')",
    "starts another interpreter": (
        "import importlib\n"
        "for name in ('_interpreters', '_xxsubinterpreters'):\n"
        "    try:\n"
        "        print('LEAK', importlib.import_module(name))\n"
        "    except ModuleNotFoundError:\n"
        "        pass"
    ),
    "looks for the hook": "import gc; print('LEAK', gc.get_objects())",
    "looks for what points to the hook": "import gc; print('LEAK', gc.get_referrers(str))",
    "traces": "import sys; sys.settrace(print)",
    "asks the debugger in": "breakpoint()",
    "writes code of its own": "(lambda: 1).__code__.replace(co_code=b'')",
    "swaps code": "def f(): pass\nf.__code__ = (lambda: 'LEAK').__code__",
    "spoils what the hook's traceback shows": (
        "try:\n"
        "    open('/etc/passwd')\n"
        "except OSError as error:\n"
        "    frame = error.__traceback__.tb_next.tb_frame\n"
        "    every = type('', (), {'__contains__': lambda *_: True})()\n"
        "    for name in ('readable', 'own', 'harmless', 'HARMLESS', 'DATA'):\n"
        "        frame.f_locals[name] = frame.f_globals[name] = every\n"
        "print('LEAK', open('/etc/passwd').read())"
    ),
    "spoils the frames above it": (
        "import sys\n"
        "frame = sys._getframe(1)\n"
        "while frame:\n"
        "    for name in list(frame.f_globals):\n"
        "        frame.f_globals[name] = None\n"
        "    frame = frame.f_back\n"
        "print('LEAK', open('/etc/passwd').read())"
    ),
    "speaks to the hook itself": (
        "import sys\n"
        "class Yes:\n"
        "    def __getattr__(self, name): return lambda *_: True\n"
        "    __eq__ = __and__ = lambda *_: True\n"
        "    __hash__ = lambda _: 1\n"
        "for event in ('open', 'import', 'object.__setattr__'):\n"
        "    try:\n"
        "        sys.audit(event, Yes(), Yes(), Yes())\n"
        "    except Exception:\n"
        "        pass\n"
        "print('LEAK', open('/etc/passwd').read())"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_in_words_when_a_program(attack: str, said: dict[str, str]) -> None:
    printed = said[ATTACKS[attack]]

    assert "refused here" in printed
    assert "\nLEAK" not in f"\n{printed}"
    assert not Path("/tmp/LEAK").exists()


QUIET = {
    "imports the app's packages": (
        f"import sys; sys.path.append({str(Path(pytest.__file__).parent.parent)!r})\n"
        "import pytest; print('LEAK')"
    ),
    "imports the app": (
        f"import sys; sys.path.append({str(Path(sandbox.__file__).parent.parent)!r})\n"
        "import agent.errors; print('LEAK')"
    ),
    "spoils the builtins that a hook would use": (
        "import builtins\n"
        "builtins.type = builtins.str = builtins.any = builtins.all = lambda *_: True\n"
        "builtins.PermissionError = builtins.print\n"
        "builtins.print('LEAK', open('/etc/passwd').read())"
    ),
    "adds a hook": "import sys; sys.addaudithook(lambda *_: print('LEAK')); open('a', 'w')",
    "waits until Python takes its hooks off": (
        "import codecs\n"
        "class Last:\n"
        "    def __call__(self, name): return None\n"
        "    def __del__(self, open=open, print=print):\n"
        "        print('LEAK', open('/etc/passwd').readline(), flush=True)\n"
        "codecs.register(Last())"
    ),
    "asks to be called at the end": (
        "import atexit; atexit.register(lambda: print('LEAK', open('/etc/passwd').read()))"
    ),
    "keeps the script from leaving": (
        "import os, sys\nos._exit = sys.exit = print\nos.environ.clear()\nraise SystemExit"
    ),
    "finds the module that Python forgot": (
        "import _imp, sys, types\n"
        "spec = types.SimpleNamespace(name='_posixsubprocess', origin='built-in', parent='')\n"
        "if '_posixsubprocess' in sys.builtin_module_names:\n"
        "    _imp.create_builtin(spec).fork_exec([b'echo', b'LEAK'], [b'/bin/echo'], True, (),\n"
        "        None, None, -1, -1, -1, -1, -1, -1, -1, -1, False, False, 0, None, None, None,\n"
        "        -1, None, 0)"
    ),
}


@pytest.mark.parametrize("attack", QUIET)
def test_it_gains_nothing_when_a_program(attack: str, said: dict[str, str]) -> None:
    assert "\nLEAK" not in f"\n{said[QUIET[attack]]}"


async def test_a_program_has_one_thread() -> None:
    printed = await run_python("import threading; threading.Thread(target=print, args=[7]).start()")

    assert "_thread.start" in printed or "can't start new thread" in printed  # as of Python 3.11


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What the programs above print; they run a few at a time, since most of it is waiting."""
    few = asyncio.Semaphore(4)

    async def run(code: str) -> tuple[str, str]:
        async with few:
            return code, await settled(code)

    async def run_all() -> dict[str, str]:
        codes = [*PROGRAMS, *ATTACKS.values(), *QUIET.values()]
        return dict(await asyncio.gather(*map(run, codes)))

    return asyncio.run(run_all())


# What the kernel holds where the hook has been got around: the same doors, tried without it.

WITHOUT_HOOK = """
import os, runpy, sys
child = runpy.run_path(sys.argv[1])
library = [path for path in sys.path if os.path.isdir(path)]
closed = child["close_in_kernel"](os.getcwd(), [*library, *child["LIBRARIES"], *child["DATA"]])
print(*closed)
try:
    exec(sys.argv[2], {})
    print("LEAK")
except OSError as error:
    print("held:", type(error).__name__, error.errno)
except RuntimeError as error:
    print("held:", error)
"""
BELOW = {
    "opens a connection": "import socket; socket.create_connection(('127.0.0.1', 1))",
    "opens a local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "forks": "import os; os.fork() or os._exit(0)",
    "starts a program": "import subprocess; subprocess.run(['/bin/true'])",
    "spawns a program": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "becomes another program": "import os; os.execv('/bin/true', ['true'])",
    "starts a thread": "import threading; threading.Thread(target=print).start()",
    "reads a file": "open('/etc/passwd').read()",
    "reads its parent's environment": "import os; open(f'/proc/{os.getppid()}/environ').read()",
    "reads its own past": "open('/proc/self/environ').read()",
    "lists the disk": "import os; os.listdir('/')",
    "lists its neighbours": "import os; os.listdir('..')",
    "writes a file elsewhere": "open('/tmp/LEAK', 'w')",
    "writes into shared memory": "open('/dev/shm/LEAK', 'w')",
    "writes into the library": "import os; open(os.__file__, 'a')",
    "attaches a database": "open('/etc/hostname', 'a')",
    "removes a file elsewhere": "import os; os.remove('/etc/hostname')",
    "makes a folder": "import os; os.mkdir('a')",
    "makes a link": "import os; os.symlink('/etc/passwd', 'a')",
    "links a file in": "import os; os.link('/etc/passwd', 'a')",
    "makes a device": "import os, stat; os.mknod('a', 0o600 | stat.S_IFCHR, os.makedev(1, 3))",
    "makes a pipe on the disk": "import os; os.mkfifo('a')",
    "opens a file to all": "import os; os.chmod('/', 0o755)",
    "gives a file away": "import os; os.chown('/', -1, -1)",
    "kills the app": "import os; os.kill(os.getppid(), 0)",
    "kills the app by a handle": "import os, signal; os.pidfd_open(os.getppid())",
    "slows the app down": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 1)",
    "moves the app": "import os; os.sched_setaffinity(os.getppid(), [0])",
    "changes the app's limits": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9))"
    ),
    "keeps memory that no limit counts": "import os; os.memfd_create('a')",
    "changes its root": "import os; os.chroot('.')",
    "looks into the app's memory": (
        "import ctypes, os\n"
        "if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) < 0:\n"
        "    raise PermissionError(1, '')"
    ),
    "queues orders to the kernel": (
        "import ctypes, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.syscall(425, 1, None) < 0:\n"
        "    raise OSError(ctypes.get_errno(), '')"
    ),
    "speaks x86_64's other dialect": (
        "import ctypes, errno, platform\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.syscall(0x40000000 + 39) < 0\n"
        "raise OSError(ctypes.get_errno(), '')"
    ),
}


def kernel(code: str, folder: Path) -> str:
    command = [sys.executable, "-I", "-S", "-B", "-c", WITHOUT_HOOK, sandbox_child.__file__, code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def both(tmp_path: Path) -> Path:
    if "landlock seccomp" not in kernel("", tmp_path):
        pytest.skip("this kernel has not both Landlock and seccomp")
    return tmp_path


@pytest.mark.parametrize("attack", BELOW)
def test_the_kernel_alone_refuses_it_when_a_program(attack: str, both: Path) -> None:
    said = kernel(BELOW[attack], both)

    assert "held:" in said
    assert "LEAK" not in said
    assert any(why in said for why in (" 1\n", " 13\n", "new thread", "BlockingIOError"))


def test_the_kernel_leaves_a_program_its_library_and_its_folder(both: Path) -> None:
    said = kernel(
        "import decimal, hashlib, json, random, sqlite3, statistics, zlib\n"
        "open('a', 'w').write('1'); open('a', 'w').write('22'); assert open('a').read()\n"
        "import os; os.rename('a', 'b'); os.remove('b'); open('/dev/null', 'w').write('1')",
        both,
    )

    assert said == "landlock seccomp\nLEAK\n"  # it went through


# Limits


async def test_a_program_that_is_too_long_is_not_run() -> None:
    with pytest.raises(Refused, match=r"longer than 20,000 characters; write a shorter one\.$"):
        await run_python("#" * (MAX_CODE + 1))
    assert await run_python("#" * (MAX_CODE - 9) + "\nprint(1)") == "1"


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    print('a' * 100)",
        "print('a' * 100_000_000)",
        "import os\nwhile True:\n    os.write(2, b'a' * 5000)",
        "import sys\nprint('a' * 20_000, file=sys.stderr)\nwhile True:\n    pass",
    ],
)
async def test_a_program_that_prints_without_end_is_ended_and_what_it_printed_is_cut(
    code: str,
) -> None:
    begin = time.monotonic()

    printed = await run_python(code)

    assert time.monotonic() - begin < 3
    assert printed.endswith(
        "\n(Cut here: the program printed more than 10,000 bytes, and was ended.)"
    )
    assert MAX_OUTPUT <= len(printed) < MAX_OUTPUT + 100


async def test_output_up_to_the_limit_is_whole() -> None:
    assert await run_python(f"print('a' * {MAX_OUTPUT - 1})") == "a" * (MAX_OUTPUT - 1)


@pytest.mark.parametrize("code", ["", "import signal\nsignal.signal(24, signal.SIG_IGN)\n"])
async def test_a_program_that_counts_without_end_is_ended_after_its_seconds(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = tmp_path / "child.py"  # the same with a second, and a second later the end
    text = Path(sandbox_child.__file__).read_text().replace("= 5, 512", "= 1, 512")
    hurried.write_text(text.replace("CPU_S + 1)", "CPU_S)") if code else text)
    monkeypatch.setattr(sandbox, "_COMMAND", (*sandbox._COMMAND[:-1], str(hurried)))

    with pytest.raises(Refused, match=r"CPU time( or memory)?; let it do less\.$"):
        await run_python(code + "while True:\n    pass")


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(99)",
        "import signal\nsignal.pause()",
        "import os\nos.close(1); os.close(2)\nimport time\ntime.sleep(99)",
        "import signal, time\nfor s in (1, 2, 15):\n    signal.signal(s, signal.SIG_IGN)\n"
        "time.sleep(99)",
    ],
)
async def test_a_program_that_waits_is_ended(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "WALL_S", 0.3)
    begin = time.monotonic()

    with pytest.raises(
        Refused, match=r"took more than 0\.3 s; let it do less, and wait for nothing"
    ):
        await run_python(code)

    assert time.monotonic() - begin < 3


async def settled(code: str) -> str:
    try:
        return await run_python(code)
    except Refused as refusal:
        return str(refusal)


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(10**9)",
        "x = [0] * 10**9",
        "x = 'a' * 10**10",
        "x = []\nwhile True:\n    x.append(bytearray(10**7))",
        "def f():\n    x = bytearray(3 * 10**7)\n    f()\nf()",
    ],
)
async def test_a_program_that_holds_too_much_is_ended(code: str) -> None:
    with pytest.raises(
        Refused, match=r"more than 512 MiB of memory; let it hold less at a time\.$"
    ):
        await run_python(code)


@pytest.mark.parametrize(
    ("code", "signal"),
    [
        ("import faulthandler\nfaulthandler._read_null()", "SIGSEGV"),
        ("import os\nos.abort()", "SIG"),
    ],
)
async def test_a_program_that_breaks_python_is_told_so(code: str, signal: str) -> None:
    said = await settled(code)

    assert f"ended by the signal {signal}" in said


async def test_a_file_has_a_largest_size() -> None:
    printed = await run_python("open('a', 'wb').write(bytes(11 * 2**20))")

    assert "File too large" in printed


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(10**9):\n    open(str(n), 'wb').write(bytes(10 * 2**20))",
        "for n in range(10**9):\n    open(str(n), 'w').close()",
        "import os\nos.close(1); os.close(2)\nfor n in range(10**9):\n    open(str(n), 'w')",
    ],
)
async def test_a_program_that_fills_the_disk_is_ended(code: str, folders: Path) -> None:
    with pytest.raises(Refused, match=r"wrote more than 100 files or 50 MiB; keep things in mem"):
        await run_python(code)

    assert not list(folders.iterdir())


@pytest.mark.parametrize("name", ["NOFILE", "CORE", "FSIZE", "AS", "CPU"])
async def test_the_limits_are_in_force_and_cannot_be_raised(name: str) -> None:
    most = sandbox_child.LIMITS[getattr(sandbox_child.resource, f"RLIMIT_{name}")]

    assert await run_python(
        "import resource\n"
        f"try:\n    resource.setrlimit(resource.RLIMIT_{name}, (-1, -1))\n"
        "except PermissionError:\n    print('no')"
    ) == ("no")
    assert most[1] >= most[0] >= 0


async def test_only_so_many_files_are_open_at_a_time() -> None:
    printed = await run_python("kept = [open('/dev/null') for _ in range(100)]")

    assert "Too many open files" in printed


# What stays behind, and who can see what


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    begun: list[asyncio.subprocess.Process] = []
    start = sandbox._start

    async def kept(folder: str) -> asyncio.subprocess.Process:
        begun.append(await start(folder))
        return begun[-1]

    monkeypatch.setattr(sandbox, "_start", kept)
    return begun


def gone(child: asyncio.subprocess.Process) -> bool:
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_its_folder_is_its_own_and_is_gone_afterwards(folders: Path) -> None:
    first = await run_python("import os\nopen('a', 'w').close()\nprint(os.getcwd())")
    second = await run_python("import os\nprint(os.listdir(), os.getcwd())")

    assert first.startswith(str(folders.resolve()))
    assert second.startswith("[] ")
    assert first not in second
    assert not list(folders.iterdir())


@pytest.mark.parametrize("seconds", [0, 0.001, 0.01, 0.02, 0.3])
async def test_nothing_goes_on_when_its_caller_is_cancelled(
    seconds: float, folders: Path, children: list[asyncio.subprocess.Process]
) -> None:
    running = asyncio.create_task(run_python("while True:\n    open('a', 'w').write('1')"))
    await asyncio.sleep(seconds)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert all(map(gone, children))
    assert not list(folders.iterdir())
    assert len(children) == 1 or seconds < 0.3


@pytest.mark.parametrize(
    "code", ["print(1)", "1 / 0", "while True:\n    print(1)", "import time\n" * 9]
)
async def test_no_process_stays_behind(
    code: str, children: list[asyncio.subprocess.Process]
) -> None:
    await run_python(code)

    assert len(children) == 1
    assert all(map(gone, children))


async def test_many_programs_at_once_do_not_disturb_each_other() -> None:
    codes = [f"import time\ntime.sleep(0.1)\nprint({n})" for n in range(8)]

    assert await asyncio.gather(*map(run_python, codes)) == [str(n) for n in range(8)]


async def test_it_sees_none_of_the_apps_environment_arguments_and_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-secret")
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "x.py"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", "")
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        printed = await run_python(
            "import os, sys\n"
            "print(dict(os.environ), sys.argv, sys.orig_argv, sys.path, sys.flags.isolated)\n"
            "for n in range(3, 64):\n"
            "    try:\n"
            "        os.fstat(n)\n"
            "        print('open', n)\n"
            "    except OSError:\n"
            "        pass"
        )

    assert "secret" not in printed
    assert str(tmp_path) not in printed
    assert "site-packages" not in printed
    assert "open " not in printed


OTHERS = """
import sys
try:
    print(open(f"/proc/{sys.argv[1]}/environ").read())
except PermissionError:
    print("held")
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux alone has it")
@pytest.mark.parametrize("hidden", [False, True])
def test_another_process_of_the_same_user_cannot_read_the_environment_once_it_is_hidden(
    hidden: bool,
) -> None:
    python, user = plain_python()
    hide = inspect.getsource(hide_environment) + "\nhide_environment()\n" if hidden else ""
    code = (
        f"import ctypes, os, sys\n{hide}os.listdir('/proc/self/fd')\nprint('ready', flush=True)\n"
    )
    app = subprocess.Popen(
        [python, "-I", "-S", "-c", code + "input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"KEY": "sk-secret"},
        user=user,
        cwd="/",
    )
    assert app.stdin
    assert app.stdout
    with app:
        assert app.stdout.readline() == b"ready\n"
        command = [python, "-I", "-S", "-c", OTHERS, str(app.pid)]
        said = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True).stdout
        app.stdin.close()

    assert ("held" in said) == hidden
    assert ("sk-secret" in said) != hidden


def plain_python() -> tuple[str, int | None]:
    """A Python, and a user for it that is not root: root can read everything."""
    user = 65534 if os.geteuid() == 0 else None
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([python, "-I", "-S", "-c", ""], user=user, cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, user
    pytest.skip("no Python that a user without rights can start")
