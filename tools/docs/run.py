"""Runs the blocks of the documentation's pages, as somebody would who types them in.

    python tools/docs/run.py                      # all pages
    python tools/docs/run.py docs/guides/x.md     # one of them

A page has one terminal: what a block changes (folder, variables) holds for the next one. It begins
in a fresh clone of this repository, or in the freshly rendered repository of an app. README.md
and docs/examples/building-rag-agent.md install all that they need; to the others what exists here
is lent, since a page is not about waiting for packages.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from parts.environments import install, make  # noqa: E402
from parts.programs import STOP_S, answers, call  # noqa: E402
from tests.rendering import working_copy  # noqa: E402
from tools.docs.pages import NAME, Block, Page, collection, of_apps, scratch  # noqa: E402

LIMIT_S = 600
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
KEPT = ("PATH", "HOME", "LANG", "TERM", "USER", *PROXIES)
"""What a terminal has; of this process' environment only these and the families reach a block."""
FAMILIES = ("LC_", "PIP_", "UV_", "SSL_", "REQUESTS_")
"""What such a name begins with."""
FIRST = "README.md"
"""Run with nothing installed: it says what a fresh machine does."""


@dataclass
class Terminal:
    """A shell that forgets nothing between blocks: its folder and exports lie in files."""

    folder: Path
    notes: Path

    def run(self, block: Block, held: ExitStack) -> str:
        """What it printed; RuntimeError when it fails, or prints something else than it should."""
        if block.note == "stays open":
            if block.language != "sh" or block.printed is not None:
                raise RuntimeError("what stays open is a block of shell, without an output")
            held.enter_context(self._open(block.text, block.about))
            return ""
        script = block.text
        if block.language == "python":
            (self.notes / "block.py").write_text(block.text)
            script = f"python '{self.notes / 'block.py'}'"
        with self._started(script, subprocess.PIPE) as child:
            try:
                printed = child.communicate(timeout=LIMIT_S)[0]
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(f"it took longer than {LIMIT_S} s") from error
        if child.returncode:
            raise RuntimeError(f"it ended with {child.returncode}:\n{printed[-3000:]}")
        if block.printed is not None and not fits(block.printed, printed):
            raise RuntimeError(f"it printed something else:\n{printed[-3000:]}")
        return printed

    def _shell(self, script: str) -> list[str]:
        begin = f"cd '{self.folder}'\n[ ! -e '{self.notes}/state' ] || . '{self.notes}/state'\n"
        end = f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} > '{self.notes}/state'\n"
        return ["bash", "-eu", "-o", "pipefail", "-c", f"{begin}{script}\n{end}"]

    @contextmanager
    def _started(self, script: str, output: Any) -> Iterator[subprocess.Popen[str]]:
        """A shell that has ended at the end, and whatever it started too."""
        child = subprocess.Popen(
            self._shell(script), text=True, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=_environment(), start_new_session=True,
        )  # fmt: skip
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)

    @contextmanager
    def _open(self, script: str, url: str) -> Iterator[None]:
        """A server that answers, until the end; RuntimeError when it does not last that long."""
        if answers(url):
            raise RuntimeError(f"{url} answers before it is started: something else serves there")
        log = self.notes / "server.log"
        with log.open("w") as file, self._started(script, file) as child:
            deadline = time.monotonic() + LIMIT_S
            while not answers(url):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{url} does not answer:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            yield
            if child.poll() is not None:
                raise RuntimeError(f"{url} ended before its page:\n{log.read_text()[-3000:]}")
        _until_silent(url)


def _until_silent(url: str) -> None:
    """The shell has ended; what it started may take a moment, and the next page its port."""
    deadline = time.monotonic() + STOP_S
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.1)


ELSEWHERE = {"UPGRADING.md"}
"""Its commands want an app with a past: test_updates.py and test_redeploy.py run them."""


def main(asked: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="*", help="as this prints them; all without one")
    wanted = parser.parse_args(asked).pages
    with scratch() as folder:
        found = [*collection(), *of_apps(Path(folder) / "apps")]
        if unknown := sorted(set(wanted) - {page.name for page in found}):
            parser.error(f"there is no page {', '.join(unknown)}")
        chosen = [page for page in found if page.name in wanted] if wanted else found
        chosen.sort(key=lambda page: page.name != FIRST)
        troubles, began = 0, time.monotonic()
        for page in chosen:
            if page.path.name not in ELSEWHERE and any(block.runs for block in page.blocks()):
                troubles += _run(page, Path(folder))
    print(f"{len(chosen)} pages in {time.monotonic() - began:.0f} s, {troubles} troubles")
    return 1 if troubles else 0


def _run(page: Page, scratch: Path) -> int:
    """How many of its blocks fail: one at most, as the next ones stand on it."""
    number = len(list(scratch.glob("page-*")))
    notes = scratch / f"page-{number}"
    notes.mkdir()
    ours = page.path.is_relative_to(ROOT)
    folder = clone(notes / "collection", page.name == FIRST) if ours else lent(page.path.parent)
    terminal, began, blocks, line = Terminal(folder, notes), time.monotonic(), 0, 0
    try:
        with ExitStack() as held:
            for block in page.blocks():
                if block.runs:
                    line = block.line
                    terminal.run(block, held)
                    blocks += 1
    except RuntimeError as error:
        print(f"{page.name}:{line}: the block failed: {error}", flush=True)
        return 1
    print(f"{page.name}: {blocks} blocks in {time.monotonic() - began:.1f} s", flush=True)
    return 0


def clone(to: Path, bare: bool) -> Path:
    """The repository as it lies here, committed; with this one's environments unless `bare`."""
    working_copy(to)
    if not bare:
        for venv in ROOT.glob(".venv*"):
            (to / venv.name).symlink_to(venv)
    who = ["-c", "user.name=Reader", "-c", "user.email=reader@example.org"]
    call(["git", "init", "--quiet", "--initial-branch", "main"], to)
    call(["git", "add", "--all"], to)
    call(["git", *who, "commit", "--quiet", "--message", "Clone"], to)
    return to


def lent(repository: Path) -> Path:
    """An app's repository, with the packages that its README installs: pip finds them there."""
    app = repository / NAME
    if not (app / "requirements.txt").exists() or (app / ".venv").exists():
        return repository
    make(app / ".venv")
    wanted = ["--no-deps", "--requirement", app / "requirements.txt"]
    install(app / ".venv" / "bin" / "python", wanted)
    return repository


def fits(wanted: str, printed: str) -> bool:
    """Whether `printed` is what a page shows: … stands for anything in a line, and alone in one
    for any lines."""
    pattern = ""
    for line in wanted.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
    return re.fullmatch(pattern, f"{printed.strip()}\n") is not None


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(FAMILIES)
    }
    return kept | {"GIT_AUTHOR_NAME": "Reader", "GIT_AUTHOR_EMAIL": "reader@example.org"} | {
        "GIT_COMMITTER_NAME": "Reader", "GIT_COMMITTER_EMAIL": "reader@example.org"
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
