"""Templates, rendered in the ways that people and the platform render them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy
from jinja2 import Environment

from parts.programs import call

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted(path.name for path in ROOT.glob("tkt-*") if path.is_dir())
COPIERS = ["9.4.1", "newest"]
"""The oldest Copier that the platform may have, and the one pinned in requirements-tools.txt."""
OLDEST_LONG = [pytest.param(COPIERS[0], marks=pytest.mark.long), COPIERS[1]]
"""Both, of which `make test` takes the newest alone; test_roads.py and test_contract.py take both
there too."""


_compile = Environment.compile
_compiled: dict[Any, Any] = {}


def _compile_once(self: Environment, source: Any, *options: Any, **more: Any) -> Any:
    """Copier compiles each file, and each file's name again for each of the files, in every
    rendering: most of its time."""
    marks = (self.block_start_string, self.variable_start_string, self.comment_start_string)
    kept = (self.trim_blocks, self.lstrip_blocks, self.keep_trailing_newline)
    what = (type(self), *self.extensions, *marks, *kept, source, *options, *more.items())
    if what not in _compiled:
        _compiled[what] = _compile(self, source, *options, **more)
    return _compiled[what]


Environment.compile = _compile_once  # type: ignore[method-assign]


@cache
def copier(version: str = "newest") -> str:
    """The `copier` program of a version; the old one has an environment of its own."""
    if version == "newest":
        return str(Path(sys.executable).parent / "copier")
    folder = ROOT / f".venv-copier-{version}"
    program = folder / "bin" / "copier"
    if not program.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", str(folder)], check=True)
        wanted = [f"copier=={version}"]
        target = ["--python", str(folder / "bin" / "python")]
        subprocess.run([*uv, "pip", "install", "--quiet", *target, *wanted], check=True)
    return str(program)


def render(
    source: Path | str, to: Path, *options: str, version: str = "newest", **answers: object
) -> Path:
    """`copier copy` without trust and without questions; raises RuntimeError with Copier's words.

    The newest version runs in this process, which is ten times as fast.
    """
    if version != "newest":
        data = [part for name, value in answers.items() for part in ("--data", f"{name}={value}")]
        call([copier(version), "copy", "--defaults", *options, *data, str(source), str(to)])
        return to
    reference = "HEAD" if "--vcs-ref=HEAD" in options else None
    force = "--force" in options
    given = {name: str(value) for name, value in answers.items()}
    try:
        run_copy(
            str(source), to, given, defaults=True, overwrite=force, quiet=True, vcs_ref=reference
        )
    except Exception as error:
        raise RuntimeError(str(error)) from error
    return to


def working_copy(to: Path, *paths: str) -> Path:
    """Copy `paths` of this repository, or all of it, as it lies here: uncommitted files too, and
    none that git ignores."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    for name in filter(None, call(listing, ROOT).split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but git's own, by its path; a link counts as where it points."""
    return {
        path.relative_to(folder).as_posix(): (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink()) and ".git" not in path.relative_to(folder).parts
    }


def manifest(template: str) -> dict[str, object]:
    return dict(yaml.safe_load((ROOT / template / "manifest.yaml").read_text()))


def questions(template: str) -> dict[str, dict[str, object]]:
    found = yaml.safe_load((ROOT / template / "copier.yml").read_text())
    return {name: q for name, q in found.items() if not name.startswith("_")}


def commit_all(folder: Path, message: str = "Commit") -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    if not (folder / ".git").exists():
        call(["git", "init", "--quiet", "--initial-branch", "main", str(folder)])
    call(["git", "add", "--all"], folder)
    call(["git", *who, "commit", "--quiet", "--allow-empty", "--message", message], folder)
