"""Builds the documentation as a site, in site/, and looks at what came out.

    python tools/docs/site.py
    python tools/docs/site.py --repository https://git.example.org/me/templates/blob/main
    python tools/docs/site.py --browse            and opens all of it in Chromium

Pages link to files of this repository that are no pages. On the site such a link leads to
`--repository`; without that its path stands there as code. So Zensical builds a copy of docs/.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from parts.environments import environment  # noqa: E402
from tools.docs.site_checks import browse, troubles  # noqa: E402

DOCS, SITE = ROOT / "docs", ROOT / "site"
CONFIG = ROOT / "zensical.toml"
REQUIREMENTS = ROOT / "requirements-docs.txt"
_FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)
_LINK = re.compile(
    r"(?P<code>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=code)(?!`)|\[((?:[^][`]|`[^`]*`)*)\]\(([^)\s]+)\)"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repository", default="", help="address of a file, but for its path")
    parser.add_argument("--browse", action="store_true", help="open all pages in Chromium too")
    options = parser.parse_args()
    began = time.monotonic()
    found = unlisted()
    if not found:
        found = build(options.repository.rstrip("/")) or troubles(SITE)
    if not found and options.browse:
        found = browse(SITE)
    for trouble in found:
        print(trouble)
    if not found:
        print(f"{len(pages())} pages in {SITE.name}/, in {time.monotonic() - began:.1f} s")
    return 1 if found else 0


def pages() -> list[str]:
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def unlisted() -> list[str]:
    """Zensical builds a page that nothing leads to, and leaves one out that is not there."""
    listed = set(_listed(tomllib.loads(CONFIG.read_text())["project"]["nav"]))
    there = set(pages())
    found = [f"docs/{name} is not in the nav of {CONFIG.name}." for name in there - listed]
    found += [f"docs/{name} is in the nav of {CONFIG.name} alone." for name in listed - there]
    return sorted(found)


def _listed(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from _listed(value)
            else:
                yield value


def build(repository: str) -> list[str]:
    """What Zensical finds wrong, a line each; else the site is there."""
    zensical = environment("docs", ["--requirement", REQUIREMENTS]) / "zensical"
    with tempfile.TemporaryDirectory(prefix="site-") as scratch:
        folder = Path(scratch)
        shutil.copytree(DOCS, folder / "docs")
        shutil.copyfile(CONFIG, folder / CONFIG.name)
        for name in pages():
            text = at_home((DOCS / name).read_text(), (DOCS / name).parent, repository)
            (folder / "docs" / name).write_text(text)
        done = subprocess.run(
            [zensical, "build", "--strict"], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            return _warnings(done.stdout)
        shutil.rmtree(SITE, ignore_errors=True)
        shutil.copytree(folder / "site", SITE)
    return []


def at_home(text: str, folder: Path, repository: str) -> str:
    """A page's text, with no link that leads out of docs/; its lines stay where they are."""

    def led(match: re.Match[str]) -> str:
        label, target = match[2], match[3]
        path, hash_, anchor = (target or "").partition("#")
        if match["code"] or not path or re.match(r"[a-z]+:", path):
            return match[0]
        there = (folder / unquote(path)).resolve()
        if there.is_relative_to(DOCS) or not there.is_relative_to(ROOT):
            return match[0]
        name = there.relative_to(ROOT).as_posix()
        if repository:
            return f"[{label}]({repository}/{quote(name)}{hash_}{anchor})"
        return label if label.strip("`") in (name, there.name) else f"{label} (`{name}`)"

    parts = _FENCE.split(text)
    return "".join(part if n % 2 else _LINK.sub(led, part) for n, part in enumerate(parts))


def _warnings(said: str) -> list[str]:
    """Of the coloured pictures that it draws, what and where."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    found = re.findall(r"^Warning: (.+)\n\s*╭─\[ (\S+) \]", plain, re.M)
    return [f"docs/{where}: {what}" for what, where in found] or [plain[-2000:]]


if __name__ == "__main__":
    sys.exit(main())
