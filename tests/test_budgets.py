"""What the templates may cost: benchmarks/limits.json, held against what lies here."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from parts import apps
from tests.rendering import ROOT, TEMPLATES

sys.path.insert(0, str(ROOT / "benchmarks"))
import budgets
import budgets_app
import rendered
import results
from budgets_app import FLOOR, NOW, beside_floor
from budgets_limits import LIMITS, flat, past


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_is_within_its_budget(template: str, tmp_path: Path) -> None:
    """Rendered and started in turn with the floor, its packages installed as its image's are."""
    repository = budgets_app.published(template, "", tmp_path / "collection")
    renderings, apps = budgets_app.rendered({NOW: repository}, tmp_path, times=3)
    figures = renderings[NOW] | budgets_app.installed(apps[NOW])
    (stub,) = (apps[NOW] / ".venv").rglob("gradio/components/textbox.pyi")
    stub.unlink()
    figures |= budgets_app.started(template, apps, tmp_path / "bare", times=3)[NOW]
    print(figures)
    broken = past({template: figures}, results.kept(budgets.NAME))
    assert not broken, "\n".join(broken)
    assert not stub.exists(), "Gradio makes type stubs at each start; see the Dockerfile's `pyi`."


def test_a_figure_past_its_limit_is_named_with_the_limit_and_the_last_one(tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    limits.write_text(
        json.dumps(
            {
                "tkt-rag-agent.packages": {"most": 90, "why": "Each is a risk."},
                "tkt-rag-agent.documents_per_s": {"least": 50, "why": "An upload is waited for."},
                "quick_check_s": {"most": 60, "why": "It is run before each commit."},
            }
        )
    )
    now = {"tkt-rag-agent": {"packages": 91, "documents_per_s": 49.5}, "quick_check_s": None}
    last = {"tkt-rag-agent": {"packages": 88}}
    assert past(now, last, limits) == [
        "tkt-rag-agent: packages is 91, above its limit of 90 (last time 88): Each is a risk. Take "
        "out what it costs, or raise the limit in benchmarks/limits.json and say why.",
        "tkt-rag-agent: documents_per_s is 49.5, below its limit of 50 (last time not measured): "
        "An upload is waited for. Take out what it costs, or raise the limit in "
        "benchmarks/limits.json and say why.",
    ]
    within = {"tkt-rag-agent": {"packages": 90, "documents_per_s": 50}, "quick_check_s": 60}
    assert past(within, last, limits) == []


def test_a_machine_of_half_the_speed_takes_as_many_times_the_floor() -> None:
    def taken(*seconds: float) -> list[dict[str, float]]:
        return [{"page_cpu_s": one} for one in seconds]

    quick = beside_floor({NOW: taken(2.0, 2.5, 9.0), FLOOR: taken(2.0, 2.0, 2.2)})
    slow = beside_floor({NOW: taken(4.0, 5.0, 18.0), FLOOR: taken(4.0, 4.0, 4.4)})
    assert quick[NOW] == {"page_cpu_s": 2.5, "floor_page_cpu_s": 2.0, "page_cpu_s_of_floor": 1.25}
    assert slow[NOW]["page_cpu_s_of_floor"] == 1.25


def test_each_limit_is_of_a_figure_that_is_measured_and_gives_its_reason() -> None:
    measured = {
        name for name, value in flat(results.kept(budgets.NAME)).items() if value is not None
    }
    for name, limit in json.loads(LIMITS.read_text()).items():
        known = measured | set(budgets.ALL)
        assert name in known, f"{name} is measured by no part of make bench"
        assert set(limit) in ({"most", "why"}, {"least", "why"}), name
        assert limit["why"].endswith("."), name


UNMEASURED = {"tkt-vllm-gradio.image_mb"}
"""An image of 8 GB is not built."""


def test_all_figures_were_measured_but_those_that_may_wait() -> None:
    kept = flat(results.kept(budgets.NAME))
    wanted = {f"{template}.{figure}" for template in TEMPLATES for figure in budgets.EACH}
    wanted |= set(budgets.ALL)
    assert {name for name in wanted if kept.get(name) is None} <= UNMEASURED, "make bench"


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_decides_on_an_app_has_a_limit(template: str) -> None:
    limited = {n.removesuffix("_calibrated") for n in json.loads(LIMITS.read_text())}
    free = {"tkt-vllm-gradio.image_mb"}
    assert {f"{template}.{figure}" for figure in budgets.EACH} - free <= limited


def test_the_committed_figures_are_within_the_limits() -> None:
    assert past(results.kept(budgets.NAME), {}) == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_packages_are_installed_as_the_dockerfile_says(template: str, tmp_path: Path) -> None:
    """Word for word but for where they go, and uv in the place of pip."""
    dockerfile = next((ROOT / template / "{{app_name}}").glob("Dockerfile*")).read_text()
    commands = apps.commands(dockerfile, "packages")
    assert any("pip install" in command for command in commands)
    for command in commands:
        here = rendered.here(command, tmp_path / "app", tmp_path / "venv")
        assert not re.search(r"(?<=\s)/(venv|requirements)", here), here
        for option in re.findall(r"\s(--[a-z-]+)", command):
            assert option in here or option in ("--no-cache-dir", "--no-compile"), option


def test_what_a_dockerfile_does_to_its_packages_is_done_here_too(tmp_path: Path) -> None:
    dockerfile = """
FROM python AS packages
RUN python -m venv /venv
COPY requirements.txt /
# A comment in between.
RUN /venv/bin/pip install --no-cache-dir --no-deps -r /requirements.txt \\
 && rm -r /venv/lib/python3.12/site-packages/tests

FROM python
RUN echo another stage
"""
    app, venv = tmp_path / "app", tmp_path / "venv"
    said = [rendered.here(command, app, venv) for command in apps.commands(dockerfile, "packages")]
    python = f"{sys.executable} -m uv"
    assert said == [
        f"{python} venv --quiet --python {sys.executable} {venv}",
        f"{python} pip install --quiet --python {venv}/bin/python --no-deps -r {app}"
        f"/requirements.txt && rm -r {venv}/lib/python3.{sys.version_info.minor}/site-packages"
        "/tests",
    ]
