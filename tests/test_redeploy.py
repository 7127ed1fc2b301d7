"""The platform's own two calls of Copier, word for word, twice over the same folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rendering import COPIERS, ROOT, TEMPLATES, call, commit_all, copier, files

OLDER = {
    "project_name": "demo-app",
    "project_description": "",
    "domain_name": "example.org",
    "container_registry": "registry.example.org",
    "author_name": "Thinkube User",
    "author_email": "user@example.org",
}
NEWER = {
    "project_name": "demo-app",
    "domain_name": "example.org",
    "admin_username": "tkadmin",
    "namespace": "demo-app",
    "k8s_namespace": "demo-app",
    "container_registry": "registry.example.org",
    "registry_subdomain": "registry",
    "project_description": "",
    "author_name": "Thinkube User",
    "author_email": "user@example.org",
    "deployment_id": "7f3a",
    "overwrite_existing": "True",
}


@pytest.fixture(params=TEMPLATES)
def published(request, tmp_path) -> Path:
    """The template as a repository of its own."""
    repository = tmp_path / "published"
    shutil.copytree(
        ROOT / request.param,
        repository,
        symlinks=True,
        ignore=shutil.ignore_patterns("*_cache", "__pycache__", "data"),
    )
    commit_all(repository)
    return repository


@pytest.fixture(params=COPIERS)
def program(request) -> str:
    return copier(request.param)


def older(program: str, source: Path, to: Path) -> None:
    """2025-11: trusted; the folder was deleted before."""
    data = [f"--data={name}={value}" for name, value in OLDER.items()]
    call([program, "copy", "--trust", "--defaults", "--vcs-ref=HEAD", *data, str(source), str(to)])


def newer(program: str, source: Path, to: Path) -> None:
    """2026: not trusted; over the repository as it is."""
    data = [part for name, value in NEWER.items() for part in ("--data", f"{name}={value}")]
    call([program, "copy", "--force", "--vcs-ref=HEAD", str(source), str(to), *data])


def test_both_calls_give_the_same_app(program, published, tmp_path):
    older(program, published, tmp_path / "older")
    newer(program, published, tmp_path / "newer")
    assert files(tmp_path / "older") == files(tmp_path / "newer")


def test_a_redeploy_without_edits_changes_nothing(program, published, tmp_path):
    app = tmp_path / "app"
    newer(program, published, app)
    before = files(app)
    commit_all(app)
    newer(program, published, app)
    assert files(app) == before


def test_a_redeploy_keeps_what_the_readme_says_it_keeps(program, published, tmp_path):
    app = tmp_path / "app"
    newer(program, published, app)
    there = files(app / "demo-app")
    kept = [n for n in ("agent/prompts.py", "app.env", "golden.jsonl") if n in there]
    lost = ["agent/runs.py", "app.py", "ui.py", "Dockerfile", "requirements.txt"]
    for name in [*kept, *lost, "agent/my_own_tool.py", "agent/my-own.txt"]:
        path = app / "demo-app" / name
        path.write_text(path.read_text() + "\n# mine\n" if path.exists() else "# mine\n")
    commit_all(app)
    newer(program, published, app)
    mine = {name for name, data in files(app / "demo-app").items() if data.endswith(b"# mine\n")}
    assert mine - {"Containerfile"} == {*kept, "agent/my_own_tool.py", "agent/my-own.txt"}
    page = (app / "OPERATING.md").read_text()
    row = next(line for line in page.splitlines() if "stay as you edited them" in line)
    assert all(f"`{name}`" in row for name in kept)
    short = (app / "README.md").read_text().partition("- A redeploy")[2].partition("\n- ")[0]
    assert all(f"`{name.removeprefix('agent/')}`" in short for name in kept)


def test_a_redeploy_leaves_the_platforms_files(program, published, tmp_path):
    app = tmp_path / "app"
    newer(program, published, app)
    (app / "k8s").mkdir()
    (app / "k8s" / "deployments.yaml").write_text("kind: Deployment\n")
    commit_all(app)
    newer(program, published, app)
    assert (app / "k8s" / "deployments.yaml").read_text() == "kind: Deployment\n"
