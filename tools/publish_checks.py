"""What must hold before a template is published; each check says in one sentence what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import date

import yaml

from tools.publish_git import ROOT, Scratch, git
from tools.releases import numbers, released

CONTRACT = ("contract", "roads", "redeploy", "answers", "twins", "upgrading")
"""Test files that hold what the platform and the owners of apps rely on."""
SECRET = "|".join(
    [
        r"\b(sk-|tk_)[A-Za-z0-9_-]{16}|\btka_[A-Za-z0-9_-]{40}",  # LiteLLM, platform, an app's own
        r"\bsk-(lf|proj|ant)-[A-Za-z0-9]",
        r"\bhf_[A-Za-z0-9]{30}",
        r"\b(ghp_|github_pat_)",
        r"\bAKIA[0-9A-Z]{16}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY",
    ]
)
"""As an extended regular expression of git."""
VERSION = r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
OF_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "REMOTE")
"""What make was given, which is not for the makes that tests call."""


def is_a_template(template: str) -> None:
    names = sorted(path.parent.name for path in ROOT.glob("tkt-*/manifest.yaml"))
    if template not in names:
        raise RuntimeError(f"Take one of {', '.join(names)}: there is no template {template}.")


def is_committed(template: str) -> None:
    """All of this repository: what is tested must be what is published."""
    changed = git(ROOT, "status", "--porcelain", "--untracked-files=all").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise RuntimeError(f"Commit or remove what git status shows first: {changed[0]}{more}.")
    ignored = git(ROOT, "ls-files", "--cached", "--ignored", "--exclude-standard", "--", template)
    if ignored:
        first = ignored.splitlines()[0]
        raise RuntimeError(
            f"Run git rm --cached '{first}': it is committed although it is ignored."
        )


def new_version(template: str) -> str:
    """Of the manifest; it must be newer than the last one of releases.json."""
    path = f"{template}/manifest.yaml"
    version = str(yaml.safe_load((ROOT / path).read_text())["metadata"].get("version"))
    if not re.fullmatch(VERSION, version):
        raise RuntimeError(f"Set metadata.version in {path} to X.Y.Z: it is {version}.")
    last = next(reversed(released(template)), "")
    if last and numbers(version) <= numbers(last):
        raise RuntimeError(
            f"Raise metadata.version in {path}: {version} is not newer than {last}, the last one "
            "of releases.json."
        )
    return version


def changelog(template: str, version: str) -> str:
    """What CHANGELOG.md says of it; the entry must have a date, none to come, and a text."""
    path = ROOT / template / "CHANGELOG.md"
    title = rf"^## {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)\n(.*?)(?=^## |\Z)"
    found = re.search(title, path.read_text() if path.exists() else "", re.M | re.S)
    if not found or not _is_date(found[1]) or not found[2].strip():
        raise RuntimeError(
            f"Say what changed under `## {version} ({date.today()})` in {template}/CHANGELOG.md: "
            "it has no such entry with a date and a text."
        )
    if date.fromisoformat(found[1]) > date.today():
        raise RuntimeError(
            f"Date {version} in {template}/CHANGELOG.md with the day of its release, as in "
            f"{date.today()}: {found[1]} is a day to come."
        )
    return found[2].strip()


def _is_date(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def tags(there: dict[str, str]) -> dict[str, str]:
    """The versions of `there`, and their commits."""
    return {name: at for name, at in there.items() if re.fullmatch(f"v{VERSION}", name)}


def is_not_tagged(template: str, version: str, there: dict[str, str]) -> None:
    """Nor may a newer one be there, which every update would take."""
    newest = max((tag[1:] for tag in tags(there)), key=numbers, default="")
    if newest and numbers(newest) >= numbers(version):
        raise RuntimeError(
            f"Raise metadata.version in {template}/manifest.yaml above {newest}, since the tag "
            f"v{newest} is there already: it is {version}."
        )


def goes_on_from(clone: Scratch, there: dict[str, str], commit: str) -> None:
    """What is there, branch or version, must be a part of what is published."""
    for name, at in there.items():
        if (name == "main" or name in tags(there)) and not clone.holds(commit, at):
            raise RuntimeError(
                "Take another repository, or bring here what was committed there: its "
                f"{name} is at {at}, which is no commit of this template."
            )


def holds_no_secret(clone: Scratch, template: str, commit: str, main: str) -> None:
    """In no commit that is not there yet: what a later one removes is published all the same."""
    unseen = [commit, *([f"^{main}"] if main else [])]
    search = ["log", "-z", "--name-only", "--format=", f"-G{SECRET}"]
    if names := git(clone.folder, *search, "--max-count=1", *unseen):
        path = f"{template}/{names.split(chr(0))[0]}"
        here = ["log", "--full-history", "--format=%h", f"-G{SECRET}", "--", f":(literal){path}"]
        raise RuntimeError(
            f"Take what looks like a key out of {path} and out of the history, and out of "
            f"service: git show {' '.join(git(ROOT, *here).split())} shows where it came and went."
        )


def contract_holds(template: str) -> None:
    """Runs the tests of this template, and those that are of no template alone."""
    print("Testing what the platform and the owners of apps rely on ...", flush=True)
    tests = [f"tests/test_{name}.py" for name in CONTRACT]
    command = [sys.executable, "-m", "pytest", *tests, "-k", f"{template} or not tkt-"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise RuntimeError(f"Mend what is shown above: {template} does not pass its tests.")
