"""Owners' edits, newer templates, and what an update leaves of the edits.

    python -m tests.updating                 # from each released version to what lies here
    python -m tests.updating --json FILE     # and the figures

An edit survives, or Copier marks a conflict in its place, or it drops the edit silently. These
figures count what it drops: in every template, from every release, on every road, both to what lies
here and to a hostile version, which changes what the owner changed.

`update_named`   edits in a file that the check of UPGRADING.md names; AT_MOST limits each row
`update_losses`  files with edits that it does not name; there may be none
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from copier import run_update

from parts.programs import call
from tests.rendering import ROOT, TEMPLATES, commit_all, copier, render, working_copy
from tools.releases import released

APP = "demo-app"
ANSWERS = ".copier-answers.yml"
HERE, HOSTILE = "here", "hostile"
ROADS = ["published", "platform", "root"]
PLATFORM = {
    "project_name": APP,
    "domain_name": "example.org",
    "admin_username": "tkadmin",
    "namespace": APP,
    "k8s_namespace": APP,
    "container_registry": "registry.example.org",
    "registry_subdomain": "registry",
    "project_description": "",
    "author_name": "Thinkube User",
    "author_email": "user@example.org",
    "deployment_id": "7f3a",
    "overwrite_existing": "True",
}
"""What the 2026 platform passes."""

Tree = dict[str, tuple[str, bytes]]
"""By path: "link", "program" or "file", and the bytes, which are a link's target."""


def tree(folder: Path) -> Tree:
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".git/"):
            continue
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()).encode())
        elif path.is_file():
            runs = bool(path.stat().st_mode & 0o100)
            found[name] = ("program" if runs else "file", path.read_bytes())
    return found


def at_commit(commit: str, to: Path) -> Path:
    """The templates and the root's questions as they were."""
    to.mkdir(parents=True)
    packed = subprocess.run(
        ["git", "archive", commit, "copier.yml", *TEMPLATES],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    subprocess.run(["tar", "--extract"], input=packed.stdout, cwd=to, check=True)
    return to


def as_it_lies(to: Path) -> Path:
    """The same as they are in the working tree, uncommitted files too."""
    return working_copy(to, "copier.yml", *TEMPLATES)


@dataclass(frozen=True)
class Source:
    """What Copier renders: a published template, or the collection's root, which has no tags."""

    repository: Path
    template: str
    road: str

    @property
    def address(self) -> str:
        return f"git+file://{self.repository}"

    def release(self, collection: Path, version: str) -> None:
        """Make the next commit of `collection`, and its tag where the road has tags."""
        root = self.road == "root"
        worktree = collection if root else collection / self.template
        if not self.repository.exists():
            call(["git", "init", "--quiet", "--bare", "-b", "main", self.repository])
        git = ["git", "--git-dir", self.repository, "--work-tree", worktree]
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        call([*git, "add", "--all"], worktree)
        call([*git, *who, "commit", "--quiet", "--allow-empty", "--message", version], worktree)
        if not root:
            call([*git, "tag", f"v{version}"])

    def render(self, to: Path) -> Path:
        """The newest as an app, rendered as this road does it."""
        if self.road == "platform":
            return render(self.address, to, "--force", "--vcs-ref=HEAD", **PLATFORM)
        which = {"template": self.template} if self.road == "root" else {}
        given = {"project_name": APP, "domain_name": "example.org", **which}
        return render(self.address, to, "--vcs-ref=HEAD", **given)


def update(app: Path, version: str = "newest") -> None:
    """`copier update` with defaults and without trust; the newest Copier in this process."""
    if version != "newest":
        call([copier(version), "update", "--defaults", "--quiet"], app)
        return
    run_update(app, defaults=True, overwrite=True, quiet=True)


def kept(template: str) -> list[str]:
    """The files that an update and a redeploy leave to the owner, as they stand in an app."""
    found = yaml.safe_load((ROOT / template / "copier.yml").read_text())["_skip_if_exists"]
    return [name.replace("*", APP, 1) for name in found]


def commands(template: str, heading: str) -> list[str]:
    """The blocks of commands of a section of UPGRADING.md."""
    page = (ROOT / template / "UPGRADING.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    if not found:
        raise ValueError(f"{template}/UPGRADING.md: there are no commands under '{heading}'.")
    return found


def named(app: Path, template: str) -> set[str]:
    """What the check prints."""
    [check] = commands(template, "Check it")
    done = follow(check, app)
    if done.returncode:
        raise RuntimeError(f"The check of {template}/UPGRADING.md failed: {done.stderr}")
    return set(done.stdout.splitlines())


def follow(script: str, app: Path, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    """What a person sees who pastes the commands into a shell: it goes on after a failure."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [shell, "-c", script],
        cwd=app,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


def marked(app: Path) -> set[str]:
    """Paths that git shows as unmerged, or that have a file of rejected lines beside them."""
    unmerged = call(["git", "diff", "--name-only", "--diff-filter=U", "-z"], app).split("\0")
    rejected = [p.relative_to(app).as_posix().removesuffix(".rej") for p in app.rglob("*.rej")]
    return {*filter(None, unmerged), *rejected}


def losses(base: Tree, mine: Tree, after: Tree, newer: Tree, conflicts: set[str]) -> dict[str, str]:
    """What an update took away of the owner's edits, by path, unless it marked a conflict there.

    `base` and `newer` are fresh copies of the template before and after, `mine` is the owner's.
    """
    found = {}
    for path in sorted({*base, *mine} - {ANSWERS}):
        was, own, now = base.get(path), mine.get(path), after.get(path)
        if was == own or own == now:
            continue
        if was is None or own is None or now is None:
            reason = _replaced(own, now, path in conflicts)
        else:
            reason = _lost(was, own, now, newer.get(path) or was, path in conflicts)
        if reason:
            found[path] = reason
    return found


_Entry = tuple[str, bytes]


def _replaced(own: _Entry | None, now: _Entry | None, conflict: bool) -> str:
    """Why a file is lost that can't be merged; "" when it is not."""
    if own is None:
        return "" if conflict else "a removed file came back"
    if now is None:
        return "a file with edits is gone"
    gone = _lines(own[1]) - _lines(now[1])
    return "own content was replaced" if gone or not conflict else ""


def _lost(was: _Entry, own: _Entry, now: _Entry, new: _Entry, conflict: bool) -> str:
    """Why the owner's edit of one file is lost; "" when it is not."""
    texts = [one[1] for one in (was, own, new)]
    if "link" in (was[0], own[0], now[0]) or any(b"\0" in text for text in texts):
        return _replaced(own, now, conflict)
    if own[0] != was[0] and now[0] != own[0]:
        return "its mode came back"
    wanted, marks = merged(*texts)
    if now[1] == own[1] or (now[1] == wanted and (conflict or not marks)):
        return ""
    lacks, more = _lines(wanted) - _lines(now[1]), _lines(now[1]) - _lines(wanted)
    return f"a merge gives another file: {lacks.total()} lines are missing, {more.total()} too many"


def _lines(text: bytes) -> Counter[bytes]:
    return Counter(text.split(b"\n"))


def merged(was: bytes, own: bytes, new: bytes) -> tuple[bytes, bool]:
    """Git's merge of two changes of a text, with Copier's marks, and whether there are any."""
    with TemporaryDirectory() as folder:
        for name, text in (("own", own), ("was", was), ("new", new)):
            (Path(folder) / name).write_bytes(text)
        labels = ["-L", "before updating", "-L", "last update", "-L", "after updating"]
        ask = ["git", "merge-file", "--stdout", *labels, "own", "was", "new"]
        done = subprocess.run(ask, cwd=folder, capture_output=True)
    if done.returncode > 127:
        raise RuntimeError(f"git cannot merge: {done.stderr.decode()}")
    return done.stdout, done.returncode > 0


def change_line(path: Path, pattern: str, new: str, before: str = "") -> None:
    """Give the first line that matches new words, where `{}` is what it was."""
    lines = path.read_text().splitlines(keepends=True)
    place = next((i for i, line in enumerate(lines) if re.search(pattern, line)), None)
    if place is None:
        raise ValueError(f"No line of {path} matches {pattern!r}.")
    lines[place] = before + new.format(lines[place].rstrip("\n")) + "\n"
    path.write_text("".join(lines))


PLACES = {
    "prompt": (f"{APP}/agent/prompts.py", r"^[A-Z_]+ = "),
    "setting in app.env": (f"{APP}/app.env", r"^PROJECT_DESCRIPTION="),
    "extra route": (f"{APP}/api.py", r"^@router.api_route"),
    "changed page": (f"{APP}/ui.py", r"^def build_ui"),
    "new setting": (f"{APP}/agent/settings.py", r"^    app_name: "),
    "other pin": (f"{APP}/requirements.txt", r"^fastapi=="),
    "README": ("README.md", r"^## Change it"),
    "Dockerfile": (f"{APP}/Dockerfile", r"^USER "),
    "descriptor": ("thinkube.yaml", r"^ +health: "),
    "file that the template drops": (f"{APP}/agent/page.css", r"\{$"),
    "file that the template moves": (f"{APP}/agent/measures.py", r"^from "),
}
"""Where an owner changes a line and puts one before it, and where the hostile version does too."""
REMOVED = f"{APP}/tests/test_settings.py"
RENAMED = f"{APP}/agent/cards.py"
OWN = [f"{APP}/agent/my_tool.py", f"{APP}/tests/test_mine.py", f"{APP}/agent/my-logo.png"]
WHOLE = f"{APP}/agent/icon.png"


def edit(app: Path) -> dict[str, list[str]]:
    """Make the typical edits; gives the paths of each."""
    done = {}
    for name, (path, pattern) in PLACES.items():
        change_line(app / path, pattern, "{}  # mine", f"# mine: {name}\n")
        done[name] = [path]
    (app / REMOVED).unlink()
    (app / RENAMED).rename(app / RENAMED.replace("cards", "who"))
    change_line(app / RENAMED.replace("cards", "who"), r"^import |^from ", "{}  # mine")
    for path in OWN:
        (app / path).write_bytes(b"\x89PNG\0mine" if path.endswith("png") else b"# my own\n")
        done[f"own {Path(path).name}"] = [path]
    (app / WHOLE).write_bytes(b"\x89PNG\0my own icon")
    _edit_odd_ones(app)
    return done | {
        "removed file": [REMOVED],
        "renamed file": [RENAMED, RENAMED.replace("cards", "who")],
        "other icon": [WHOLE],
        "link made a file": [f"{APP}/Containerfile"],
        "Windows line ends": ["ops/README.md"],
        "no line end at the end": [f"{APP}/.dockerignore"],
        "Latin-1": ["ops/alerts.yaml"],
        "made a program": [f"{APP}/agent/doctor.py"],
    }


def _edit_odd_ones(app: Path) -> None:
    (app / APP / "Containerfile").unlink()
    (app / APP / "Containerfile").write_text("FROM my-own-base\n")
    windows = app / "ops" / "README.md"
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n"))
    with (app / APP / ".dockerignore").open("a") as file:
        file.write("my-notes")
    with (app / "ops" / "alerts.yaml").open("ab") as file:
        file.write(b"# caf\xe9\n")
    (app / APP / "agent" / "doctor.py").chmod(0o755)


def make_hostile(collection: Path, template: str) -> None:
    """Change the template where `edit` changes an app, drop and move files, take own names."""
    folder = collection / template
    for name, (path, pattern) in PLACES.items():
        change_line(_source(folder, path), pattern, "{}  # theirs", f"# theirs: {name}\n")
    for path in (REMOVED, RENAMED, f"{APP}/agent/doctor.py", "ops/README.md", "ops/alerts.yaml"):
        change_line(_source(folder, path), r"\w", "# theirs\n{}")
    with _source(folder, f"{APP}/.dockerignore").open("a") as file:
        file.write("their-notes\n")
    _source(folder, f"{APP}/agent/page.css").unlink()
    moved = _source(folder, f"{APP}/agent/measures.py")
    moved.rename(moved.with_name("meters.py"))
    for path in OWN:
        _source(folder, path).write_bytes(b"\x89PNG\0theirs" if "png" in path else b"# theirs\n")
    _source(folder, WHOLE).write_bytes(b"\x89PNG\0their new icon")
    link = _source(folder, f"{APP}/Containerfile")
    link.unlink()
    link.write_text("FROM their-base\n")


def _source(folder: Path, path: str) -> Path:
    """The template's file that becomes `path`."""
    plain = folder / path.replace(APP, "{{app_name}}")
    filled = plain.with_name(f"{plain.name}.jinja")
    return filled if filled.exists() else plain


FATES = ["survived", "conflicted", "named", "lost"]
AT_MOST = {HERE: 1, HOSTILE: 4}
"""Edits of a row that only the check names; where only the owner changed a file, Latin-1 alone."""


@dataclass(frozen=True)
class Row:
    """How many typical edits met each fate on one road; `lost` says where and why, by path."""

    template: str
    version: str
    to: str
    road: str
    copier: str
    fates: dict[str, int]
    lost: dict[str, str]


def row(
    template: str, version: str, to: str, road: str, folder: Path, program: str = "newest"
) -> Row:
    """One app, edited and updated in `folder`, and the check made."""
    source = Source(folder / "source.git", template, road)
    source.release(at_commit(released(template)[version], folder / "old"), version)
    base = tree(source.render(folder / "base"))
    app = source.render(folder / "app")
    edits = edit(app)
    commit_all(app)
    mine = tree(app)
    source.release(next_version(template, to, folder / "new"), "99.0.0")
    update(app, program)
    conflicts, after = marked(app), tree(app)
    newer = tree(source.render(folder / "newer"))
    found, told = losses(base, mine, after, newer, conflicts), named(app, template)
    fates = [_fate(paths, conflicts, found, told) for paths in edits.values()]
    lost = {path: reason for path, reason in found.items() if path not in told}
    return Row(template, version, to, road, program, dict(Counter(fates)), lost)


def next_version(template: str, to: str, folder: Path) -> Path:
    collection = as_it_lies(folder)
    if to == HOSTILE:
        make_hostile(collection, template)
    return collection


def _fate(paths: list[str], conflicts: set[str], found: dict[str, str], told: set[str]) -> str:
    """What became of one edit; the worst counts."""
    gone = {path for path in paths if path in found}
    if gone:
        return "named" if gone <= told else "lost"
    return "conflicted" if conflicts & {*paths} else "survived"


def table(rows: list[Row]) -> str:
    """The rows as they are shown; the figures of each are numbers of edits."""
    lines = [["template", "from", "to", "road", "Copier", "edits", *FATES]]
    for one in rows:
        figures = [one.fates.get(fate, 0) for fate in FATES]
        place = [one.template, one.version, one.to, one.road, one.copier]
        lines.append([*place, str(sum(figures)), *map(str, figures)])
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(line, wide, strict=True)).rstrip()
        for line in lines
    )


def all_rows() -> list[Row]:
    """Every template, released version, road and both ways to go on; says how far it is."""
    wanted = [
        (template, version, to, road)
        for template in TEMPLATES
        for version in released(template)
        for to in (HERE, HOSTILE)
        for road in ROADS
    ]
    rows: list[Row] = []
    began = time.monotonic()
    for one in wanted:
        with TemporaryDirectory() as folder:
            rows.append(row(*one, Path(folder)))
        left = (time.monotonic() - began) / len(rows) * (len(wanted) - len(rows))
        print(f"{len(rows)} of {len(wanted)}, {left:.0f} s left", file=sys.stderr)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    file = parser.parse_args().json
    rows = all_rows()
    update_losses = sum(len(one.lost) for one in rows)
    print(table(rows))
    update_named = sum(one.fates.get("named", 0) for one in rows)
    print(f"Edits that Copier drops silently and the check names: {update_named}")
    print(f"Files with edits that neither names: {update_losses}")
    if file:
        found = {"update_losses": update_losses, "update_named": update_named}
        file.write_text(json.dumps({**found, "rows": [asdict(r) for r in rows]}, indent=2) + "\n")
    many = any(one.fates.get("named", 0) > AT_MOST[one.to] for one in rows)
    return 1 if update_losses or many else 0


if __name__ == "__main__":
    sys.exit(main())
