"""Git as `make publish` needs it: a scratch clone, so that this repository stays as it is, and a
remote that is asked without a terminal, so that nobody is asked for a password.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent


def git(folder: Path, *words: str) -> str:
    """What it prints, without the last line break; RuntimeError with the first thing it says."""
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # ssh asks the terminal, whatever its input is
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        first = (line for line in said if not re.match("To |hint:|warning:", line))
        raise RuntimeError(next(first, f"git {words[0]} ended with {done.returncode}").strip(" !."))
    return done.stdout.rstrip("\n")


def address(remote: str) -> str:
    """`remote` for git in any folder: one on this machine in full."""
    return str(Path(remote).resolve()) if Path(remote).exists() else remote


def without_password(text: str) -> str:
    """`text` with what stands before the host in its addresses left out."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A clone that borrows this repository's objects; RuntimeError when this one is shallow."""
    if git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        raise RuntimeError(
            "This clone lacks the older commits, and a template's history would come out another "
            "one: run git fetch --unshallow."
        )
    with TemporaryDirectory() as place:
        folder = Path(place) / "clone"
        git(ROOT, "clone", "--quiet", "--shared", "--no-tags", "--", str(ROOT), str(folder))
        git(folder, "remote", "remove", "origin")  # or REMOTE=origin would be this repository
        yield Scratch(folder)


@dataclass(frozen=True)
class Scratch:
    folder: Path

    def split(self, template: str, commit: str) -> str:
        """The commit that `template`'s folder becomes on its own; always the same for the same."""
        try:
            git(self.folder, "merge-base", "--is-ancestor", commit, "HEAD")
        except RuntimeError as error:
            raise RuntimeError(
                f"Fetch commit {commit}, or take it out of releases.json: {template} is said to "
                "come from it, and this repository's history does not have it."
            ) from error
        return git(self.folder, "subtree", "split", "-q", f"--prefix={template}", commit)

    def refs(self, remote: str) -> dict[str, str]:
        """Commits there: of HEAD, main and tags, by name; {} in an empty repository."""
        try:
            wanted = ["HEAD", "refs/heads/main", "refs/tags/v*"]
            lines = git(self.folder, "ls-remote", "--quiet", "--", remote, *wanted).splitlines()
        except RuntimeError as error:
            raise RuntimeError(
                "Make an empty repository for the template, and give git a key or a credential "
                f"helper that lets it in there: {remote} cannot be read ({error})."
            ) from error
        named = [line.split("\t") for line in lines]
        # An annotated tag has a second line, which names its commit.
        return {re.sub(r"^refs/(heads|tags)/|\^\{\}$", "", name): commit for commit, name in named}

    def holds(self, commit: str, earlier: str) -> bool:
        """Whether `earlier` is `commit` or one of those before it."""
        return earlier in git(self.folder, "rev-list", commit).splitlines()
