"""The platform's test step: its image lacks most packages, and leftovers stay in the tree."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml

from parts.environments import environment
from tests.rendering import ROOT, TEMPLATES, call, commit_all, render

IMAGE = [
    "fastapi==0.115.5",
    "starlette==0.41.3",
    "pydantic==2.11.7",
    "pydantic-settings==2.6.1",
    "uvicorn==0.32.1",
    "httpx==0.28.1",
    "python-multipart==0.0.20",
    "pyyaml==6.0.2",
    "pytest==8.3.4",
    "pytest-asyncio==0.25.0",
    "pytest-cov==6.0.0",
]
"""What the platform's test image holds of what our tests could use (contract, sections 5 and 6)."""


@pytest.mark.parametrize("template", TEMPLATES)
def test_18_the_platforms_test_command_passes_and_leaves_nothing_behind(template, tmp_path):
    python = environment("test-runner", IMAGE) / "python"
    app = render(ROOT / template, tmp_path / "app", project_name="tested")
    commit_all(app)
    for container in yaml.safe_load((app / "thinkube.yaml").read_text())["spec"]["containers"]:
        program, *options = shlex.split(container["test"]["command"])
        assert program == "python"
        done = subprocess.run(
            [python, *options], cwd=app / container["build"], env={}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert " passed" in done.stdout
    assert call(["git", "status", "--porcelain", "--ignored"], app) == ""
