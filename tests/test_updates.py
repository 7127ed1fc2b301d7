"""`copier update` from each release: the bytes of a fresh copy, and no edit lost silently."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parts.programs import call
from tests.rendering import TEMPLATES, commit_all, copier
from tests.updating import (
    ANSWERS,
    APP,
    AT_MOST,
    HERE,
    HOSTILE,
    PLATFORM,
    ROADS,
    Source,
    Tree,
    as_it_lies,
    at_commit,
    change_line,
    commands,
    edit,
    follow,
    kept,
    losses,
    marked,
    merged,
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
    """Every combination, with the old Copier for one template; those that are not quick are for
    `make test-long`. An owner is told to update with the newest."""
    return [
        pytest.param(template, version, to, road, copier, marks=[] if short else [long])
        for template, version in RELEASED
        for to in (HERE, HOSTILE)
        for road in ROADS
        for copier in (("newest", "9.4.1") if template == RAG else ("newest",))
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
    assert found.fates.get("named", 0) <= AT_MOST[to]
    assert found.fates.get("conflicted", 0) >= (10 if to == HOSTILE else 0)
    assert found.fates["survived"] >= (5 if to == HOSTILE else 19)


@pytest.mark.parametrize(
    "template", [VLLM, pytest.param(RAG, marks=long), pytest.param(CREW, marks=long)]
)
def test_the_same_answers_give_the_same_bytes(template: str, tmp_path: Path) -> None:
    source = _source(template, "platform", tmp_path)
    source.release(as_it_lies(tmp_path / "new"), "99.0.0")
    data = [part for name, value in PLATFORM.items() for part in ("--data", f"{name}={value}")]
    ask = [copier(), "copy", "--force", "--quiet", "--vcs-ref=HEAD", *data, source.address]
    for seed in ("1", "2"):
        call([*ask, seed], tmp_path, {**os.environ, "PYTHONHASHSEED": seed})
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


@pytest.mark.parametrize("gone", ["tests/test_split.py", "golden.jsonl"])
def test_kept_files_stay_also_where_the_owner_deleted_a_file(gone: str, tmp_path: Path) -> None:
    """Copier looks at what is kept before it knows the answers, and then alone."""
    source = _released(RAG, "0.1.0", "published", tmp_path)
    app = source.render(tmp_path / "app")
    (app / APP / gone).unlink()
    own = {name for name in kept(RAG) if (app / name).exists()}
    for name in own:
        (app / name).write_bytes(b"mine\n")
    commit_all(app)
    source.release(next_version(RAG, HOSTILE, tmp_path / "new"), "99.0.0")
    update(app)
    assert {name: (app / name).read_bytes() for name in own} == dict.fromkeys(own, b"mine\n")


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


MARKED = b"<<<<<<< before updating\nmine\n=======\ntheirs\n>>>>>>> after updating\n"


@pytest.mark.parametrize(
    ("was", "own", "new", "now"),
    [
        (b"a\nb\nc\n", b"a\nb\nc\na\n", b"a\nb\nc\n", b"a\nb\nc\n"),
        (b"a\nb\nc\nd\n", b"a\nc\nb\nd\n", b"a\nb\nc\nd\n", b"a\nb\nc\nd\n"),
        (b"a\nb\n", b"a\n\nb\n", b"a\nb\n", b"a\nb\n"),
        (
            b"gone\nb\nc\nd\nline\n",
            b"b\nc\nd\nmine\n",
            b"gone\nb\nc\nd\ntheirs\n",
            b"gone\nb\nc\nd\n" + MARKED,
        ),
        (
            b"b\nc\nd\nline\n",
            b"added\nb\nc\nd\nmine\n",
            b"b\nc\nd\ntheirs\n",
            b"b\nc\nd\n" + MARKED,
        ),
    ],
    ids=["one more of a line", "other order", "a blank line", "one that came back", "an added one"],
)
def test_the_counter_sees_a_loss(was: bytes, own: bytes, new: bytes, now: bytes) -> None:
    """The last two lie beside a conflict, which excuses nothing outside its marks."""
    base, mine, newer, after = ({"page": ("file", text)} for text in (was, own, new, now))
    for conflicts in (set[str](), {"page"}):
        assert {*losses(base, mine, after, newer, conflicts)} == {"page"}
    wanted, _ = merged(was, own, new)
    assert losses(base, mine, {"page": ("file", wanted)}, newer, {"page"}) == {}


def test_marks_that_git_does_not_show_are_a_loss() -> None:
    base, mine, newer = ({"page": ("file", text)} for text in (b"line\n", b"mine\n", b"theirs\n"))
    after = {"page": ("file", MARKED)}
    assert losses(base, mine, after, newer, {"page"}) == {}
    assert {*losses(base, mine, after, newer, set())} == {"page"}


def _source(template: str, road: str, folder: Path) -> Source:
    return Source(folder / "source.git", template, road)


def _released(template: str, version: str, road: str, folder: Path) -> Source:
    source = _source(template, road, folder)
    source.release(at_commit(released(template)[version], folder / "old"), version)
    return source


def _without(files: Tree, names: set[str]) -> Tree:
    return {name: entry for name, entry in files.items() if name not in names}


LINES = st.text("abc #=é\t", min_size=1, max_size=12).map(str.encode) | st.sampled_from(
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


CHECK = commands(RAG, "Check it")[0]


@pytest.fixture
def updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app with an update that is not committed and that took a file with an edit away."""
    _world(RAG, ["agent/page.css"], tmp_path)
    app = tmp_path / "app"
    change_line(app / APP / "agent" / "page.css", r"\{$", "{} /* mine */")
    commit_all(app)
    update(app)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return app


def _state(app: Path) -> tuple[Tree, str, str, list[str]]:
    """All that a check must leave alone: the files, the index, the worktrees and the temporary."""
    status, trees = (
        call(["git", *words], app) for words in (["status", "-s"], ["worktree", "list"])
    )
    return tree(app), status, trees, os.listdir(app.parent / "tmp")


def test_the_check_names_what_was_taken_and_leaves_nothing_behind(updated: Path) -> None:
    left_over = updated.parent / "as-it-was" / ".copier-answers.yml"
    left_over.parent.mkdir()
    left_over.write_text("of another day")
    before = _state(updated)
    for shell in ("sh", "bash"):
        done = follow(CHECK, updated, shell)
        assert (done.stdout, done.stderr, done.returncode) == (f"{APP}/agent/page.css\n", "", 0)
        assert _state(updated) == before
    assert left_over.read_text() == "of another day"


def _no_worktree(app: Path) -> None:
    (app / ".git" / "worktrees").write_text("")


def _no_template(app: Path) -> None:
    (app.parent / "source.git").rename(app.parent / "moved.git")


def _no_folder(app: Path) -> None:
    os.environ["TMPDIR"] = str(app / "none")


def test_a_check_that_fails_says_so_and_leaves_the_app_as_it_is(updated: Path) -> None:
    for trouble, said in (
        (_no_template, "source.git"),
        (_no_worktree, "could not create leading directories"),
        (_no_folder, "No such file"),
    ):
        trouble(updated)
        before = _state(updated)
        for shell in ("sh", "bash"):
            done = follow(CHECK, updated, shell)
            assert (done.returncode > 0, done.stdout) == (True, "")
            assert said in done.stderr
            assert _state(updated) == before


def test_an_answer_that_is_refused_now_shows_in_the_answers_and_is_given_anew(
    tmp_path: Path,
) -> None:
    """As UPGRADING.md says; Copier takes the default in its place without a word."""
    _world(RAG, ["agent/page.css"], tmp_path)
    app, ask = tmp_path / "old-app", [copier(), "copy", "--defaults", "--quiet", "--vcs-ref=v0.1.0"]
    answers = ["--data", f"project_name={APP}", "--data", "domain_name=a..b"]
    call([*ask, *answers, f"git+file://{tmp_path}/source.git", app])
    commit_all(app)
    update(app)
    shown = call(["git", "diff", "HEAD", "--", ANSWERS], app)
    assert "-domain_name: a..b" in shown
    assert "+domain_name: thinkube.local" in shown
    call(["git", "reset", "--quiet", "--hard"], app)
    call(["git", "clean", "--quiet", "--force"], app)
    data = [f"--data={host}=example.org" for host in ("domain_name", "container_registry")]
    call([copier(), "update", "--defaults", "--quiet", *data], app)
    shown = call(["git", "diff", "HEAD", "--", ANSWERS], app)
    assert "+domain_name: example.org" in shown
    assert "+container_registry: example.org" in shown


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

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SCRIPTS)
    def live(script: Script) -> None:
        _live_through(script, template, tmp_path)

    live()
