"""Three roads to a rendered app: the collection's root, a template's folder, a published template.

All give the same bytes, `.copier-answers.yml` apart, which names its source. This is also
assertion 38 of the platform's contract: a directory and a git clone of it give identical trees.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.rendering import (
    COPIERS,
    ROOT,
    TEMPLATES,
    call,
    commit_all,
    files,
    questions,
    render,
    working_copy,
)

ANSWERS = ".copier-answers.yml"
PROJECT = {"project_name": "demo-app", "domain_name": "example.org"}
OTHER = "tkt-other-agent"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the collection as it lies here, with a second template of its own question."""
    clone = tmp_path_factory.mktemp("collection") / "collection"
    working_copy(clone)
    add_template(clone)
    commit_all(clone)
    return clone


def add_template(clone: Path) -> None:
    """OTHER: the first template with `tone` in the place of its own questions."""
    first, other = clone / TEMPLATES[0], clone / OTHER
    shutil.copytree(first, other, symlinks=True)
    own = own_questions(TEMPLATES[0])
    config = yaml.safe_load((first / "copier.yml").read_text())
    config = {name: value for name, value in config.items() if name not in own}
    config["tone"] = {"type": "str", "default": "kind", "when": when(OTHER)}
    (other / "copier.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    (other / "{{app_name}}" / "app.env.jinja").write_text('TONE="{{ tone }}"\n')
    choices = (clone / "copier.yml").read_text().replace("choices: [", f"choices: [{OTHER}, ")
    (clone / "copier.yml").write_text(choices)


def own_questions(template: str) -> set[str]:
    manifest = yaml.safe_load((ROOT / template / "manifest.yaml").read_text())
    return {parameter["name"] for parameter in manifest["parameters"]}


def when(template: str) -> str:
    return f"{{{{ template is not defined or template == '{template}' }}}}"


@pytest.fixture(scope="module")
def published(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each template is published as a repository of its own, by CONTRIBUTING's commands."""
    shelf = tmp_path_factory.mktemp("published")
    for template in [*TEMPLATES, OTHER]:
        repository = shelf / f"{template}.git"
        call(["git", "init", "--quiet", "--bare", "--initial-branch", "main", str(repository)])
        call(["git", "subtree", "split", f"--prefix={template}", "-b", template], collection)
        push = ["git", "push", "--quiet", str(repository)]
        call([*push, f"{template}:main", f"{template}:refs/tags/v0.1.0"], collection)
    return shelf


@pytest.mark.parametrize("version", COPIERS)
@pytest.mark.parametrize("template", [*TEMPLATES, OTHER])
def test_the_three_roads_give_the_same_bytes(
    template: str, version: str, collection: Path, published: Path, tmp_path: Path
) -> None:
    head = ("--vcs-ref=HEAD",)
    repository = f"git+file://{published / template}.git"
    by_root = render(
        collection, tmp_path / "root", *head, version=version, template=template, **PROJECT
    )
    by_folder = render(collection / template, tmp_path / "folder", version=version, **PROJECT)
    by_repository = render(repository, tmp_path / "repository", *head, version=version, **PROJECT)

    expected = same(by_folder)
    assert same(by_root) == expected
    assert same(by_repository) == expected


def same(folder: Path) -> dict[str, bytes]:
    """The files that must be alike; two trees of bytes are compared name by name."""
    return {name: content for name, content in files(folder).items() if name != ANSWERS}


@pytest.mark.parametrize("template", [*TEMPLATES, OTHER])
def test_each_road_keeps_the_answers_that_an_update_needs(
    template: str, collection: Path, published: Path, tmp_path: Path
) -> None:
    by_root = render(collection, tmp_path / "root", "--vcs-ref=HEAD", template=template, **PROJECT)
    by_repository = render(
        f"git+file://{published / template}.git", tmp_path / "repository", **PROJECT
    )
    at_root, published_ones = answers(by_root), answers(by_repository)

    assert at_root.pop("template") == template
    assert at_root.pop("_src_path") == str(collection)
    assert published_ones.pop("_src_path").endswith(f"{template}.git")
    assert at_root.pop("_commit")
    assert published_ones.pop("_commit") == "v0.1.0"
    assert at_root == published_ones


def answers(folder: Path) -> dict[str, str]:
    return dict(yaml.safe_load((folder / ANSWERS).read_text()))


def test_the_root_offers_every_template() -> None:
    first_document = (ROOT / "copier.yml").read_text().split("\n---")[0]
    asked = yaml.safe_load(first_document)["template"]
    assert sorted(asked["choices"]) == TEMPLATES
    assert asked["default"] in TEMPLATES


def test_what_two_templates_both_ask_they_ask_in_the_same_words() -> None:
    """The root reads all their files into one, in no order that can be relied on."""
    known: dict[str, tuple[str, dict[str, object]]] = {}
    for template in TEMPLATES:
        for name, question in questions(template).items():
            first, words = known.setdefault(name, (template, question))
            assert question == words, f"{name}: make {template}/copier.yml say what {first}'s says"


def test_a_question_that_only_some_templates_ask_names_them_all() -> None:
    for template in TEMPLATES:
        for name in own_questions(template):
            askers = {other for other in TEMPLATES if name in questions(other)}
            named = set(re.findall(r"tkt-[a-z-]+", str(questions(template)[name].get("when"))))
            assert named == askers, f"the `when` of {name} must name {sorted(askers)}"
