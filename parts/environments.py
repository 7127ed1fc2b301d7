"""A virtual environment for each program: their requirements do not go together."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parts.programs import call

ROOT = Path(__file__).resolve().parent.parent


def environment(
    name: str, *wanted: Sequence[Any], then: Sequence[str] = (), compiled: bool = True
) -> Path:
    """`bin` of the virtual environment `.venv-NAME`, made anew when what is wanted has changed.
    Each list is what one call of `pip install` gets; `then` are shell commands that come after,
    for which $VENV is the environment. All of it is `compiled` at once, which takes minutes where
    most is never imported. RuntimeError when it cannot be installed."""
    contents = [w.read_text() if isinstance(w, Path) else w for words in wanted for w in words]
    key = hashlib.sha256(json.dumps([sys.version, *contents, *then]).encode()).hexdigest()
    venv = ROOT / f".venv-{name}"
    made_for = venv / "made-for"
    with locked(ROOT):  # another process may be making it
        if not made_for.exists() or made_for.read_text() != key:
            print(f"Installing what {name} needs ...", file=sys.stderr, flush=True)
            make(venv)
            for words in filter(None, wanted):
                install(venv / "bin" / "python", words, compiled)
            for command in then:
                call(["sh", "-ec", command], env=os.environ | {"VENV": str(venv)})
            made_for.write_text(key)
    return venv / "bin"


def make(venv: Path) -> None:
    """An empty virtual environment there, in the place of what was."""
    if uv := _uv():
        call([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv])
    else:
        call([sys.executable, "-m", "venv", "--clear", venv])


def install(python: Path, words: Sequence[Any], compiled: bool = True) -> None:
    """What `words` ask `pip install` for, into the environment of `python`."""
    if uv := _uv():
        into = ["pip", "install", "--quiet", "--python", python]
        call([*uv, *into, *["--compile-bytecode"] * compiled, *words])
    else:
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        call([*pip, *["--no-compile"] * (not compiled), *words])


def _uv() -> list[str]:
    """It is ten times as fast as pip; the notebooks' images have none."""
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    beside = ROOT / ".venv" / "bin" / "uv"
    return [str(beside)] if beside.exists() else []


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For one process at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
