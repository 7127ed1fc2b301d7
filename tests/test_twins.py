"""Twins: files that are byte-identical in every template that has them."""

from __future__ import annotations

import ast

import pytest

from tests.rendering import ROOT, TEMPLATES

TWINS = [
    "LICENSE",
    "{{app_name}}/.dockerignore",
    "{{app_name}}/agent/access.py",
    "{{app_name}}/agent/errors.py",
    "{{app_name}}/agent/harmless.py",
    "{{app_name}}/agent/health.py",
    "{{app_name}}/agent/icon.png",
    "{{app_name}}/agent/keys.py",
    "{{app_name}}/agent/limits.py",
    "{{app_name}}/agent/logs.py",
    "{{app_name}}/agent/page.css",
    "{{app_name}}/agent/problems.py",
    "{{app_name}}/agent/qdrant.py",
    "{{app_name}}/agent/qdrant_embedded.py",
    "{{app_name}}/agent/qdrant_server.py",
    "{{app_name}}/agent/runs.py",
    "{{app_name}}/agent/sign_on.py",
    "{{app_name}}/agent/theme.py",
    "{{app_name}}/agent/tokens.py",
    "{{app_name}}/agent/tracing.py",
    "{{app_name}}/tests/mcp_client.py",
    "{{app_name}}/tests/test_left_out.py",
    "{{app_name}}/tests/test_runs.py",
]


@pytest.mark.parametrize("twin", TWINS)
def test_twins_are_identical(twin):
    paths = [ROOT / template / twin for template in TEMPLATES if (ROOT / template / twin).exists()]
    assert paths, f"{twin} is in no template: take it off the list"
    first, *others = paths
    for other in others:
        same = other.read_bytes() == first.read_bytes()
        assert same, f"they differ; the newer one wins: cp '{first}' '{other}'"


@pytest.mark.parametrize("twin", [twin for twin in TWINS if twin.endswith(".py")])
def test_a_twin_stands_on_its_own(twin):
    """It may use another twin, and nothing else of its app."""
    allowed = {f"agent.{name.rsplit('/', 1)[-1].removesuffix('.py')}" for name in TWINS}
    for path in (ROOT / template / twin for template in TEMPLATES):
        tree = ast.parse(path.read_text() if path.exists() else "")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent"):
                assert node.module in allowed, f"{twin} imports {node.module}"
