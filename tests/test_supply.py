"""Each template's list of parts is what its requirements say, and every licence in it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rendering import ROOT, TEMPLATES
from tools import supply


def listed(path: str) -> set[str]:
    found = json.loads((ROOT / path).read_text())
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    return {f"{supply.plain(part['name'])}=={part['version']}" for part in found["components"]}


def pinned(name: str, template: str) -> set[str]:
    return set(supply.in_image(supply.requirements(template).with_name(name)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_list_of_parts_is_what_the_requirements_install(template: str) -> None:
    assert listed(f"{template}/sbom.cdx.json") == pinned("requirements.txt", template), (
        "out of date: make supply"
    )


def test_the_engines_list_of_parts_is_what_its_requirements_say() -> None:
    listed_parts = listed("tkt-vllm-gradio/sbom-engine.cdx.json")
    pins = pinned("requirements-engine.txt", "tkt-vllm-gradio")
    assert listed_parts == pins, "out of date: make supply"


def test_no_list_says_when_or_where_it_was_made() -> None:
    for path in ROOT.glob("tkt-*/sbom*.json"):
        text = path.read_text()
        assert "serialNumber" not in text
        assert '"timestamp"' not in text
        assert "file:///" not in text


def test_every_licence_fits_and_the_page_says_which() -> None:
    assert supply.unfitting() == []
    assert supply.PAGE.read_text() == supply.page(), "out of date: make supply"


@pytest.mark.parametrize(
    ("licences", "said"),
    [
        ([], "names no licence"),
        ([{"expression": "MIT OR GPL-3.0-only"}], "do without it"),
        ([{"license": {"id": "AGPL-3.0-only"}}], "do without it"),
        ([{"license": {"name": "License :: Other/Proprietary License"}}], "do without it"),
        ([{"license": {"id": "MIT"}}], ""),
    ],
)
def test_a_licence_that_does_not_fit_is_named(
    licences: list[object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    licence = supply.licence_of({"name": "Some_Thing", "licenses": licences})
    parts = {"some-thing 1.0": ("1.0", licence, ["tkt-rag-agent"])}
    monkeypatch.setattr(supply, "components", lambda: parts)
    found = " ".join(supply.unfitting())
    assert said in found
    assert bool(found) == bool(said)


def test_the_audit_asks_about_every_file_of_exact_requirements() -> None:
    names = {supply._short(path) for path in supply.audited()}
    assert names == {
        "requirements-dev.txt",
        "requirements-docs.txt",
        "requirements-tools.txt",
        "tkt-crewai-agent/requirements.txt",
        "tkt-rag-agent/requirements-local.txt",
        "tkt-rag-agent/requirements.txt",
        "tkt-vllm-gradio/requirements-engine.txt",
        "tkt-vllm-gradio/requirements-small.txt",
        "tkt-vllm-gradio/requirements.txt",
    }
    assert [path for path in supply.audited() if not supply.in_image(path)] == []


@pytest.mark.parametrize(
    ("told", "code"),
    [([], 0), (["NOT ASKED: x"], 2), (["a 1: PYSEC-1"], 1), (["NOT ASKED: x", "a 1: PYSEC-1"], 1)],
)
def test_a_known_vulnerability_counts_though_somebody_was_silent(
    told: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(told)
    monkeypatch.setattr(supply, "asked", lambda path: [one for one in [next(answers, "")] if one])
    assert supply.audit() == code


def test_a_requirement_counts_when_the_images_python_takes_it(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text(
        "# a list\nnumpy==2.4.6 ; python_full_version < '3.12'\n"
        "numpy==2.5.5 ; python_full_version >= '3.12'\n    # via x\n"
        "audioop-lts==0.2.2 ; python_full_version >= '3.13'\nA_b[c]==1\n"
    )
    assert supply.in_image(pins) == ["numpy==2.5.5", "a-b==1"]


def test_a_silent_database_is_not_taken_for_no_vulnerabilities() -> None:
    unknown = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
    assert supply.understood(json.dumps({"dependencies": [unknown]})) is None
    assert supply.understood("") is None


def test_a_known_vulnerability_is_named_with_the_release_that_mends_it() -> None:
    known = {"id": "PYSEC-1", "fix_versions": ["2"], "aliases": [], "description": ""}
    fine = {"name": "b", "version": "1", "vulns": []}
    said = json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": [known]}, fine]})
    assert supply.understood(said) == ["a 1: PYSEC-1, fixed in 2"]
