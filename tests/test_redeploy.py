"""The platform's own two calls of Copier, word for word, twice over the same folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.rendering import OLDEST_LONG, ROOT, TEMPLATES, call, commit_all, copier, files
from tests.updating import (
    OWN,
    PLATFORM,
    WHOLE,
    Source,
    Tree,
    as_it_lies,
    at_commit,
    commands,
    edit,
    kept,
    losses,
    tree,
    update,
)
from tools.releases import released

OLDER = {
    "project_name": "demo-app",
    "project_description": "",
    "domain_name": "example.org",
    "container_registry": "registry.example.org",
    "author_name": "Thinkube User",
    "author_email": "user@example.org",
}
NEWER = PLATFORM


@pytest.fixture(scope="module", params=TEMPLATES)
def published(request, tmp_path_factory) -> Path:
    """The template as a repository of its own."""
    repository = tmp_path_factory.mktemp("template") / "published"
    shutil.copytree(
        ROOT / request.param,
        repository,
        symlinks=True,
        ignore=shutil.ignore_patterns("*_cache", "__pycache__", "data"),
    )
    commit_all(repository)
    return repository


@pytest.fixture(scope="module", params=OLDEST_LONG)
def program(request) -> str:
    return copier(request.param)


@pytest.fixture(scope="module")
def deployed(program, published, tmp_path_factory) -> Path:
    """An app of 2026, committed."""
    app = tmp_path_factory.mktemp("deployed") / "app"
    newer(program, published, app)
    commit_all(app)
    return app


@pytest.fixture
def app(deployed, tmp_path) -> Path:
    """It again, for a test to change."""
    return shutil.copytree(deployed, tmp_path / "app", symlinks=True)


def older(program: str, source: Path, to: Path) -> None:
    """2025-11: trusted; the folder was deleted before."""
    data = [f"--data={name}={value}" for name, value in OLDER.items()]
    call([program, "copy", "--trust", "--defaults", "--vcs-ref=HEAD", *data, str(source), str(to)])


def newer(program: str, source: Path, to: Path) -> None:
    """2026: not trusted; over the repository as it is."""
    data = [part for name, value in NEWER.items() for part in ("--data", f"{name}={value}")]
    call([program, "copy", "--force", "--vcs-ref=HEAD", str(source), str(to), *data])


def test_both_calls_give_the_same_app(program, published, deployed, tmp_path):
    older(program, published, tmp_path / "older")
    assert files(tmp_path / "older") == files(deployed)


def test_a_redeploy_without_edits_changes_nothing(program, published, app):
    """Nor what the platform wrote."""
    (app / "k8s").mkdir()
    (app / "k8s" / "deployments.yaml").write_text("kind: Deployment\n")
    commit_all(app)
    before = files(app)
    newer(program, published, app)
    assert files(app) == before


def test_a_redeploy_keeps_what_the_readme_says_it_keeps(program, published, app):
    there = files(app / "demo-app")
    stay = [n for n in ("agent/prompts.py", "app.env", "golden.jsonl") if n in there]
    lost = ["agent/runs.py", "app.py", "ui.py", "Dockerfile", "requirements.txt"]
    for name in [*stay, *lost, "agent/my_own_tool.py", "agent/my-own.txt"]:
        path = app / "demo-app" / name
        path.write_text(path.read_text() + "\n# mine\n" if path.exists() else "# mine\n")
    commit_all(app)
    newer(program, published, app)
    mine = {name for name, data in files(app / "demo-app").items() if data.endswith(b"# mine\n")}
    assert mine - {"Containerfile"} == {*stay, "agent/my_own_tool.py", "agent/my-own.txt"}
    page = (app / "OPERATING.md").read_text()
    row = next(line for line in page.splitlines() if "stay as you edited them" in line)
    stay.append("agent/icon.png")
    assert all(f"`{name}`" in row for name in stay)
    short = (app / "README.md").read_text().partition("- A redeploy")[2].partition("\n- ")[0]
    assert all(f"`{name.removeprefix('agent/')}`" in short for name in stay)


NEWEST = copier()


def quickly(template: str) -> pytest.MarkDecorator:
    """One template in `make test`, the others in `make test-long`."""
    others = [pytest.param(name, marks=pytest.mark.long) for name in TEMPLATES if name != template]
    return pytest.mark.parametrize("published", [template, *others], indirect=True)


def follow(app: Path, template: str, block: int, **names: str) -> None:
    """Run a block of UPGRADING.md's commands about redeploys, with what they call by a name."""
    who = {"GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    who |= {"GIT_COMMITTER_NAME": "Test", "GIT_COMMITTER_EMAIL": "test@example.org"}
    script = commands(template, "Do not redeploy to update")[block]
    call(["sh", "-euc", script], app, {**os.environ, **who, **names})


def redeployed(published: Path, app: Path) -> tuple[Tree, Tree, str]:
    """An app with the typical edits, copied over as in 2026: what it was made of, what it was, and
    the commit of the redeploy."""
    newer(NEWEST, published, app)
    base = tree(app)
    edit(app)
    commit_all(app, "Edits")
    mine = tree(app)
    newer(NEWEST, published, app)
    commit_all(app, "Redeploy")
    return base, mine, call(["git", "rev-parse", "HEAD"], app).strip()


@quickly("tkt-crewai-agent")
def test_a_redeploy_overwrites_no_edit_that_git_does_not_show(published, tmp_path, request):
    app = tmp_path / "app"
    base, mine, commit = redeployed(published, app)
    overwritten = {*losses(base, mine, tree(app), base, set())}
    changed = {name for name in {*base, *mine} if base.get(name) != mine.get(name)}
    template = request.node.callspec.params["published"]
    stay = {*kept(template), *OWN, "demo-app/agent/who.py"}
    assert overwritten == changed - stay
    shown = call(["git", "diff", "--no-renames", "--name-only", "HEAD~1"], app).split("\n")
    assert overwritten == {*filter(None, shown)}
    assert tree(app)[WHOLE] == mine[WHOLE]

    follow(app, template, 1, COMMIT=commit, FILE="demo-app/ui.py")
    assert tree(app)["demo-app/ui.py"] == mine["demo-app/ui.py"]
    call(["git", "checkout", "--quiet", "HEAD", "--", "."], app)
    follow(app, template, 0, COMMIT=commit)
    assert tree(app) == mine


@quickly("tkt-rag-agent")
def test_edits_outlive_a_redeploy_of_2025_in_a_copy_elsewhere(published, tmp_path, request):
    template = request.node.callspec.params["published"]
    app, copy = tmp_path / "app", tmp_path / "copy.git"
    older(NEWEST, published, app)
    edit(app)
    commit_all(app, "Edits")
    mine = tree(app)
    call(["git", "init", "--quiet", "--bare", "-b", "main", copy])
    follow(app, template, 2, URL=str(copy))

    shutil.rmtree(app)
    older(NEWEST, published, app)
    commit_all(app, "Deploy")
    assert not {*OWN} & {*tree(app)}, "2025 keeps nothing"
    follow(app, template, 3, URL=str(copy), FILE="demo-app")
    brought = {name: entry for name, entry in mine.items() if name.startswith("demo-app/")}
    assert {name: tree(app)[name] for name in brought} == brought


def test_the_pages_say_what_to_do_instead_of_a_redeploy(published, tmp_path, request):
    app = tmp_path / "app"
    newer(NEWEST, published, app)
    page = (app / "OPERATING.md").read_text().partition("### What a redeploy keeps")[2]
    instead = page.partition("Do this instead:")[2].partition("\n### ")[0]
    for words in ("commit and push", "copier update", "UPGRADING.md", "git revert", "--mirror"):
        assert words in instead
    assert "(OPERATING.md#what-a-redeploy-keeps)" in (app / "README.md").read_text()
    row = next(line for line in page.splitlines() if "stay as you edited them" in line)
    there = {name for name in kept(request.node.callspec.params["published"]) if name in tree(app)}
    assert {f"`{name.partition('/')[2]}`" for name in there} == {
        word for word in row.partition("| stay")[0].strip("| ").split(", ")
    }


def test_an_update_in_a_clone_is_pushed_instead(tmp_path):
    """A bare repository is the platform's; the push adds to its history and takes nothing back."""
    source = Source(tmp_path / "source.git", "tkt-rag-agent", "platform")
    version, commit = next(iter(released("tkt-rag-agent").items()))
    source.release(at_commit(commit, tmp_path / "old"), version)
    app, platform, clone = tmp_path / "app", tmp_path / "platform.git", tmp_path / "clone"
    base = tree(source.render(app))
    commit_all(app, "Deploy")
    call(["git", "clone", "--quiet", "--bare", app, platform])
    call(["git", "clone", "--quiet", platform, clone])
    edits = edit(clone)
    del edits["Latin-1"]
    call(["git", "checkout", "--", "ops/alerts.yaml"], clone)
    commit_all(clone, "Edits")
    mine = tree(clone)
    source.release(as_it_lies(tmp_path / "new"), "99.0.0")
    update(clone)
    commit_all(clone, "Update")
    call(["git", "push", "--quiet"], clone)
    assert call(["git", "rev-list", "--count", "main"], platform).strip() == "3"
    call(["git", "clone", "--quiet", platform, tmp_path / "deployed"])
    fresh = tree(source.render(tmp_path / "fresh"))
    assert losses(base, mine, tree(tmp_path / "deployed"), fresh, set()) == {}
