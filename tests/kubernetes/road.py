"""Render, commit, push, clone: how an app gets from a template to what the platform builds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.git_server import GitServer
from tests.kubernetes.call import Deployed, run_copier
from tests.rendering import ROOT, call, commit_all

ORGANISATION = "thinkube-deployments"


@dataclass(frozen=True)
class Pushed:
    """An app as it lies in the git server; `clone` is what anybody gets from there."""

    template: str
    deployed: Deployed
    address: str
    commit: str
    clone: Path

    @property
    def spec(self) -> dict[str, Any]:
        return descriptor(self.clone)


def descriptor(folder: Path) -> dict[str, Any]:
    """The `spec` of a thinkube.yaml."""
    return dict(yaml.safe_load((folder / "thinkube.yaml").read_text())["spec"])


def walk(template: str, deployed: Deployed, server: GitServer, url: str, folder: Path) -> Pushed:
    """The whole road in `folder`, to the server at `url`, where the app's repository is made."""
    app = folder / "working-copy"
    run_copier(deployed, published(template, folder / "template"), app)
    data = app / deployed.app / "data"  # of a run on a laptop, which git ignores
    data.mkdir()
    (data / "store").write_text("Documents")
    commit_all(app, "Deploy")
    name = f"{ORGANISATION}/{deployed.app}"
    server.create(name)
    address = server.address(url, name)
    call(["git", "push", "--quiet", "--force", address, "main"], app)
    clone = folder / "clone"
    call(["git", "clone", "--quiet", "--depth", "1", address, str(clone)])
    commit = call(["git", "rev-parse", "HEAD"], app).strip()
    return Pushed(template, deployed, address, commit, clone)


def published(template: str, to: Path) -> Path:
    """The template as a repository of its own."""
    litter = shutil.ignore_patterns("*_cache", "__pycache__", "data", ".venv*")
    shutil.copytree(ROOT / template, to, symlinks=True, ignore=litter)
    commit_all(to)
    return to
