"""A subject's checks with a set of releases: what fails, in pytest's words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts.environments import make
from parts.programs import call
from tools.canary.releases import Releases, reason
from tools.canary.subjects import Check, Subject

LIMIT_S = 900
PYTEST = "pytest"
"""As the name of a test: it came to none."""
FIXED = {
    "COLUMNS": "4000",  # or pytest shortens what went wrong
    "GRADIO_ANALYTICS_ENABLED": "False",
}
CALL = ["-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Failure:
    test: str
    error: str
    said: str
    """All that pytest printed of that call; it names the packages on the way."""
    check: Check | None = None
    """None where it came to no check."""

    def like(self, other: Failure) -> bool:
        """Whether the same goes wrong, in whatever words."""
        return self.test == other.test and _kind(self.error) == _kind(other.error)


def _kind(error: str) -> str:
    """ "AttributeError" of an error's line."""
    found = re.match(r"[\w.]+", error)
    return found[0] if found else error


class Bench:
    """One environment, which gets one set of releases after the other."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._subject, self._venv = subject, folder / "venv"
        self._list = folder / "releases.txt"
        make(self._venv)

    def run(self, releases: Releases) -> list[Failure]:
        """What fails of all checks."""
        if unable := self._install(releases):
            return [unable]
        return [f for check in self._subject.checks for f in self._pytest(check, check.tests)]

    def again(self, releases: Releases, failure: Failure) -> bool:
        """Whether the same fails with these."""
        unable = self._install(releases)
        if unable or failure.check is None:
            return bool(unable and failure.check is None)
        tests = failure.check.tests if failure.test == PYTEST else [failure.test]
        return any(failure.like(found) for found in self._pytest(failure.check, tests))

    def _install(self, releases: Releases) -> Failure | None:
        self._list.write_text("".join(f"{n}=={r}\n" for n, r in releases.items()))
        sync = [sys.executable, "-m", "uv", "pip", "sync", "--quiet", "--python", self._python]
        try:
            call([*sync, self._list])
        except RuntimeError as error:
            return Failure("installing it", reason(str(error)), str(error))
        return None

    @property
    def _python(self) -> Path:
        return self._venv / "bin" / "python"

    def _pytest(self, check: Check, tests: Sequence[str]) -> list[Failure]:
        python = self._python if check.own else sys.executable
        plugin = [] if check.own else ["-p", "tools.canary.elsewhere"]
        words, env = [str(python), *CALL, *plugin, *tests], self._environment(check)
        try:
            done = subprocess.run(
                words, cwd=check.folder, env=env, timeout=LIMIT_S,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return [Failure(PYTEST, f"not done after {LIMIT_S} s", "", check)]
        return failures(done.stdout, check) if done.returncode else []

    def _environment(self, check: Check) -> dict[str, str]:
        here = self._python.parent
        if check.own:
            return os.environ | FIXED | {"PATH": f"{here}:{os.environ['PATH']}"}
        return os.environ | FIXED | {"CANARY_BIN": str(here)}


def failures(said: str, check: Check | None = None) -> list[Failure]:
    """Of what pytest printed: each test that failed, with its error; where it came to no test,
    pytest itself."""
    found = re.findall(r"^(?:FAILED|ERROR) (\S+\.py.*?)(?: - (.*))?$", said, re.M)
    if found:
        return [
            Failure(test, error.strip() or _at_import(test, said), said, check)
            for test, error in found
        ]
    last = re.findall(r"^(?:E +|ERROR: )(.*)$", said, re.M) or said.strip().splitlines() or [""]
    return [Failure(PYTEST, last[-1], said, check)]


def _at_import(file: str, said: str) -> str:
    """Why a file of tests could not be read: pytest's last lines leave it out."""
    head = rf"^_+ ERROR collecting {re.escape(file)} _+$"
    part = re.search(rf"{head}(.*?)^(?:_+ ERROR|=+ short)", said, re.M | re.S)
    reasons = re.findall(r"^E +(.*)$", part[1], re.M) if part else []
    return reasons[-1] if reasons else ""
