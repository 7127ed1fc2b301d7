"""One subject: is it well today, and which of the newest releases breaks it?"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.canary.checks import Bench, Failure
from tools.canary.hunt import culprits
from tools.canary.releases import Index, Releases, changes
from tools.canary.subjects import Subject

ROUNDS = 5
"""So many culprits are searched for."""
Step = Callable[[str], contextlib.AbstractContextManager[None]]
"""Around each thing that takes long, with what it is."""
Report = dict[str, Any]


def no_progress(what: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def examine(subject: Subject, now: datetime, step: Step = no_progress) -> Report:
    """{"broken_today": [...], "breaks": [...], "unclear": [...], "unsearched": [...],
    "newer": {...}, "cannot_be_taken": {...}, "too_young": {...}, "seconds": 60}

    A break without releases is a failure that comes again and again, of which nobody knows why.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        with step("which releases there are"):
            index = Index(subject, now)
        with contextlib.closing(index):
            report = Examination(index, Bench(subject, Path(folder)), step).report()
    return report | {"seconds": round(time.monotonic() - began)}


class Examination:
    def __init__(self, index: Index, bench: Bench, step: Step) -> None:
        self._index, self._bench, self._step = index, bench, step
        self._broken: list[Failure] = []
        self._breaks: list[Report] = []
        self._unclear: list[Report] = []
        self._unexplained: list[Failure] = []
        self._unsearched: list[str] = []

    def report(self) -> Report:
        today = self._index.today
        with self._step("with today's releases"):
            failed = self._bench.run(today)
            self._broken = [f for f in failed if self._bench.again(today, f)]  # or it was busy
        newest = self._index.newest()
        newer = changes(today, newest)
        if newer:
            self._search(newest)
        return {
            "broken_today": [_told(failure) for failure in self._broken],
            "breaks": self._breaks,
            "unclear": self._unclear,
            "unsearched": self._unsearched,
            "newer": newer,
            "cannot_be_taken": self._index.cannot_be_taken(newest),
            "too_young": self._index.too_young(newest),
        }

    def _search(self, newest: Releases) -> None:
        """Find a culprit, leave it as it is today, and see what else fails."""
        held: list[str] = []
        for _ in range(ROUNDS):
            with self._step("with the newest releases" + f" but {', '.join(held)}" * bool(held)):
                failed = self._failed(newest)
            found = self._first_culprits(newest, failed)
            if not found:
                return
            held += found
            try:
                newest = self._index.newest(held)
            except RuntimeError as error:
                why = f"nothing goes together without the newest {', '.join(held)}: {error}"
                self._unsearched.append(why[-600:])
                return
        self._unsearched.append(f"{ROUNDS} rounds have found {', '.join(held)}, and no more follow")

    def _first_culprits(self, newest: Releases, failed: Sequence[Failure]) -> list[str]:
        """Of the first failure that has some. One that comes again without any is a break too."""
        for failure in failed:
            if not self._is_theirs(newest, failure):
                continue
            found = self._culprits(newest, failure)
            tests = len(failed) if found else 1
            self._breaks.append(self._break(newest, found, failure, tests))
            if found:
                return found
            self._unexplained.append(failure)
        return []

    def _is_theirs(self, newest: Releases, failure: Failure) -> bool:
        """Whether it fails again, and not with today's: on a busy machine, others fail too."""
        with self._step(f"once more {_name(failure)}"):
            again = self._bench.again(newest, failure)
            sure = again and not self._bench.again(self._index.today, failure)
        if not sure:
            why = "it fails with today's releases too" if again else "it passes when tried again"
            self._unclear.append(_told(failure) | {"why": why})
        return sure

    def _failed(self, releases: Releases) -> list[Failure]:
        """What fails, without what fails today too: no release is to be judged by that; and
        without what no release explains."""
        known = {failure.test for failure in self._broken}
        new = [found for found in self._bench.run(releases) if found.test not in known]
        return [f for f in new if not any(f.like(other) for other in self._unexplained)]

    def _break(self, newest: Releases, found: list[str], failure: Failure, tests: int) -> Report:
        newer = changes(self._index.today, newest)
        releases = {name: newer[name] for name in found}
        return {"releases": releases, **_told(failure), "failing_tests": tests}

    def _culprits(self, newest: Releases, failure: Failure) -> list[str]:
        def fails(names: Sequence[str]) -> bool:
            with self._step(f"what breaks {_name(failure)}"):
                return self._bench.again(self._index.mixed(names), failure)

        changed = [name for name in changes(self._index.today, newest) if name in newest]
        found = culprits(suspects(changed, self._index.subject, failure), fails)
        return self._narrower(found[0], changed, fails) if len(found) == 1 else found

    def _narrower(
        self, name: str, changed: Sequence[str], fails: Callable[[Sequence[str]], bool]
    ) -> list[str]:
        """The package that comes with this one's new release, where it fails alone too."""
        for other in set(self._changes([name])) & set(changed) - {name}:
            if name not in self._changes([other]) and fails([other]):
                return [other]
        return [name]

    def _changes(self, names: Sequence[str]) -> dict[str, str]:
        return changes(self._index.today, self._index.mixed(names))


def suspects(changed: Sequence[str], subject: Subject, failure: Failure) -> list[str]:
    """Those first that the failing test's words name, and that are asked for."""
    direct = {name.split("[")[0] for name in subject.direct()}
    named = {name for name in changed if name.replace("-", "_") in failure.said}
    return sorted(changed, key=lambda name: (-(name in direct) - (name in named), name))


def _name(failure: Failure) -> str:
    return failure.test.rpartition("::")[2]


def _told(failure: Failure) -> dict[str, str]:
    return {"test": failure.test, "error": failure.error[:300]}
