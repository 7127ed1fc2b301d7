"""Three roads give the same bytes: the collection, a template's folder, a published template."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.rendering import COPIERS, ROOT, TEMPLATES, call, commit_all, files, render

ANSWERS = {
    "project_name": "same-bytes",
    "project_description": "It's the café's agent",
    "domain_name": "example.org",
    "container_registry": "registry.example.org",
}


def without_source(folder: Path) -> dict[str, bytes]:
    """All files but the answers, which name where they came from."""
    return {name: data for name, data in files(folder).items() if name != ".copier-answers.yml"}


def snapshot(to: Path) -> Path:
    """The working tree as a repository with one commit, as a clone of it would be."""
    for name in call(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).split(
        "\n"
    ):
        path = ROOT / name
        if name and (path.exists() or path.is_symlink()):
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
    commit_all(to)
    return to


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return snapshot(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("version", COPIERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_three_roads_give_the_same_bytes(template, version, clone, tmp_path):
    whole = render(clone, tmp_path / "whole", version=version, template=template, **ANSWERS)
    folder = render(clone / template, tmp_path / "folder", version=version, **ANSWERS)
    published = tmp_path / "published.git"
    call(["git", "init", "--quiet", "--bare", "--initial-branch", "main", str(published)])
    branch = f"publish-{template}-{version}"
    call(["git", "subtree", "split", "-q", "--prefix", template, "--branch", branch], clone)
    call(["git", "tag", f"v0.1.0-{branch}", branch], clone)
    call(
        ["git", "push", "--quiet", str(published), f"{branch}:main", f"v0.1.0-{branch}:v0.1.0"],
        clone,
    )
    source = f"git+file://{published}"
    alone = render(source, tmp_path / "alone", "--vcs-ref=HEAD", version=version, **ANSWERS)
    assert without_source(whole) == without_source(folder) == without_source(alone)
    assert (alone / "README.md").read_text().startswith("# same-bytes\n")


def test_the_collection_offers_every_template():
    first = next(iter(yaml.compose_all((ROOT / "copier.yml").read_text())))
    asked = {key.value: value for key, value in first.value}
    offered = {key.value: value for key, value in asked["template"].value}["choices"]
    assert [choice.value for choice in offered.value] == TEMPLATES


@pytest.mark.parametrize("template", TEMPLATES)
def test_same_answers_twice_change_nothing(template, tmp_path):
    first = files(render(ROOT / template, tmp_path / "app", **ANSWERS))
    (tmp_path / "app" / "k8s").mkdir()
    commit_all(tmp_path / "app")
    again = files(render(ROOT / template, tmp_path / "app", "--force", **ANSWERS))
    assert again == first


def test_a_template_that_does_not_exist_is_refused(clone, tmp_path):
    with pytest.raises(RuntimeError, match="template"):
        render(clone, tmp_path / "app", template="tkt-none")
