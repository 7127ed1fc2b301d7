"""The runbook has a line for each drill, and each drill that it names is there."""

from __future__ import annotations

import ast
import re

from tests.rendering import ROOT

RUNBOOK = (ROOT / "docs" / "guides" / "operating-an-agent.md").read_text()


def drills(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_each_bad_day_has_a_line() -> None:
    named = set(re.findall(r"`(test_\w+)`", RUNBOOK))
    agents = drills("test_bad_days.py") | drills("test_crew_bad_days.py")
    assert agents | drills("test_engine_drills.py") <= named


def test_each_drill_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", RUNBOOK))
    files = ("bad_days", "crew_bad_days", "crew_on_nats", "engine_drills", "sign_on")
    assert named <= set().union(*(drills(f"test_{name}.py") for name in files))
