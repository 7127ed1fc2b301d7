"""`make publish`: a template's folder as a repository of its own, which is what the platform reads.

    python tools/publish.py tkt-rag-agent git@github.com:owner/tkt-rag-agent.git         # says only
    python tools/publish.py tkt-rag-agent git@github.com:owner/tkt-rag-agent.git --push

Without --push nothing is changed, here or there. With it, the folder's history goes to `main` and
its version to a tag: all of it or nothing, and never by force. What could go wrong is checked
before (`publish_checks.py`), in both cases.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import publish_checks as checks  # noqa: E402
from tools.publish_catalogue import entry  # noqa: E402
from tools.publish_git import Scratch, address, git, scratch, without_password  # noqa: E402
from tools.releases import keep, numbers, released  # noqa: E402


@dataclass(frozen=True)
class Plan:
    """What is to be published. `source` is a commit of this repository, `commit` what it becomes.

    `main` is the commit that stands there now, or "". `known` are the tags of earlier versions;
    `tags` those that are to be made: the new one, and earlier ones that are not there.
    """

    template: str
    version: str
    changelog: str
    remote: str
    source: str
    commit: str
    main: str
    known: dict[str, str]
    tags: dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("template")
    parser.add_argument("remote", help="address of the repository to publish to")
    parser.add_argument("--push", action="store_true", help="without it, only say what would be")
    options = parser.parse_args()
    try:
        with scratch() as clone:
            publish(clone, options.template, address(options.remote), options.push)
    except RuntimeError as error:
        print(without_password(str(error)), file=sys.stderr)
        return 2
    return 0


def publish(clone: Scratch, template: str, remote: str, push: bool) -> None:
    plan = planned(clone, template, remote)
    checks.contract_holds(template)
    print(without_password(report(clone, plan)))
    print(f"\nFor the `repositories` of the platform's catalogue:\n\n{entry(template, remote)}")
    sys.stdout.flush()
    if not push:
        print("\nThis was said only, and nothing is changed: PUSH=1 publishes it.")
        return
    pushed(clone, plan)
    print("\nPublished. Commit releases.json, which now names its source.")
    if clone.refs(remote).get("HEAD") != plan.commit:
        print("\nMake main the default branch there: the platform renders the default one.")


def planned(clone: Scratch, template: str, remote: str) -> Plan:
    """RuntimeError with one sentence when it should not be published."""
    checks.is_a_template(template)
    checks.is_committed(template)
    version = checks.new_version(template)
    said = checks.changelog(template, version)
    there = clone.refs(remote)
    checks.is_not_tagged(template, version, there)
    print(f"Taking the history of {template} out of this repository's ...", flush=True)
    source = git(ROOT, "rev-parse", "HEAD")
    commit, main = clone.split(template, source), there.get("main", "")
    checks.goes_on_from(clone, there, commit)
    checks.holds_no_secret(clone, template, commit, main)
    known, missing = checks.tags(there), missing_tags(clone, template, there)
    made = missing | {f"v{version}": commit}
    return Plan(template, version, said, remote, source, commit, main, known | missing, made)


def missing_tags(clone: Scratch, template: str, there: dict[str, str]) -> dict[str, str]:
    """Of releases.json and not there: without its tag, an app of that version has no update."""
    return {
        f"v{version}": clone.split(template, source)
        for version, source in released(template).items()
        if f"v{version}" not in there
    }


def report(clone: Scratch, plan: Plan) -> str:
    commits = git(clone.folder, "rev-list", "--count", plan.commit)
    files = git(clone.folder, "ls-tree", "-r", "--name-only", plan.commit).splitlines()
    branch = git(ROOT, "branch", "--show-current")
    return f"""
{plan.template} {plan.version} to {plan.remote}

source  {plan.source}, {f"branch {branch}" if branch else "no branch"}
commit  {plan.commit}, {commits} commits, {len(files)} files
main    {plan.main or "is not there yet"}
tags    {", ".join(f"{tag} at {at[:10]}" for tag, at in plan.tags.items())}

{changes(clone, plan, files)}

CHANGELOG.md says of {plan.version}:

{plan.changelog}"""


def changes(clone: Scratch, plan: Plan, files: list[str]) -> str:
    """Commits and files since the last version; where nothing is yet, all that will be public."""
    if not plan.main:
        listed = "\n".join(f" {name}" for name in files)
        return f"The first publication here, of these files:\n\n{listed}"
    last = max(plan.known, key=lambda tag: numbers(tag[1:]), default="main")
    since = f"{plan.known.get(last, plan.main)}..{plan.commit}"
    commits = git(clone.folder, "log", "--format= %h %s", since)
    summary = git(clone.folder, "diff", "--stat=100", "--compact-summary", since)
    return f"Since {last}:\n\n{commits}\n\n{summary}"


def pushed(clone: Scratch, plan: Plan) -> None:
    """All of it or nothing; then the version is written down in releases.json."""
    branch = f"{plan.commit}:refs/heads/main"
    tags = [f"{at}:refs/tags/{tag}" for tag, at in plan.tags.items()]
    try:
        git(clone.folder, "push", "--atomic", "--quiet", "--", plan.remote, branch, *tags)
    except RuntimeError as error:
        raise RuntimeError(
            f"See that you may push to {plan.remote}, and that nobody else did meanwhile; nothing "
            f"was published ({error})."
        ) from error
    keep(plan.template, plan.version, plan.source)


if __name__ == "__main__":
    sys.exit(main())
