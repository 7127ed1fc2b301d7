"""UPGRADING.md and changes.json say what each version takes from an owner, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.rendering import ROOT, TEMPLATES
from tests.updating import Tree, as_it_lies, at_commit, commands, kept, tree
from tools.releases import numbers, released
from tools.surface import CHANGED, changes, read

BREAKS = {"removed": {"removed", "renamed", "left out"}} | {
    kind: {kind} for kind in CHANGED.values()
}
"""What changes.json may call a difference of each kind."""
SAID = {word: f"given another {word}" for word in ("default", "validator", "command")}
SAID["choices"] = "given other choices"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, Path]]]:
    """By template, each release and what lies here, oldest first; "" is what lies here."""
    folder = tmp_path_factory.mktemp("releases")
    now = as_it_lies(folder / "now")
    found = {}
    for template in TEMPLATES:
        found[template] = []
        for version, commit in released(template).items():
            at = folder / commit
            found[template].append(
                (version, (at if at.exists() else at_commit(commit, at)) / template)
            )
        found[template].append(("", now / template))
    return found


def listed(folder: Path, since: str) -> dict[str, str]:
    """What changes.json of a template lists for the versions after `since`: its kind by name."""
    record = json.loads((folder / "changes.json").read_text())
    return {
        one["what"]: one["change"]
        for version, entries in record.items()
        if numbers(version) > numbers(since)
        for one in entries
    }


def unlisted(old: Path, new: Path, since: str) -> list[str]:
    """A sentence for each break that changes.json leaves out, and each entry that is no break."""
    found, told = changes(read(old), read(new)), listed(new, since)
    page = f"{new.name}/changes.json"
    missing = [
        f"{name} is {SAID.get(kind, kind)} since {since}: "
        f"list it in {page} and say in UPGRADING.md what to do."
        for name, kind in found.items()
        if told.get(name) not in BREAKS[kind]
    ]
    extra = [
        f"{page} lists {name} as {kind}, which it is not since {since}: take it out."
        for name, kind in told.items()
        if name not in found
    ]
    return missing + extra


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_a_version_breaks_is_listed_and_nothing_else(trees, template):
    for (since, old), (_, new) in zip(trees[template], trees[template][1:], strict=False):
        # A release's own list stands in what lies here too, which may correct it.
        assert unlisted(old, new, since) == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_upgrading_has_a_section_for_each_version_and_says_what_changes_json_lists(template):
    page = (ROOT / template / "UPGRADING.md").read_text()
    record = json.loads((ROOT / template / "changes.json").read_text())
    assert {*sections(page)} >= {*record, *released(template)}
    for version, entries in record.items():
        for one in entries:
            assert one.keys() == {"what", "change", "do"}, f"{template} {version}: {one}"
            name = one["what"].partition(" ")[2]
            assert f"`{name}`" in sections(page)[version], f"UPGRADING.md {version} omits {name}"


def sections(page: str) -> dict[str, str]:
    """The text of each version."""
    parts = re.split(r"^### (\d+\.\d+\.\d+)$", page.partition("## Versions")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("template", TEMPLATES)
def test_upgrading_lists_the_files_that_stay_as_they_are(template):
    page = (ROOT / template / "UPGRADING.md").read_text()
    part = page.partition("## What stays as it is")[2].partition("\n## ")[0]
    there = {name for name in kept(template) if source(ROOT / template, name)}
    assert re.findall(r"^- `(.*)`$", part, re.MULTILINE) == [
        name.partition("/")[2] for name in kept(template) if name in there
    ]


def source(folder: Path, name: str) -> Path | None:
    """The template's file that becomes `name` of an app, if it has one."""
    plain = folder / "{{app_name}}" / name.partition("/")[2]
    return next((p for p in (plain, plain.with_name(f"{plain.name}.jinja")) if p.exists()), None)


def changed_files(old: Path, new: Path, names: list[str]) -> list[str]:
    """Which of the files that stay as they are have other content in the newer template."""
    before, after = tree(old), tree(new)
    found = []
    for name in names:
        path = source(new, name) or source(old, name)
        inside = path and path.relative_to(new if path.is_relative_to(new) else old).as_posix()
        if inside and before.get(inside) != after.get(inside):
            found.append(name.partition("/")[2])
    return found


def not_told(old: Path, new: Path, page: str, version: str, names: list[str]) -> list[str]:
    text = sections(page).get(version, "")
    return [
        f"{name} changed, and stays as it is in an app: say in section {version} of "
        f"{new.name}/UPGRADING.md what to take over by hand."
        for name in changed_files(old, new, names)
        if f"`{name}`" not in text
    ]


@pytest.mark.parametrize("template", TEMPLATES)
def test_upgrading_says_what_to_take_over_by_hand(trees, template):
    page = (ROOT / template / "UPGRADING.md").read_text()
    coming = next(iter(sections(page)))
    for (_, old), (version, new) in zip(trees[template], trees[template][1:], strict=False):
        assert not_told(old, new, page, version or coming, kept(template)) == []


def test_every_template_says_the_same_of_updating():
    for heading in ("Update it", "Check it", "Do not redeploy to update"):
        first, *others = (commands(template, heading) for template in TEMPLATES)
        assert all(other == first for other in others), heading


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_reader_misses_no_route_that_the_running_apps_show(template):
    """docs/reference/http-api.md asks the running apps; what is hidden there is known by name."""
    page = (ROOT / "docs" / "reference" / "http-api.md").read_text()
    shown = page.partition(f"<!-- table: routes {template} -->")[2].partition("<!-- end of")[0]
    told = set(re.findall(r"^\| `(.*?)` \|", shown, re.MULTILINE)) - {"/docs"}
    found = {name.removeprefix("route ") for name in read(ROOT / template) if "route " in name}
    hidden = {name for name in found if "/auth/" in name or "{path:path}" in name}
    assert len(told) > 10
    assert found - hidden == told


def test_a_break_that_is_not_listed_fails_with_a_sentence_that_names_it(tmp_path):
    old, new = ROOT / "tkt-rag-agent", tmp_path / "tkt-rag-agent"
    shutil.copytree(old, new, symlinks=True, ignore=shutil.ignore_patterns("data", "*_cache"))
    app = new / "{{app_name}}"
    settings = app / "agent" / "settings.py"
    swap(settings, "    passages: int = ", "    passages_given: int = ")
    swap(
        settings, "answer_tokens: int = Field(default=1024", "answer_tokens: int = Field(default=9"
    )
    swap(settings, "max_upload_mb: int = ", "max_upload_mb: float = ")
    swap(app / "api.py", '@router.post("/search")', '@router.post("/find")')
    swap(app / "mcp_tools.py", "async def list_documents(", "async def all_documents(")
    (app / "agent" / "golden.py").unlink()
    swap(app / "requirements.txt", "\npypdfium2==", "\npypdfium3==")
    swap(app / "Dockerfile.jinja", " --no-deps", "")
    swap(new / "copier.yml", "domain_name | length > 190", "domain_name | length > 90")
    registry = '  default: "registry.{{ domain_name }}"\n'
    swap(new / "copier.yml", registry, f"{registry}  choices: [a]\n")
    said = "\n".join(unlisted(old, new, "99.0.0"))
    for sentence in (
        "setting PASSAGES is removed since 99.0.0: list it in tkt-rag-agent/changes.json",
        "setting ANSWER_TOKENS is given another default since 99.0.0",
        "setting MAX_UPLOAD_MB is retyped since 99.0.0",
        "route POST /api/search is removed",
        "tool list_documents is removed",
        "command agent.golden is removed",
        "package pypdfium2 is removed",
        "install requirements.txt is given another command",
        "question domain_name is given another validator",
        "question container_registry is given other choices",
    ):
        assert sentence in said
    entry = {"what": "setting PORT", "change": "removed", "do": "Nothing."}
    (new / "changes.json").write_text(json.dumps({"99.1.0": [entry]}))
    assert "lists setting PORT as removed, which it is not" in "\n".join(
        unlisted(old, new, "99.0.0")
    )


def test_a_kept_file_that_changed_unsaid_fails_with_a_sentence_that_names_it(tmp_path):
    old, new = ROOT / "tkt-rag-agent", tmp_path / "tkt-rag-agent"
    shutil.copytree(old, new, symlinks=True, ignore=shutil.ignore_patterns("data", "*_cache"))
    swap(new / "{{app_name}}" / "app.env.jinja", "CHAT_MODEL=", "MODEL=")
    page = (old / "UPGRADING.md").read_text()
    said = not_told(old, new, page, "0.2.0", kept("tkt-rag-agent"))
    assert [sentence.partition(" ")[0] for sentence in said] == ["app.env"]


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_trees_are_told_apart(tmp_path):
    (tmp_path / "a").write_text("1")
    one: Tree = tree(tmp_path)
    (tmp_path / "a").chmod(0o755)
    assert tree(tmp_path) != one
