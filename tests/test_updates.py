"""`copier update` from each release: the bytes of a fresh copy, and no edit lost silently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rendering import TEMPLATES, commit_all
from tests.updating import (
    ANSWERS,
    HERE,
    HOSTILE,
    PLACES,
    ROADS,
    Source,
    Tree,
    as_it_lies,
    at_commit,
    edit,
    kept,
    losses,
    marked,
    named,
    next_version,
    row,
    tree,
    update,
)
from tools.releases import released

long = pytest.mark.long
RELEASED = [(template, version) for template in TEMPLATES for version in released(template)]
RAG, CREW, VLLM = "tkt-rag-agent", "tkt-crewai-agent", "tkt-vllm-gradio"
FRESH = {(RAG, HERE, "root"), (VLLM, HOSTILE, "published")}
EDITED = {(RAG, HERE, "published"), (CREW, HOSTILE, "platform")}


def _ways(quick: set[tuple[str, str, str]]) -> list[object]:
    """Every combination; those that are not quick are for `make test-long`."""
    return [
        pytest.param(template, version, to, road, copier, marks=[] if short else [long])
        for template, version in RELEASED
        for to in (HERE, HOSTILE)
        for road in ROADS
        for copier in ("newest", "9.4.1")
        for short in [copier == "newest" and (template, to, road) in quick]
    ]


@pytest.mark.parametrize(("template", "version", "to", "road", "copier"), _ways(FRESH))
def test_an_update_gives_the_bytes_of_a_fresh_copy(
    template: str, version: str, to: str, road: str, copier: str, tmp_path: Path
) -> None:
    source = _released(template, version, road, tmp_path)
    app = source.render(tmp_path / "app")
    commit_all(app)
    before = tree(app)
    source.release(next_version(template, to, tmp_path / "new"), "99.0.0")
    update(app, copier)
    after, fresh = tree(app), tree(source.render(tmp_path / "fresh"))
    own = {*kept(template), ANSWERS}
    assert _without(after, own) == _without(fresh, own)
    assert {name: after[name] for name in own & {*before}} == {
        name: before[name] for name in own & {*before} if name != ANSWERS
    } | {ANSWERS: fresh[ANSWERS]}


@pytest.mark.parametrize(("template", "version", "to", "road", "copier"), _ways(EDITED))
def test_no_typical_edit_is_lost_silently(
    template: str, version: str, to: str, road: str, copier: str, tmp_path: Path
) -> None:
    found = row(template, version, to, road, tmp_path, copier)
    assert found.lost == {}
    # Copier marks no more than this; where only the owner changed a file, it loses Latin-1 alone.
    assert found.fates.get("named", 0) <= (4 if to == HOSTILE else 1)
    assert found.fates.get("conflicted", 0) >= (10 if to == HOSTILE else 0)
    assert found.fates["survived"] >= (5 if to == HOSTILE else 19)


@pytest.mark.parametrize(
    "template", [VLLM, pytest.param(RAG, marks=long), pytest.param(CREW, marks=long)]
)
def test_the_same_answers_give_the_same_bytes(template: str, tmp_path: Path) -> None:
    source = _source(template, "platform", tmp_path)
    source.release(as_it_lies(tmp_path / "new"), "99.0.0")
    assert tree(source.render(tmp_path / "first")) == tree(source.render(tmp_path / "second"))


def test_an_update_refuses_to_begin_with_uncommitted_edits(tmp_path: Path) -> None:
    source = _released(RAG, "0.1.0", "published", tmp_path)
    app = source.render(tmp_path / "app")
    commit_all(app)
    edit(app)
    before = tree(app)
    source.release(as_it_lies(tmp_path / "new"), "99.0.0")
    with pytest.raises(Exception, match="is dirty; cannot continue"):
        update(app)
    assert tree(app) == before


def test_the_counter_sees_every_edit_that_is_taken_back(tmp_path: Path) -> None:
    source = _released(RAG, "0.1.0", "published", tmp_path)
    app = source.render(tmp_path / "app")
    base = tree(app)
    edits = edit(app)
    mine = tree(app)
    found = losses(base, mine, base, base, set())
    assert {path for paths in edits.values() for path in paths} == {*found}
    assert losses(base, mine, mine, base, set()) == {}
    page, _ = PLACES["changed page"]
    marks = mine | {page: ("file", base[page][1] + mine[page][1])}
    assert {*losses(base, mine, marks, base, set())} == {page}, "lines came back without a mark"
    assert losses(base, mine, marks, base, {page}) == {}


def _source(template: str, road: str, folder: Path) -> Source:
    return Source(folder / "source.git", template, road)


def _released(template: str, version: str, road: str, folder: Path) -> Source:
    source = _source(template, road, folder)
    source.release(at_commit(released(template)[version], folder / "old"), version)
    return source


def _without(files: Tree, names: set[str]) -> Tree:
    return {name: entry for name, entry in files.items() if name not in names}


LINES = st.text("abc #=é\t", max_size=12).map(str.encode) | st.sampled_from(
    [b"caf\xe9", b"\0", b""]
)
Edit = Callable[[Path], None]
"""Changes one file of an app, or its name."""
Script = list[tuple[float, Edit]]
"""Where among the app's files, from 0 to 1, and what is done there."""


def _insert(place: float, line: bytes, path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    at = round(place * len(lines))
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))


def _replace(place: float, line: bytes, path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[round(place * (len(lines) - 1))] = line
    path.write_bytes(b"\n".join(lines))


def _cut(place: float, count: int, path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    at = round(place * len(lines))
    path.write_bytes(b"\n".join(lines[:at] + lines[at + count :]))


def _windows(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"my-{path.name}"))


def _add(line: bytes, path: Path) -> None:
    path.with_name("new my own.txt").write_bytes(line)


def _run(path: Path) -> None:
    path.chmod(0o755)


PLACE = st.floats(0, 1)
EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(partial, st.just(_insert), PLACE, LINES),
    st.builds(partial, st.just(_replace), PLACE, LINES),
    st.builds(partial, st.just(_cut), PLACE, st.integers(1, 30)),
    st.builds(partial, st.just(_add), LINES),
    st.sampled_from([_windows, _rename, _run, Path.unlink]),
)
SCRIPTS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), EDITS), min_size=1, max_size=8)
FEW = [
    "agent/prompts.py",
    "agent/icon.png",
    "agent/page.css",
    "agent/measures.py",
    "agent/cards.py",
    "agent/doctor.py",
    "agent/settings.py",
    "api.py",
    "ui.py",
    "app.env.jinja",
    "Dockerfile.jinja",
    "Containerfile",
    "requirements.txt",
    ".dockerignore",
    "golden.jsonl",
    "tests/test_settings.py",
]
"""Of the app, in the quick run: what an update costs goes with the number of files."""


def _live_through(script: Script, template: str, world: Path) -> None:
    """Make the edits in a copy of the app, update it, and let nothing be lost silently."""
    with TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        shutil.copytree(world / "app", app, symlinks=True)
        for place, change in script:
            names = [name for name, entry in tree(app).items() if entry[0] != "link"]
            names.remove(ANSWERS)
            change(app / names[int(place * len(names))])
        commit_all(app)
        mine = tree(app)
        update(app)
        base, newer = tree(world / "app"), tree(world / "newer")
        found = losses(base, mine, tree(app), newer, marked(app))
        if found:
            told = named(app, template)
            assert {path: why for path, why in found.items() if path not in told} == {}


def _world(template: str, files: list[str], folder: Path) -> None:
    """An app of the first release, and a hostile next one; of the app's folder only `files`."""
    version = next(iter(released(template)))
    source = _source(template, "published", folder)
    old, new = folder / "old", folder / "new"
    at_commit(released(template)[version], old)
    next_version(template, HOSTILE, new)
    for collection in (old, new) if files else ():
        _thin(collection / template / "{{app_name}}", files)
    source.release(old, version)
    source.render(folder / "app")
    commit_all(folder / "app")
    source.release(new, "99.0.0")
    source.render(folder / "newer")


def _thin(app: Path, files: list[str]) -> None:
    for name in tree(app):
        if name not in files and "my" not in name and "meters" not in name:
            (app / name).unlink()


def test_no_random_edit_is_lost_silently(tmp_path: Path) -> None:
    _world(RAG, FEW, tmp_path)

    @settings(max_examples=5, derandomize=True, deadline=None, database=None)
    @given(SCRIPTS)
    def live(script: Script) -> None:
        _live_through(script, RAG, tmp_path)

    live()


@long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_random_edit_is_lost_silently_in_a_whole_app(template: str, tmp_path: Path) -> None:
    _world(template, [], tmp_path)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SCRIPTS)
    def live(script: Script) -> None:
        _live_through(script, template, tmp_path)

    live()
