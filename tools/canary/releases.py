"""Which releases there are for a subject: today's, the newest, and any mixture of both.

uv finds them. A release counts when it is a week old: most that are withdrawn, or turn out to be
somebody else's work, are found in their first days.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from parts.programs import call
from tools.canary.subjects import Subject

COOLDOWN = timedelta(days=7)
UV = [sys.executable, "-m", "uv", "pip"]
LIST = [*UV, "compile", "--quiet", "--no-annotate", "--no-header"]
Releases = dict[str, str]
"""The release of each package, by its name."""


class Index:
    """The releases for one subject, as they were at `now`."""

    def __init__(self, subject: Subject, now: datetime) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="canary-releases-"))
        self.subject, self.now, self.cutoff = subject, now, now - COOLDOWN
        self._loose = self._write("loose.in", subject.direct())
        self._late: list[str] = []
        self.today = self._today()
        self._late = self._younger_pins()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def newest(self, held: Iterable[str] = ()) -> Releases:
        """The newest that go together; `held` stay as they are today. RuntimeError with uv's
        reason when nothing goes together."""
        stay = [f"{name}=={self.today[name]}" for name in held if name in self.today]
        return self._resolve("--upgrade", "--constraints", str(self._write("held", stay)))

    def mixed(self, names: Iterable[str]) -> Releases:
        """Today's, with the newest of `names`, and of what only goes with them."""
        wanted = [word for name in names for word in ("--upgrade-package", name)]
        return self._resolve(*wanted)

    def too_young(self, newest: Releases) -> dict[str, str]:
        """What the newest would be without a cooldown, where that is another release."""
        asked = [*UV, "compile", "--quiet", "--format", "pylock.toml", self._loose]
        listed = call([*asked, *self.subject.flags(), *self._until(self.now)])
        return {
            name: f"{release}, counts from {uploaded + COOLDOWN:%Y-%m-%d}"
            for name, release, uploaded in _locked(listed)
            if uploaded >= self.cutoff and newest.get(name) != release
        }

    def cannot_be_taken(self, newest: Releases) -> dict[str, str]:
        """The newest of what is asked for that does not go with the rest, and uv's reason."""
        direct = [*self.subject.direct()]
        listed = [*LIST, "--no-deps", self._loose, *self._until(self.cutoff)]
        latest = _read(call(listed))
        older = [n for n in direct if latest[_plain(n)] != newest[_plain(n)]]
        return {_plain(n): f"{latest[_plain(n)]}: {self._why(n, latest, newest)}" for n in older}

    def _why(self, wanted: str, latest: Releases, newest: Releases) -> str:
        releases = {n: newest[_plain(n)] for n in self.subject.direct()}
        text = [f"{n}=={r}" for n, r in (releases | {wanted: latest[_plain(wanted)]}).items()]
        asked = [*UV, "compile", "--quiet", self._write("why.in", text), *self.subject.flags()]
        try:
            call([*asked, *self._until(self.cutoff)])
        except RuntimeError as error:
            return reason(str(error))
        return "uv prefers an older one"

    def _today(self) -> Releases:
        """What the pins say for this Python; where none are kept, what goes with what is named."""
        pins = [path.read_text() for path in self.subject.pins]
        if not pins:
            exact = [f"{name}=={release}" for name, release in self.subject.direct().items()]
            asked = [self._write("exact.in", exact), *self._until(self.cutoff)]
            return _read(call([*LIST, *asked]))
        everything = self._write("pins.in", pins)
        return _read(call([*LIST, "--no-deps", everything]))

    def _younger_pins(self) -> list[str]:
        """A pin that is younger than the cooldown must not be taken back."""
        exact = self._write("today.in", [f"{n}=={r}" for n, r in self.today.items()])
        asked = [*UV, "compile", "--quiet", "--no-deps", "--format", "pylock.toml", exact]
        late = [(n, at) for n, _, at in _locked(call(asked)) if at >= self.cutoff]
        return [
            word
            for name, at in late
            for word in ("--exclude-newer-package", f"{name}={_stamp(at + timedelta(seconds=1))}")
        ]

    def _resolve(self, *words: str) -> Releases:
        start = [f"{name}=={release}" for name, release in self.today.items()]
        kept = self._write("kept.txt", start)
        asked = [*LIST, self._loose]
        until = self._until(self.cutoff)
        call([*asked, "--output-file", kept, *self.subject.flags(), *until, *words])
        return _read(kept.read_text())

    def _until(self, moment: datetime) -> list[str]:
        return ["--exclude-newer", _stamp(moment), *self._late]

    def _write(self, name: str, lines: Iterable[str]) -> Path:
        path = self._folder / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path


def reason(error: str) -> str:
    """Why uv could not do it, without the command."""
    found = re.search(r"(Because .*?)(?=\n\s*\n|\n\s+hint:|\Z)", error, re.S)
    text = found[1] if found else error.strip().splitlines()[-1]
    return " ".join(text.split())


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """ "old → new" of what differs; a package that comes or goes has "none" on that side."""
    names = sorted(before.keys() | now.keys())
    pairs = {name: (before.get(name, "none"), now.get(name, "none")) for name in names}
    return {name: f"{old} → {new}" for name, (old, new) in pairs.items() if old != new}


def _plain(name: str) -> str:
    """As the index writes it, without extras."""
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def _read(text: str) -> Releases:
    found = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", text, re.M)
    return {_plain(name): release for name, release in found}


def _locked(text: str) -> list[tuple[str, str, datetime]]:
    """(name, release, when its first file was uploaded) of a pylock.toml."""
    packages = tomllib.loads(text).get("packages", [])
    return [(p["name"], p["version"], _uploaded(p)) for p in packages]


def _uploaded(package: dict[str, object]) -> datetime:
    """Long ago where the index does not say."""
    files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]  # type: ignore[misc]
    moments = [file["upload-time"] for file in files if "upload-time" in file]
    return min(moments, default=datetime.min.replace(tzinfo=UTC))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
