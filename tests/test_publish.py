"""`make publish`, in a copy of the collection with a history of its own, into bare repositories."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.rendering import (
    COPIERS,
    OLDEST_LONG,
    ROOT,
    TEMPLATES,
    call,
    commit_all,
    copier,
    files,
    render,
    working_copy,
)
from tests.test_redeploy import NEWER, newer, older
from tools.publish_catalogue import entry
from tools.publish_checks import CONTRACT, SECRET, changelog
from tools.releases import numbers, released

RAG = "tkt-rag-agent"
ANSWERS = ".copier-answers.yml"


NEEDED = [
    RAG, "tools", "parts", "tests/conftest.py", "tests/rendering.py",
    "pyproject.toml", "Makefile", ".gitignore",
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of one template with nothing released, and tests that cost nothing instead of
    the contract's."""
    folder = tmp_path_factory.mktemp("prepared") / "collection"
    working_copy(folder, *NEEDED)
    for name in CONTRACT:
        (folder / f"tests/test_{name}.py").write_text("def test_nothing():\n    pass\n")
    (folder / "releases.json").write_text("{}\n")
    (folder / RAG / "CHANGELOG.md").write_text("# Changes\n")
    commit_all(folder, "Begin")
    version(folder, "0.1.0", "It answers.")
    call(["git", "gc", "--quiet"], folder)
    return folder


@pytest.fixture
def collection(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "collection", symlinks=True)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    repository = tmp_path / "published.git"
    call(["git", "init", "--quiet", "--bare", "--initial-branch", "main", repository])
    return repository


def version(collection: Path, number: str, said: str) -> None:
    """A commit that raises the version, and says what is new in it."""
    manifest, page = collection / RAG / "manifest.yaml", collection / RAG / "CHANGELOG.md"
    raised = re.sub(r"^  version: .*", f"  version: {number}", manifest.read_text(), flags=re.M)
    manifest.write_text(raised)
    page.write_text(f"{page.read_text()}\n## {number} ({date.today()})\n\n- {said}\n")
    commit_all(collection, f"Raise to {number}")


def publish(
    collection: Path, remote: Path | str, *options: str, template: str = RAG
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/publish.py", template, str(remote), *options]
    quick = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "--exitfirst"}
    return subprocess.run(
        command, cwd=collection, env=quick, text=True, capture_output=True, timeout=240
    )


def published(collection: Path, remote: Path) -> str:
    """What it printed of a publication that succeeded."""
    done = publish(collection, remote, "--push")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(collection: Path, remote: Path | str, *options: str, template: str = RAG) -> str:
    """Its one sentence, after which nothing has changed here or there."""
    before = state(collection), refs(remote)
    done = publish(collection, remote, *options, template=template)
    assert done.returncode == 2, done.stdout + done.stderr
    assert (state(collection), refs(remote)) == before
    (sentence,) = done.stderr.splitlines()
    return sentence


def state(collection: Path) -> tuple[str, str, dict[str, bytes]]:
    status = call(["git", "status", "--porcelain", "--ignored=no"], collection)
    return refs(collection), status, files(collection / RAG)


def refs(repository: Path | str) -> str:
    there = Path(repository).is_dir()
    return call(["git", "for-each-ref"], Path(repository)) if there else ""


def tags(remote: Path) -> list[str]:
    return call(["git", "tag", "--list"], remote).split()


def test_a_published_template_has_its_history_its_tag_and_its_manifest_at_the_root(
    collection: Path, remote: Path
) -> None:
    source = call(["git", "rev-parse", "HEAD"], collection).strip()
    said = published(collection, remote)

    subjects = call(["git", "log", "--format=%s", "main"], remote).splitlines()
    assert subjects == call(["git", "log", "--format=%s", "--", RAG], collection).splitlines()
    assert subjects == ["Raise to 0.1.0", "Begin"]
    assert (
        call(["git", "rev-parse", "v0.1.0^{commit}", "HEAD"], remote).split()
        == [call(["git", "rev-parse", "main"], remote).strip()] * 2
    )
    there = call(["git", "ls-tree", "-r", "-z", "--name-only", "main"], remote).split("\0")
    here = call(["git", "ls-files", "-z"], collection / RAG).split("\0")
    assert sorted(there) == sorted(here)
    assert "manifest.yaml" in there
    assert json.loads((collection / "releases.json").read_text()) == {RAG: {"0.1.0": source}}
    assert "Commit releases.json" in said
    assert call(["git", "status", "--porcelain"], collection) == " M releases.json\n"
    assert tags(collection) == [], "a version tag here would be the collection's own"


@pytest.mark.parametrize("program", OLDEST_LONG)
def test_the_platforms_two_calls_render_it_like_the_folder(
    program: str, collection: Path, remote: Path, tmp_path: Path
) -> None:
    published(collection, remote)
    address = f"git+file://{remote}"
    older(copier(program), address, tmp_path / "older")  # type: ignore[arg-type]
    newer(copier(program), address, tmp_path / "newer")  # type: ignore[arg-type]
    expected = same(render(collection / RAG, tmp_path / "folder", **NEWER))
    assert same(tmp_path / "older") == expected
    assert same(tmp_path / "newer") == expected


def same(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(folder).items() if name != ANSWERS}


def test_without_push_nothing_changes_here_or_there(collection: Path, remote: Path) -> None:
    before = state(collection), objects(collection), every_byte(remote)
    done = publish(collection, remote)
    assert done.returncode == 0, done.stderr
    assert (state(collection), objects(collection), every_byte(remote)) == before


def objects(repository: Path) -> str:
    return call(["git", "count-objects", "--verbose"], repository)


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_push_it_says_what_would_happen(collection: Path, remote: Path) -> None:
    published(collection, remote)
    commit_all(collection, "Keep the release")
    (collection / RAG / "ops" / "new.md").write_text("New.\n")
    call(["git", "switch", "--quiet", "--create", "wip"], collection)
    version(collection, "0.2.0", "It answers in Welsh.")
    source = call(["git", "rev-parse", "HEAD"], collection).strip()
    commit = call(["git", "subtree", "split", "-q", "-P", RAG], collection).strip()
    count = len(call(["git", "ls-files"], collection / RAG).splitlines())

    said = publish(collection, remote).stdout
    assert f"{RAG} 0.2.0 to {remote}" in said
    assert f"commit  {commit}, 3 commits, {count} files" in said
    assert f"tags    v0.2.0 at {commit[:10]}\n" in said
    assert f"source  {source}, branch wip\n" in said
    assert '"type": "application_template"' in said, "the entry for the platform's catalogue"
    assert re.search(r"Since v0.1.0:\n\n \w+ Raise to 0.2.0\n\n", said)
    assert re.search(r"ops/new.md \(new\) +\| +1 \+", said)
    assert "CHANGELOG.md says of 0.2.0:\n\n- It answers in Welsh.\n" in said
    assert "It answers.\n" not in said
    assert "PUSH=1" in said
    assert "Keep the release" not in said, "that commit is not in the folder"


def test_a_second_version_goes_on_from_the_first_and_apps_are_updated_to_it(
    collection: Path, remote: Path, tmp_path: Path
) -> None:
    published(collection, remote)
    commit_all(collection, "Keep the release")
    app = render(f"git+file://{remote}", tmp_path / "app", project_name="demo-app")
    commit_all(app)
    page = collection / RAG / "README.md.jinja"
    page.write_text(page.read_text() + "A line of the newer version.\n")
    version(collection, "0.10.0", "A line.")
    published(collection, remote)

    assert tags(remote) == ["v0.1.0", "v0.10.0"]
    call(["git", "merge-base", "--is-ancestor", "v0.1.0", "main"], remote)
    call([copier(), "update", "--quiet", "--defaults"], app)
    assert (app / "README.md").read_text().endswith("A line of the newer version.\n")
    assert yaml.safe_load((app / ANSWERS).read_text())["_commit"] == "v0.10.0"
    assert [*json.loads((collection / "releases.json").read_text())[RAG]] == ["0.1.0", "0.10.0"]


def test_the_same_version_is_published_once(collection: Path, remote: Path) -> None:
    published(collection, remote)
    commit_all(collection, "Keep the release")
    sentence = refused(collection, remote, "--push")
    assert sentence == (
        "Raise metadata.version in tkt-rag-agent/manifest.yaml: 0.1.0 is not newer than 0.1.0, the "
        "last one of releases.json."
    )


def test_a_release_that_was_not_written_down_is_still_published_once(
    collection: Path, remote: Path
) -> None:
    published(collection, remote)
    call(["git", "checkout", "--quiet", "releases.json"], collection)
    assert refused(collection, remote, "--push") == (
        "Raise metadata.version in tkt-rag-agent/manifest.yaml above 0.1.0, since the tag v0.1.0 "
        "is there already: it is 0.1.0."
    )


def test_the_tags_of_earlier_releases_are_made_again_where_they_are_missing(
    collection: Path, remote: Path, tmp_path: Path
) -> None:
    published(collection, remote)
    commit_all(collection, "Keep the release")
    version(collection, "0.2.0", "More.")
    other = tmp_path / "other.git"
    call(["git", "init", "--quiet", "--bare", "--initial-branch", "main", other])
    said = published(collection, other)
    assert "Since v0.1.0" not in said, "of the tag that is made again, nothing is there yet"
    assert "The first publication here, of these files:\n\n" in said
    assert "\n CHANGELOG.md\n" in said
    commits = [call(["git", "rev-parse", "v0.1.0"], place) for place in (remote, other)]
    assert commits[0] == commits[1]
    assert tags(other) == ["v0.1.0", "v0.2.0"]


def test_the_tenth_version_is_newer_than_the_ninth() -> None:
    assert numbers("0.9.0") < numbers("0.10.0") < numbers("1.0.0")


def test_a_release_from_an_unknown_commit_is_no_release(collection: Path, remote: Path) -> None:
    (collection / "releases.json").write_text(json.dumps({RAG: {"0.0.9": "f" * 40}}))
    commit_all(collection)
    assert refused(collection, remote).startswith(f"Fetch commit {'f' * 40}, or take it out")


def set_version(number: str) -> Callable[[Path], None]:
    def spoil(collection: Path) -> None:
        version(collection, number, "Something.")

    return spoil


def write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(collection: Path) -> None:
        (collection / name).write_text(text)

    return spoil


def committed(name: str, text: str) -> Callable[[Path], None]:
    def spoil(collection: Path) -> None:
        (collection / name).parent.mkdir(exist_ok=True)
        (collection / name).write_text(text)
        call(["git", "add", "--force", name], collection)
        commit_all(collection)

    return spoil


KEYS = [
    "sk-lf-1234abcd-",
    "sk-" + "proj-Ab1",
    "sk-" + "ant-Ab1",
    "sk-" + "Ab1_-" * 4,
    "tk_" + "Ab1-" * 4,
    "tka_" + "Ab1_-" * 8,
    "hf_" + "Ab1" * 10,
    "ghp_" + "Ab1",
    "github_" + "pat_Ab1",
    "AKIA" + "AB1C" * 4,
    "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
]


def test_each_kind_of_key_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("".join(f"KEY={key}\n" for key in KEYS))
    search = ["git", "grep", "--no-index", "--extended-regexp", "-h", "-e", SECRET]
    assert call([*search, "--", "keys"], tmp_path).splitlines() == [f"KEY={key}" for key in KEYS]


def test_a_key_that_was_taken_out_is_refused_by_the_commits_of_this_repository(
    collection: Path, remote: Path
) -> None:
    committed(f"{RAG}/ops/key.txt", "LANGFUSE_SECRET_KEY=sk-lf-1234abcd-\n")(collection)
    came = call(["git", "rev-parse", "--short", "HEAD"], collection).strip()
    (collection / RAG / "ops" / "key.txt").unlink()
    commit_all(collection)
    went = call(["git", "rev-parse", "--short", "HEAD"], collection).strip()
    assert refused(collection, remote, "--push") == (
        f"Take what looks like a key out of {RAG}/ops/key.txt and out of the history, and out of "
        f"service: git show {went} {came} shows where it came and went."
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_nothing_in_a_templates_history_looks_like_a_key(template: str) -> None:
    looking = ["git", "log", "--full-history", "--oneline", f"-G{SECRET}", "--", template]
    assert call(looking, ROOT) == ""


SHOWN = "Commit or remove what git status shows first: "
LOG = f"{RAG}/CHANGELOG.md"
TO_COME = date.today() + timedelta(days=2)
WANTS = r"Say what changed under `## 0\.1\.0 \(20..-..-..\)` in tkt-rag-agent/CHANGELOG\.md: .*"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (write("Makefile", "all:\n"), SHOWN + r" M Makefile\."),
        (write("notes.txt", ""), SHOWN + r"\?\? notes\.txt\."),
        (set_version("0.2"), r"Set metadata\.version in .* to X\.Y\.Z: it is 0\.2\."),
        (set_version("v1.2.3"), r"Set metadata\.version .* to X\.Y\.Z: it is v1\.2\.3\."),
        (set_version("0.2.0-rc1"), r"Set metadata\.version .* to X\.Y\.Z: it is 0\.2\.0-rc1\."),
        (committed(LOG, "## 0.1.0\n\n- No date.\n"), WANTS),
        (committed(LOG, "## 0.1.0 (2026-02-30)\n\n- No such date.\n"), WANTS),
        (committed(LOG, "## 0.1.0 (2026-11-28)\n\n## 0.0.9 (2026-11-27)\n\n- Text.\n"), WANTS),
        (committed(LOG, "## 0.1.01 (2026-11-28)\n\n- Another version.\n"), WANTS),
        (
            committed(f"{RAG}/{{{{app_name}}}}/data/x.txt", "x"),
            r"Run git rm --cached 'tkt-rag-agent/\{\{app_name\}\}/data/x\.txt': it is committed .*",
        ),
        (
            committed(LOG, f"## 0.1.0 ({TO_COME})\n\n- Text.\n"),
            rf"Date 0\.1\.0 in .*CHANGELOG\.md with the day of .*: {TO_COME} is a day to come\.",
        ),
    ],
    ids=[
        "changed", "untracked", "two numbers", "a letter", "a suffix", "no date", "no such date",
        "no text", "another version", "ignored", "a day to come",
    ],
)  # fmt: skip
def test_what_should_not_be_published_is_refused_in_a_sentence(
    spoil: Callable[[Path], None], sentence: str, collection: Path, remote: Path
) -> None:
    spoil(collection)
    assert re.fullmatch(sentence, refused(collection, remote, "--push"))


def test_a_template_without_a_changelog_is_refused(collection: Path, remote: Path) -> None:
    (collection / LOG).unlink()
    commit_all(collection)
    assert re.fullmatch(WANTS, refused(collection, remote))


def test_an_unknown_template_is_refused(collection: Path, remote: Path) -> None:
    sentence = refused(collection, remote, template="tests")
    assert sentence == f"Take one of {RAG}: there is no template tests."


def test_a_repository_of_something_else_is_refused(
    collection: Path, remote: Path, tmp_path: Path
) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "README.md").write_text("Another history.\n")
    commit_all(tmp_path / "else")
    call(["git", "push", "--quiet", remote, "main"], tmp_path / "else")
    at = call(["git", "rev-parse", "main"], remote).strip()
    assert refused(collection, remote, "--push") == (
        "Take another repository, or bring here what was committed there: its main is at "
        f"{at}, which is no commit of this template."
    )


def test_a_repository_that_is_not_there_is_refused(collection: Path, tmp_path: Path) -> None:
    sentence = refused(collection, tmp_path / "nowhere.git")
    assert sentence.startswith("Make an empty repository for the template, and give git a key or")
    assert "nowhere.git cannot be read (fatal: " in sentence


def test_the_name_of_a_remote_is_not_taken_for_this_repository(collection: Path) -> None:
    assert "origin cannot be read" in refused(collection, "origin")


def test_a_part_of_the_history_is_not_published(
    collection: Path, remote: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    call(["git", "clone", "--quiet", "--depth=1", f"file://{collection}", part])
    assert refused(part, remote).endswith(": run git fetch --unshallow.")


def test_a_push_that_is_refused_in_part_publishes_nothing(collection: Path, remote: Path) -> None:
    """A server that lets branches in, and no tags."""
    hook = remote / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ncase "$1" in refs/tags/*) exit 1;; esac\n')
    hook.chmod(0o755)
    sentence = refused(collection, remote, "--push")
    assert sentence.startswith(f"See that you may push to {remote}, and that nobody else did")
    assert "nothing was published (" in sentence


def test_a_template_that_breaks_the_contract_is_refused(collection: Path, remote: Path) -> None:
    """The one test here with the contract's own tests; what they say is shown."""
    older_copier = Path(copier(COPIERS[0])).parent.parent
    (collection / older_copier.name).symlink_to(older_copier)
    shutil.copy(ROOT / "tests/test_contract.py", collection / "tests")
    manifest = collection / RAG / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("kind: TemplateManifest", "kind: Template"))
    commit_all(collection)
    done = publish(collection, remote, "--push")
    assert done.returncode == 2
    assert done.stderr == f"Mend what is shown above: {RAG} does not pass its tests.\n"
    (failed,) = re.findall(r"^FAILED (\S+)", done.stdout, flags=re.M)
    assert failed == f"tests/test_contract.py::test_1_the_manifest_names_its_template[{RAG}]"
    assert "assert 'Template' == 'TemplateManifest'" in done.stdout
    assert refs(remote) == ""


def test_every_test_file_of_the_contract_is_run_for_this_template_and_for_all(
    collection: Path, remote: Path
) -> None:
    for name in CONTRACT:
        (collection / f"tests/test_{name}.py").write_text(
            "import pytest\n\n\n"
            "@pytest.mark.parametrize('template', ['tkt-rag-agent', 'tkt-crewai-agent'])\n"
            "def test_one(template):\n    pass\n\n\ndef test_all():\n    pass\n"
        )
    commit_all(collection)
    said = publish(collection, remote).stdout
    assert re.search(r"^\.{12} ", said, flags=re.M), "of 18 tests, 6 are of another template"


def test_every_test_file_of_the_contract_is_there() -> None:
    assert [name for name in CONTRACT if not (ROOT / f"tests/test_{name}.py").exists()] == []


@contextmanager
def closed_server() -> Iterator[str]:
    """A server that asks for a password; its host and port."""

    class Closed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="closed"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_password_is_neither_asked_for_nor_shown(collection: Path) -> None:
    """On a terminal, where git and ssh would ask."""
    terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    with closed_server() as server:
        for user in ("", "somebody:s3cret@", "somebody@"):
            command = [sys.executable, "tools/publish.py", RAG, f"http://{user}{server}/x.git"]
            done = subprocess.run(
                [sys.executable, "-c", terminal, *command],
                cwd=collection, text=True, capture_output=True, timeout=60, stdin=subprocess.PIPE,
            )  # fmt: skip
            assert done.returncode == 2
            assert f"http://{server}/x.git cannot be read (fatal: " in done.stdout
            assert "s3cret" not in done.stdout
            assert not re.search(r"^(Username|Password)", done.stdout, flags=re.M)


def test_another_default_branch_is_pointed_out(collection: Path, tmp_path: Path) -> None:
    remote = tmp_path / "older.git"
    call(["git", "init", "--quiet", "--bare", "--initial-branch", "master", remote])
    assert "Make main the default branch there" in published(collection, remote)


def test_make_hands_on_what_was_typed() -> None:
    done = make()
    assert done.stdout == "Say where: make publish TEMPLATE=tkt-none REMOTE=address\n"
    assert make("REMOTE=a'$b", "PUSH=1").stderr.startswith("Take one of ")
    command = make("REMOTE=a'$b", "PUSH=1", "--dry-run").stdout.splitlines()[-1]
    assert command.endswith('tools/publish.py tkt-none "$REMOTE" --push')
    command = make("REMOTE=a'$b", "--dry-run").stdout.splitlines()[-1]
    assert command.rstrip().endswith('tools/publish.py tkt-none "$REMOTE"')


@pytest.mark.parametrize("value", ["0", "no", "true", "11", "1 0", "'"])
def test_make_takes_no_other_word_for_push(value: str) -> None:
    done = make("REMOTE=nowhere.git", f"PUSH={value}")
    assert done.returncode == 2
    assert done.stdout == (
        "Say PUSH=1 to publish or leave PUSH out to look: it takes no other value.\n"
    )


def test_make_has_no_template_of_its_own_to_publish() -> None:
    done = make("REMOTE=git@github.com:owner/tkt-crewai-agent.git", template="")
    assert done.returncode == 2
    assert done.stdout == "Say which template: make publish TEMPLATE=name REMOTE=address\n"


def make(*words: str, template: str = "TEMPLATE=tkt-none") -> subprocess.CompletedProcess[str]:
    command = [
        "make",
        "--no-print-directory",
        "--old-file=.venv/dev",
        "publish",
        *filter(None, [template]),
        *words,
    ]
    free = {name: value for name, value in os.environ.items() if name not in ("TEMPLATE", "PUSH")}
    return subprocess.run(command, cwd=ROOT, env=free, text=True, capture_output=True)


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/owner/my-agent",
        "https://github.com/owner/my-agent.git",
        "https://somebody:s3cret@github.com/owner/my-agent.git",
        "git@github.com:owner/my-agent.git",
        "ssh://git@github.com/owner/my-agent.git",
    ],
)
def test_the_catalogue_entry_names_the_repository_on_github(address: str) -> None:
    manifest = yaml.safe_load((ROOT / RAG / "manifest.yaml").read_text())
    assert json.loads(entry(RAG, address)) == {
        "name": "my-agent",
        "type": "application_template",
        "description": manifest["metadata"]["description"],
        "github_url": "https://github.com/owner/my-agent",
        "org": "owner",
        "deployment_type": "app",
        "fixed_name": None,
    }


@pytest.mark.parametrize("address", ["/tmp/published.git", "https://git.example.org/owner/x.git"])
def test_where_the_platform_does_not_look_the_entry_says_what_to_fill_in(address: str) -> None:
    text, note = entry(RAG, address).rsplit("\n\n", 1)
    assert json.loads(text)["github_url"] == f"https://github.com/OWNER/{RAG}"
    assert note == "It takes addresses of GitHub alone: put yours for OWNER."


def test_the_entry_points_out_a_name_that_the_platform_has_itself() -> None:
    taken = entry("tkt-vllm-gradio", "https://github.com/owner/tkt-vllm-gradio")
    assert "component called vllm" in taken.rsplit("\n\n", 1)[1]
    assert "component" not in entry("tkt-vllm-gradio", "https://github.com/owner/my-models")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_changelog_has_each_release_and_the_version_at_hand(template: str) -> None:
    manifest = yaml.safe_load((ROOT / template / "manifest.yaml").read_text())
    for number in {*released(template), manifest["metadata"]["version"]}:
        assert changelog(template, number)
