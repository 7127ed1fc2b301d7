"""What stands on the pages of the documentation: blocks, links, headings, tables.

A comment on the line above a fenced block says what becomes of it:

    <!-- not run: REASON -->                    neither run nor held against anything
    <!-- stays open: http://127.0.0.1:1/x -->   a server: runs until the page's end
    <!-- from: PATH -->                         a quotation of that file of this repository
    <!-- from rendered TEMPLATE: PATH -->       a quotation of that file of a rendered app

Without one, `sh` and `python` are run, and a `text` or `json` right behind is what they print.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from parts import apps
from parts.environments import ROOT

RUN, PRINTED = ("sh", "python"), ("text", "json")
"""Languages of blocks that are run, and of what they print."""
READMES = ("README.md", "OPERATING.md", "ops/README.md")
"""Pages of a rendered app."""
WHERE = ("*.md", ":!corpus", ":!tkt-*/{{app_name}}/*")
"""As git is asked for this repository's pages: the sample documents are none."""
NAME = "my-app"
"""A rendered app's, where pages show one."""

_NOTE = re.compile(r"<!-- (not run|stays open|from(?: rendered [\w-]+)?): (.+?) -->")
TABLE = re.compile(r"<!-- table: ([\w -]+) -->\n(.*?)<!-- end of table -->", re.S)


@dataclass(frozen=True)
class Block:
    """`note` and `about` are the comment above it; `line` is where its fence stands."""

    language: str
    text: str
    line: int
    note: str
    about: str
    printed: str | None

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.note in ("", "stays open")


@dataclass(frozen=True)
class Page:
    """`path` is where it lies, `name` how it is called in messages."""

    path: Path
    name: str

    @property
    def text(self) -> str:
        return self.path.read_text()

    def tokens(self) -> list[Token]:
        return MarkdownIt("gfm-like", {"linkify": False}).parse(self.text)

    def blocks(self) -> list[Block]:
        """The fenced ones, in order, each with the output that stands right behind it."""
        found: list[Block] = []
        tokens = [token for token in self.tokens() if token.map and token.level == 0]
        for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
            if token.type != "fence" or _is_output(before, token):
                continue
            note = before and before.type == "html_block" and _NOTE.search(before.content)
            kind, about = (note[1], note[2]) if note else ("", "")
            ran = token.info in RUN and kind in ("", "stays open")
            printed = after.content if after and ran and _is_output(token, after) else None
            line = (token.map or [0])[0] + 1
            found.append(Block(token.info, token.content, line, kind, about, printed))
        return found

    def tables(self) -> list[tuple[str, str]]:
        """Names and contents of the regions that are made from the code."""
        return TABLE.findall(self.text)

    def links(self) -> Iterator[tuple[int, str]]:
        """Where each leads, pictures too, and near which line."""
        for token in self.tokens():
            for part in token.children or []:
                target = part.attrGet("href") or part.attrGet("src")
                if target:
                    yield (token.map or [0])[0] + 1, str(target)
            if token.type in ("html_block", "inline"):
                for target in re.findall(r'(?:href|src|srcset)="([^"]+)"', token.content):
                    yield (token.map or [0])[0] + 1, target

    def anchors(self) -> set[str]:
        """What `#...` may name, by GitHub's rule."""
        tokens = self.tokens()
        heads = [t.content for o, t in pairwise(tokens) if o.type == "heading_open"]
        seen: dict[str, int] = {}
        for name in map(slug, heads):
            seen[name] = seen.get(name, -1) + 1
        return {f"{s}-{n}" if n else s for s, last in seen.items() for n in range(last + 1)}


def slug(heading: str) -> str:
    """The anchor of a heading that no other one on its page is called like."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _is_output(before: Token | None, token: Token) -> bool:
    """Whether it is what the block right before it prints."""
    return (
        before is not None
        and before.type == "fence"
        and before.info in RUN
        and token.type == "fence"
        and token.info in PRINTED
    )


def collection() -> list[Page]:
    """The pages that are read in this repository."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *WHERE]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [
        Page(ROOT / name, name)
        for name in sorted(set(names.splitlines()))
        if (ROOT / name).exists()
    ]


def of_apps(folder: Path) -> list[Page]:
    """The pages that owners read: each template's, rendered into `folder`."""
    found = []
    for template in templates():
        app = rendered(template, folder)
        pages = [app.parent / name for name in READMES if (app.parent / name).exists()]
        found += [Page(p, f"{template}, rendered: {p.relative_to(app.parent)}") for p in pages]
    return found


def templates() -> list[str]:
    return sorted(path.name for path in ROOT.glob("tkt-*") if path.is_dir())


def rendered(template: str, folder: Path) -> Path:
    """The app `my-app` in its repository, with all defaults."""
    return apps.render(template, folder / template, NAME)


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="docs-", ignore_cleanup_errors=True)
