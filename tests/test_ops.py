"""What an operator applies by hand asks only for what the running app has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.crewing import CREW, crew, finished, start
from tests.live import RAG, VLLM, ask, load, started
from tests.rendering import ROOT, render
from tests.serving import served

OWN = {"up"}
"""What Prometheus adds by itself."""
NUMBERS = {9: "nine", 10: "ten", 12: "twelve"}


@pytest.fixture(scope="module", params=[RAG, CREW, VLLM])
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ops(template: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ops")
    render(ROOT / template, folder, project_name="lease-agent", domain_name="home.lan")
    return folder / "ops"


def of_agent(folder: Path) -> str:
    """Its `/metrics`, after an answer and an upload."""
    with started(folder) as app:
        load(app, {"lease.txt": "The rent is 900 pounds a month."})
        ask(app, "How much is the rent?")
        return app.http.get("/metrics").text


def of_crew(folder: Path) -> str:
    """Its `/metrics`, after a run."""
    with crew(folder) as app:
        assert finished(app, start(app, "Heating"))["state"] == "done"
        return app.http.get("/metrics").text


def of_model_server(folder: Path) -> str:
    """Its `/metrics` and with them the engine's, after an answer at each door."""
    with served(folder) as here:
        here.say().raise_for_status()
        here.chat().raise_for_status()
        return here.http.get("/metrics").text


@pytest.fixture(scope="module")
def measured(template: str, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names that the running app measures."""
    shown = {RAG: of_agent, CREW: of_crew, VLLM: of_model_server}[template]
    text = shown(tmp_path_factory.mktemp("measured"))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    parts = {name: ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
             for name, kind in kinds.items()}  # fmt: skip
    return {f"{name}{part}" for name, ends in parts.items() for part in ends}


def rules(ops: Path) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((ops / "alerts.yaml").read_text())["spec"]["groups"]:
        yield from group["rules"]


def queries(ops: Path) -> list[str]:
    board = json.loads((ops / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for rule in rules(ops)]


def test_each_query_asks_for_what_the_app_measures(ops: Path, measured: set[str]) -> None:
    for query in queries(ops):
        names = set(re.findall(r"\b((?:agent_|process_|vllm:)\w+|up)\b(?=[{\[]|\s)", query))
        assert names, query
        assert names <= measured | OWN, query


def test_each_measure_is_shown_or_watched(ops: Path, measured: set[str]) -> None:
    asked = " ".join(queries(ops))
    for name in {re.sub("_(bucket|sum|count)$", "", name) for name in measured}:
        if name.startswith("agent_") and not name.endswith("_created"):
            assert name in asked, f"{name} is measured, and nobody looks at it"


def test_brackets_of_each_query_close(ops: Path) -> None:
    for query in queries(ops):
        for pair in ("()", "{}", "[]"):
            assert query.count(pair[0]) == query.count(pair[1]), query


def test_each_alert_says_what_is_wrong_and_what_to_do(ops: Path) -> None:
    found = list(rules(ops))
    names = {rule["alert"] for rule in found}
    assert len(names) == len(found)
    assert f"{NUMBERS[len(names)]} alerts" in (ops / "README.md").read_text()
    for rule in found:
        assert rule["annotations"]["summary"].endswith(".")
        assert len(rule["annotations"]["description"]) > 40
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_the_dashboard_is_bound_to_no_datasource(ops: Path) -> None:
    board = json.loads((ops / "grafana-dashboard.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"


def test_the_objects_are_the_apps_own(ops: Path) -> None:
    kinds = {}
    for path in sorted(ops.glob("*.yaml")):
        found = yaml.safe_load(path.read_text())
        kinds[path.name] = found["kind"]
        assert found["metadata"]["namespace"] == "lease-agent"
    assert kinds == {
        "alerts.yaml": "PrometheusRule",
        "long-streams.yaml": "BackendTrafficPolicy",
        "scrape.yaml": "PodMonitor",
    }
    policy = yaml.safe_load((ops / "long-streams.yaml").read_text())["spec"]
    assert policy["targetRefs"][0]["name"] == "lease-agent"
    assert policy["timeout"]["http"]["requestTimeout"] == "0s"
    assert "https://lease-agent.home.lan" in (ops / "README.md").read_text()
