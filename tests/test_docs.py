"""The pages hold what they promise: blocks that are run or quoted, links that lead somewhere.

The blocks themselves are run by `make docs-check`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from os.path import normpath
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.rendering import ROOT, TEMPLATES
from tools.docs.pages import RUN, Block, Page, collection, of_apps, scratch
from tools.docs.site_checks import KNOWN, troubles

WORDS_A_MINUTE = 240
COMMITS = {
    "18d68f8", "77f207f", "5300cf4", "df35039", "14566e8", "3e2eb1e", "ec8667c", "da1bb90",
    "b40d3de", "023e64a", "a2194f4", "53efc3f",
}  # fmt: skip
"""Of the platform's repositories: what pages say of it was read there."""


@pytest.fixture(scope="module")
def pages() -> Iterator[list[Page]]:
    with scratch() as folder:
        yield [*collection(), *of_apps(Path(folder))]


def _guides() -> list[Page]:
    """Pages that a reader opens for what stands in them."""
    return [p for p in collection() if p.name.startswith("docs/") and "decisions/" not in p.name]


@pytest.mark.parametrize("page", _guides(), ids=lambda page: page.name)
def test_a_page_begins_with_what_its_reader_will_have(page: Page) -> None:
    title, _, rest = page.text.partition("\n\n")
    assert title.startswith("# ")
    assert rest.startswith("You will "), f"{page.name} begins otherwise: {rest[:60]!r}"


@pytest.mark.parametrize("page", _guides(), ids=lambda page: page.name)
def test_sentences_are_short(page: Page) -> None:
    lengths = {sentence: len(sentence.split()) for sentence in _sentences(page)}
    mean = sum(lengths.values()) / len(lengths)
    assert mean <= 18, f"{page.name}: {mean:.1f} words a sentence"
    longest = max(lengths, key=lambda sentence: lengths[sentence])
    assert lengths[longest] <= 45, f"{page.name}: {longest}"


def _sentences(page: Page) -> Iterator[str]:
    """Those of paragraphs and bullets; a link or a piece of code counts as its words."""
    tokens = page.tokens()
    for before, token in pairwise(tokens):
        if token.type == "inline" and before.type == "paragraph_open":
            plain = re.sub(r"\(\[[^]]*\]\([^)]*\)\)|\]\([^)]*\)", "", token.content)
            yield from filter(str.split, re.split(r"(?<=[.!?:;])\s+", plain))


def test_every_block_is_run_quoted_or_marked(pages: list[Page]) -> None:
    wrong = [
        f"{page.name}:{block.line}: a block of {block.language!r}: run, quote or mark it"
        for page in pages
        for block in page.blocks()
        if not (block.runs or block.note or block.language == "text")
    ]
    assert wrong == []


def test_no_block_hides_from_the_check(pages: list[Page]) -> None:
    """Indented code, and fences within lists and quotes, are no blocks that can be run."""
    wrong = [
        f"{page.name}:{(token.map or [0])[0] + 1}"
        for page in pages
        for token in page.tokens()
        if token.type == "code_block" or (token.type == "fence" and token.level)
    ]
    assert wrong == []


def test_few_blocks_are_marked(pages: list[Page]) -> None:
    """Those of any language: what is YAML, and what nobody prints, is not run either."""
    blocks = [block for page in pages for block in page.blocks() if block.language in RUN]
    counted = [block for block in blocks if not block.note.startswith("from")]
    marked = [b for page in pages for b in page.blocks() if b.note == "not run"]
    print(f"{len(counted)} blocks of shell and Python, {len(marked)} of them marked")
    assert len(marked) < 0.05 * len(counted), [block.text for block in marked]
    assert all(len(block.about.split()) >= 4 for block in marked)


def test_no_command_of_a_block_fails_unseen(pages: list[Page]) -> None:
    """A shell that ends at the first failure passes over one in a chain and over what `!` turns
    round: one command a line, and `cmd || echo "Exit code: $?"` where one is meant to fail."""
    wrong = [
        f"{page.name}:{block.line}: {line}"
        for page in pages
        for block in page.blocks()
        if block.runs and block.language == "sh"
        for line in block.text.splitlines()
        if _passes_over(line) or ("||" in line and block.printed is None)
    ]
    assert wrong == []


def _passes_over(line: str) -> bool:
    turned = r"(?:^|[;&|({]|\b(?:then|do|else))\s*!\s"
    lost = r"\b(?:export|readonly|local)\s.*\$\("  # what `$(...)` ends with
    kept = r"\|\|(?!\s*echo\b.*\$\?)"
    return re.search(f"&&|{turned}|{lost}|{kept}", line) is not None


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("false && true", True),
        ("! true", True),
        ("true; ! true", True),
        ('export A="$(false)"', True),
        ('A="$(false)"', False),
        ("test ! -e a", False),
        ("false || true", True),
        ('false || echo "Exit code: $?"', False),
        ("echo Done!", False),
    ],
)
def test_a_command_that_would_fail_unseen_is_found(line: str, hidden: bool) -> None:
    assert _passes_over(line) == hidden


def test_quotations_stand_in_their_files(pages: list[Page]) -> None:
    with scratch() as folder:
        wrong = [
            f"{page.name}:{block.line}: {block.about} says something else"
            for page in pages
            for block in page.blocks()
            if block.note.startswith("from")
            and not (_quotes(block) and _stands(block, _source(block, folder)))
        ]
    assert wrong == []


_LEFT_OUT = re.compile(r"^[ \t]*(?:# )?…[ \t]*$", re.M)


def _quotes(block: Block) -> bool:
    """Whether something is quoted, and that not from a page, which may say what it likes."""
    page = block.about.removesuffix(".jinja").endswith(".md")
    return not page and _LEFT_OUT.sub("", block.text).strip() != ""


@pytest.mark.parametrize(
    ("text", "about", "quotes"),
    [
        ("all: test\n", "Makefile", True),
        ("…\nall: test\n…\n", "Makefile", True),
        ("…\n", "Makefile", False),
        ("  # …\n\n…\n", "Makefile", False),
        ("\n", "Makefile", False),
        ("make test\n", "README.md", False),
        ("make test\n", "tkt-rag-agent/README.md.jinja", False),
    ],
)
def test_a_page_or_nothing_is_no_quotation(text: str, about: str, quotes: bool) -> None:
    assert _quotes(Block("sh", text, 1, "from", about, None)) == quotes


def _source(block: Block, folder: str) -> Path:
    if block.note == "from":
        return ROOT / block.about
    return _app(block.note.removeprefix("from rendered "), folder) / block.about


@cache
def _app(template: str, folder: str) -> Path:
    from tools.docs.pages import rendered

    return rendered(template, Path(folder)).parent


def _stands(block: Block, file: Path) -> bool:
    """Whether its parts stand there in their order; how far all of a part is indented is free."""
    if not file.is_file():
        return False
    lines = [line.rstrip() for line in file.read_text().splitlines()]
    after = 0
    for part in _LEFT_OUT.split(block.text):
        wanted = part.strip("\n").splitlines()
        found = [n for n in range(after, len(lines)) if _begins(wanted, lines[n:])]
        if not found:
            return False
        after = found[0] + len(wanted)
    return True


def _begins(wanted: list[str], lines: list[str]) -> bool:
    if len(lines) < len(wanted):
        return False
    least = min((len(w) - len(w.lstrip()) for w in wanted if w.strip()), default=0)
    indent = next((len(x) - len(x.lstrip()) for x in lines if x), 0)
    first = next((len(w) - len(w.lstrip()) for w in wanted if w.strip()), 0)
    shift = indent - first
    return all(
        line == ((" " * (least + shift) + w[least:]).rstrip() if w.strip() else "")
        for w, line in zip(wanted, lines, strict=False)
    )


def test_links_lead_somewhere(pages: list[Page]) -> None:
    wrong = [
        f"{page.name}:{line}: {target}"
        for page in pages
        for line, target in page.links()
        if not target.startswith(("http://127", "https://", "mailto:")) and not _leads(page, target)
    ]
    assert wrong == []


def _leads(page: Page, target: str) -> bool:
    path, _, anchor = unquote(target).partition("#")
    file = Path(normpath(page.path.parent / path)) if path else page.path
    if not _is_kept(file, page):
        return False
    return not anchor or (file.suffix == ".md" and anchor in Page(file, path).anchors())


def _is_kept(path: Path, page: Page) -> bool:
    """Whether somebody who has cloned the page's repository has it too."""
    if page.path.is_relative_to(ROOT):
        return path in _kept() and path.exists()
    depth = page.name.split(": ")[-1].count("/")
    return path.is_relative_to(page.path.parents[depth]) and path.exists()


@cache
def _kept() -> set[Path]:
    """The files that git knows or would add, and their folders."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    files = {ROOT / name for name in done.stdout.split("\0") if name}
    folders = {above for file in files for above in file.parents}
    return files | {folder for folder in folders if folder.is_relative_to(ROOT)}


def test_a_link_to_what_git_ignores_leads_nowhere(tmp_path: Path) -> None:
    page = Page(ROOT / "README.md", "README.md")
    assert _leads(page, "docs/")
    assert _leads(page, "docs/index.md")
    assert (ROOT / ".venv").exists()
    assert not _leads(page, ".venv/bin/python")
    assert not _leads(page, "../")
    app = Page(tmp_path / "app" / "ops" / "README.md", "tkt-x, rendered: ops/README.md")
    app.path.parent.mkdir(parents=True)
    app.path.touch()
    (tmp_path / "app" / "thinkube.yaml").touch()
    (tmp_path / "beside").touch()
    assert _leads(app, "../thinkube.yaml")
    assert not _leads(app, "../../beside")


@pytest.mark.parametrize(
    ("link", "trouble"),
    [
        ('<a href="..">home</a>', ""),
        ('<a href="../page/#here">here</a>', ""),
        ('<a href="https://example.org/">elsewhere</a>', ""),
        ('<a href="../other/">nowhere</a>', "which is not there"),
        ('<a href="../page.md">not made a link of the site</a>', "which is not there"),
        ('<a href="#there">no such place</a>', "which is not there"),
        ('<img src="missing.png">', "which is not there"),
        ('<a href="../../README.md">out of it</a>', "which is not on the site"),
        ('<area href="../../">out of it</area>', "which is not on the site"),
        ('<a href="/etc/">of this machine</a>', "which is not on the site"),
        ('<img src="https://example.org/a.png">', "asks for https://example.org/a.png"),
    ],
)
def test_a_site_with_a_dead_link_is_refused(link: str, trouble: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    site = tmp_path / "site"
    (site / "page").mkdir(parents=True)
    (site / "index.html").write_text("<p>home</p>")
    (site / "page" / "index.html").write_text(f'<h1 id="here">A page</h1>{link}')
    items = [{"location": place, "text": KNOWN} for place in ("", "page/")]
    (site / "search.json").write_text(json.dumps({"items": items}))
    found = troubles(site)
    assert trouble in found[0] if trouble else not found, found
    assert len(found) == bool(trouble)


def test_the_platform_is_cited_at_commits_that_were_read(pages: list[Page]) -> None:
    cited = [
        (page.name, target)
        for page in pages
        for _, target in page.links()
        if "github.com/thinkube/" in target
    ]
    at = re.compile(r"github\.com/thinkube/[\w-]+/(?:blob|tree|commit)/(\w+)")
    wrong = [c for c in cited if not ((found := at.search(c[1])) and found[1][:7] in COMMITS)]
    assert wrong == []
    assert cited


SUFFIXES = {
    ".py", ".json", ".md", ".yaml", ".yml", ".ipynb", ".jsonl", ".toml", ".css", ".dot", ".svg",
    ".png",
}  # fmt: skip
"""Of what is a file, wherever it is said to lie."""
ELSEWHERE = {
    ".copier-answers.yml",  # Copier, in a rendered app
    "DEVELOPMENT.md",  # the platform, beside it
    "k8s",  # the platform, too
    "data",  # an app, where DATA_DIR says nothing else
    "config.json",  # of a model of the hub
    "scripts/deploy_application.py",  # of thinkube-control
    "baseline/answers.jsonl",  # make legal-qa, and the three below
    "train.jsonl",
    "gate/decisions.json",
    "deployed/rolled-back.json",
}
"""Files and folders that this repository does not hold, and who makes them."""


def test_paths_and_tests_that_pages_name_exist(pages: list[Page]) -> None:
    wrong = [
        f"{page.name}: {span}"
        for page in pages
        for span in _code_spans(page)
        for word in span.split()
        if not _is_there(word, page)
    ]
    assert wrong == []


def test_what_lies_elsewhere_is_named_by_a_page(pages: list[Page]) -> None:
    words = {word for page in pages for span in _code_spans(page) for word in span.split()}
    firsts = {word.split("/")[0] for word in words}
    assert ELSEWHERE - words - firsts == set(), "no page names them any more"


@pytest.mark.parametrize(
    ("word", "there"),
    [
        ("tests/test_docs.py::test_links_lead_somewhere", True),
        ("tests/test_docs.py::test_links_lead_nowhere", False),
        ("agent/chain.py", True),
        ("agents/chain.py", False),
        ("chain.py", True),
        ("chains.py", False),
        ("k8s/deployments.yaml", True),
        ("owner/name", True),
        (".venv/dev", True),
        (".venv/pyproject.toml", False),
    ],
)
def test_a_path_that_is_not_there_is_found(word: str, there: bool) -> None:
    assert _is_there(word, Page(ROOT / "README.md", "README.md")) == there


@pytest.mark.parametrize(
    ("span", "unknown"),
    [
        ("make test-long", set()),
        ("make demo TEMPLATE=tkt-x PORT=7861", set()),
        ("make PYTHON=python3.12 demo", set()),
        ("make .venv/dev", set()),
        ("make tests", {"tests"}),
        ("python -m agent.doctor --help", set()),
        ("python -m agent.nurse", {"nurse"}),
        ("agent.nurse", {"nurse"}),
        ("my-agent.example.org", set()),
    ],
)
def test_a_command_that_is_not_there_is_found(span: str, unknown: set[str]) -> None:
    assert _unknown_targets(span) | _unknown_modules(span) == unknown


def test_commands_that_pages_name_exist(pages: list[Page]) -> None:
    wrong = [
        f"{page.name}: {span}"
        for page in pages
        for span in _code_spans(page)
        if _unknown_modules(span) or _unknown_targets(span)
    ]
    assert wrong == []


def _unknown_modules(span: str) -> set[str]:
    """Those of `agent` that no app has."""
    named = set(re.findall(r"(?<![\w./-])agent\.([a-z_]+)\b", span))
    return named - _modules()


def _unknown_targets(span: str) -> set[str]:
    if not span.startswith("make "):
        return set()
    words = span.partition("#")[0].split()[1:]
    return {word for word in words if re.fullmatch(r"[\w./-]+", word)} - _targets()


@cache
def _modules() -> set[str]:
    return {path.stem for path in ROOT.glob("tkt-*/{{app_name}}/agent/*.py")}


@cache
def _targets() -> set[str]:
    """The commands of the Makefile, and the files that it makes."""
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", text, flags=re.M)
    files = re.findall(r"^(\.venv/\w+):", text, flags=re.M)
    return {*" ".join(phony).replace("\\", " ").split(), *files}


def _code_spans(page: Page) -> Iterator[str]:
    for token in page.tokens():
        for part in token.children or []:
            if part.type == "code_inline":
                yield part.content


def _is_there(word: str, page: Page) -> bool:
    """True, too, of what is neither a path nor a test."""
    if not re.fullmatch(r"[\w./{}:-]+", word):
        return True
    is_path = "/" in word or Path(word).suffix in SUFFIXES
    return (_path_is_there(word, page) if is_path else True) and _test_is_there(word)


def _path_is_there(span: str, page: Page) -> bool:
    """True of what looks like no path in this repository or in an app."""
    path, _, test = span.rstrip("/").partition("::")
    first = path.split("/")[0]
    apps = [ROOT / t / "{{app_name}}" for t in TEMPLATES] + [ROOT / t for t in TEMPLATES]
    theirs = {entry.name for app in apps for entry in app.iterdir()}
    ours = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    is_file = Path(path).suffix in SUFFIXES
    if path in ELSEWHERE or first in ELSEWHERE or (first not in ours | theirs and not is_file):
        return True
    found = _found(path, page, apps)
    return bool(found) and (not test or any(f"def {test}(" in file.read_text() for file in found))


def _found(path: str, page: Page, apps: list[Path]) -> list[Path]:
    """What is meant: from the root, beside the page, in an app; a bare name is one anywhere."""
    names = (path, f"{path}.jinja")
    if "/" not in path and (there := [file for file in _kept() if file.name in names]):
        return there
    places = [Path(normpath(h / n)) for h in (ROOT, page.path.parent, *apps) for n in names]
    return [p for p in places if p in _kept() or (_is_kept(p, page) and not p.is_relative_to(ROOT))]


def _test_is_there(span: str) -> bool:
    if not re.fullmatch(r"test_\w+(\.py)?", span):
        return True
    if span.endswith(".py"):
        return (ROOT / "tests" / span).exists() or any(ROOT.glob(f"tkt-*/*/tests/**/{span}"))
    return f"def {span}(" in _tests()


@cache
def _tests() -> str:
    found = [*(ROOT / "tests").glob("test_*.py"), *ROOT.glob("tkt-*/*/tests/**/test_*.py")]
    return "\n".join(path.read_text() for path in found)


def test_every_picture_is_shown_and_every_diagram_drawn() -> None:
    pictures = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    shown = {Path(target).name for page in collection() for _, target in page.links()}
    assert pictures - shown == set(), "pictures that no page shows"
    for source in (ROOT / "docs" / "diagrams").glob("*.dot"):
        assert f"{source.stem}.svg" in pictures, f"{source.name} is not drawn: make docs"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_readme_of_an_app_takes_two_minutes(template: str, pages: list[Page]) -> None:
    """The table of wishes is looked up, and not read."""
    page = next(p for p in pages if p.name == f"{template}, rendered: README.md")
    text = re.sub(r"^```.*?^```", "", page.text, flags=re.M | re.S)
    text = re.sub(r"^\| I want to .*?\n(?!\|)", "", text, flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)|[|#*-]", " ", text)
    words = len([word for word in text.split() if re.search(r"\w", word)])
    assert words <= 2 * WORDS_A_MINUTE, f"{words} words take {words / WORDS_A_MINUTE:.1f} minutes"
    assert "| I want to" in page.text
