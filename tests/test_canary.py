"""The canary names the release that breaks something, as it would have done in the past."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.rendering import ROOT
from tools.canary import subjects
from tools.canary.checks import CALL, FIXED, Failure, failures
from tools.canary.examine import ROUNDS, Examination, Report, examine, no_progress, suspects
from tools.canary.hunt import culprits
from tools.canary.releases import Releases, changes, reason
from tools.canary.run import lines, red

CANARIES = ROOT / "tests" / "canaries"
SHORTLY_AFTER = datetime(2025, 11, 20, tzinfo=UTC)
"""Qdrant's client 1.16.0 is three days old."""
LATER = datetime(2025, 11, 30, tzinfo=UTC)
"""It is 13 days old, and Gradio 6.0.0 nine."""
NAMES = ["fastapi", "gradio", "httpx", "langchain", "openai", "pydantic", "qdrant-client"]


def looked_at(folder: Path, now: datetime, *names: str) -> Report:
    """What the canary says of these subjects of the past, as one, on that day."""
    for name in names:
        for file in (CANARIES / name).iterdir():
            with (folder / file.name).open("a") as whole:
                whole.write(file.read_text())
    return examine(subjects.folder(folder), now)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_breaks_of_the_past_are_named_though_they_come_at_once(tmp_path: Path) -> None:
    report = looked_at(tmp_path, LATER, "gradio-tuples", "qdrant-search")
    pairs, search = sorted(report["breaks"], key=lambda found: str(found["test"]))
    assert pairs["releases"] == {"gradio": "5.49.1 → 6.0.0"}
    assert pairs["test"] == "check_history.py::test_an_answer_knows_what_was_asked_before"
    # A KeyError, as the app says it.
    assert pairs["error"] == "gradio_client.exceptions.AppError: 0"
    assert search["releases"] == {"qdrant-client": "1.15.1 → 1.16.0"}
    assert search["test"] == "check_search.py::test_the_nearest_point_is_found"
    said = "AttributeError: 'QdrantClient' object has no attribute 'search'"
    assert search["error"] == said
    assert f"qdrant-client 1.15.1 → 1.16.0 breaks {search['test']}: {said}" in "\n".join(
        lines("both", report)
    )
    assert report["broken_today"] == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_release_younger_than_a_week_does_not_count_yet(tmp_path: Path) -> None:
    report = looked_at(tmp_path, SHORTLY_AFTER, "qdrant-search")
    assert report["breaks"] == []
    assert "qdrant-client" not in report["newer"]
    assert report["too_young"]["qdrant-client"] == "1.16.0, counts from 2025-11-24"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_broken_with_its_own_pins_is_no_news_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "check_more.py").write_text("def test_sum() -> None:\n    assert 1 + 1 == 3\n")
    report = looked_at(tmp_path, LATER, "qdrant-search")
    (broken,) = report["broken_today"]
    assert (broken["test"], broken["error"]) == (
        "check_more.py::test_sum",
        "assert (1 + 1) == 3",
    )
    assert [found["test"] for found in report["breaks"]] == [
        "check_search.py::test_the_nearest_point_is_found"
    ]
    assert "broken today, not by a release" in "\n".join(lines("qdrant-search", report))


@pytest.mark.parametrize("bad", [["langchain"], ["fastapi"], ["qdrant-client"], ["httpx"]])
def test_one_culprit_is_found_in_few_tries(bad: list[str]) -> None:
    tries = list[Sequence[str]]()

    def fails(names: Sequence[str]) -> bool:
        tries.append(names)
        return set(bad) <= set(names)

    assert culprits(NAMES, fails) == bad
    assert len(tries) <= 8


def test_releases_that_fail_only_together_are_found_together() -> None:
    found = culprits(NAMES, lambda names: {"gradio", "openai"} <= set(names))
    assert sorted(found) == ["gradio", "openai"]


def test_what_passes_when_it_is_tried_again_has_no_culprit() -> None:
    assert culprits(NAMES, lambda names: False) == []


def test_what_fails_now_and_then_has_no_culprit_and_an_end() -> None:
    tries = iter([False, False, False, True])  # with all of them, once
    assert culprits(NAMES, lambda names: next(tries, False)) == []


class Index:
    """Of two releases of each package; "late" comes with nothing but all the newest."""

    def __init__(self, names: str) -> None:
        self.today = dict.fromkeys(names.split(), "1")
        self.subject = subjects.Subject("small", [], [], [])

    def newest(self, held: Sequence[str] = ()) -> Releases:
        return {name: "1" if name in held else "2" for name in self.today}

    def mixed(self, names: Sequence[str]) -> Releases:
        return self.today | {name: "2" for name in names if name != "late"}

    def cannot_be_taken(self, newest: Releases) -> dict[str, str]:
        return {}

    too_young = cannot_be_taken


class Bench:
    """A test fails with the second release of the package that it is named after; those in
    `once` when they are first run alone."""

    def __init__(self, tests: str, once: str = "") -> None:
        self.tests, self.once = tests.split(), once.split()

    def run(self, releases: Releases) -> list[Failure]:
        return [Failure(name, "OSError: no", "") for name in self.tests if releases[name] == "2"]

    def again(self, releases: Releases, failure: Failure) -> bool:
        return failure.test not in self.once and releases[failure.test] == "2"


def judged(packages: str, bench: Bench) -> tuple[Report, list[str]]:
    """The report, and what is printed of it."""
    examination = Examination(Index(packages), bench, no_progress)  # type: ignore[arg-type]
    report = examination.report() | {"seconds": 0}
    return report, list(lines("small", report))


def test_a_failure_that_no_mixture_has_is_a_break_and_hides_no_other() -> None:
    report, told = judged("a late b", Bench("late b"))
    assert [(found["test"], [*found["releases"]]) for found in report["breaks"]] == [
        ("late", []),
        ("b", ["b"]),
    ]
    assert told[1].startswith("  culprit unknown")
    assert told[1].endswith(": late: OSError: no")
    assert told[2:] == ["  b 1 → 2 breaks b: OSError: no", "    and 1 more tests"]


def test_a_break_without_a_culprit_alone_is_not_green() -> None:
    report, told = judged("a late", Bench("late"))
    assert red(report)
    assert "BREAKS" in told[0]


def test_a_failure_that_goes_away_is_unclear_and_hides_no_other() -> None:
    report, told = judged("a b", Bench("a b", once="a"))
    assert [found["test"] for found in report["breaks"]] == ["b"]
    assert {found["test"] for found in report["unclear"]} == {"a"}
    assert "  unclear: a: OSError: no: it passes when tried again" in told


def test_it_says_when_it_stops_before_all_is_found() -> None:
    report, told = judged("a b c d e f", Bench("a b c d e f"))
    assert len(report["breaks"]) == ROUNDS == 5
    assert told[-1] == (
        "  not searched for what else breaks: 5 rounds have found a, b, c, d, e, and no more follow"
    )


def test_it_does_not_say_so_when_the_last_round_finds_nothing() -> None:
    report, _ = judged("a b c d e", Bench("a b c d"))
    assert (len(report["breaks"]), report["unsearched"]) == (4, [])


def test_what_is_broken_today_is_said_to_be_tried_twice() -> None:
    index = Index("a b")
    index.today["a"] = "2"
    report = Examination(index, Bench("a"), no_progress).report()  # type: ignore[arg-type]
    told = list(lines("small", report | {"seconds": 0}))
    assert told[1] == "  broken today, not by a release: a: OSError: no"
    assert "each failed twice" in told[2]
    assert red(report)


def test_what_the_failure_names_is_suspected_first(tmp_path: Path) -> None:
    (tmp_path / "requirements.in").write_text("fastapi==1\nqdrant-client==1\n")
    subject = subjects.folder(tmp_path)
    failure = Failure(
        "test_x", "AttributeError: x", ".../site-packages/grpc_tools/x.py: qdrant_client"
    )
    changed = ["anyio", "fastapi", "grpc-tools", "qdrant-client"]
    assert suspects(changed, subject, failure) == [
        "qdrant-client",
        "fastapi",
        "grpc-tools",
        "anyio",
    ]


def test_pytests_words_are_understood() -> None:
    said = """
    E   boom
    FAILED tests/test_a.py::test_one[a-b] - ValueError: no: such - thing
    ERROR tests/test_b.py - ImportError: cannot import name 'x'
    2 failed"""
    found = failures("\n".join(line.strip() for line in said.splitlines()))
    assert [(f.test, f.error) for f in found] == [
        ("tests/test_a.py::test_one[a-b]", "ValueError: no: such - thing"),
        ("tests/test_b.py", "ImportError: cannot import name 'x'"),
    ]


def test_a_file_that_cannot_be_read_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("from json import nothing")
    (tmp_path / "test_b.py").write_text("import json\n\njson.never")
    words = [sys.executable, *CALL, "test_a.py", "test_b.py"]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | FIXED, capture_output=True)
    (one, two) = failures(done.stdout.decode())
    assert (one.test, two.test) == ("test_a.py", "test_b.py")
    assert one.error.startswith("ImportError: cannot import name 'nothing' from 'json'")
    assert two.error == "AttributeError: module 'json' has no attribute 'never'"


def test_a_crash_before_the_first_test_is_a_failure_too() -> None:
    (found,) = failures("ImportError while loading conftest\nE   ImportError: no name 'y'\n")
    assert (found.test, found.error) == ("pytest", "ImportError: no name 'y'")


def test_uvs_reason_stands_without_its_command() -> None:
    said = """uv pip compile x ended with 1:   x No solution found when resolving dependencies:
  ╰─▶ Because only certifi<=2026.10.18 is available and a==1 depends on
      certifi>=2026.10.19, we can conclude that a==1 cannot be used.

      hint: certifi was found on another index"""
    assert reason(said) == (
        "Because only certifi<=2026.10.18 is available and a==1 depends on certifi>=2026.10.19, "
        "we can conclude that a==1 cannot be used."
    )


def test_a_package_that_comes_or_goes_is_a_change() -> None:
    assert changes({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == {
        "b": "2 → none",
        "c": "none → 3",
    }


@pytest.mark.parametrize("name", [*subjects.LIVE])
def test_the_live_tests_that_the_canary_calls_are_there(name: str) -> None:
    for test in subjects.LIVE[name]:
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text()


REQUIREMENTS = [
    *ROOT.glob("requirements*.txt"),
    *ROOT.glob("tkt-*/*/requirements*"),
    *ROOT.glob("notebooks/*/requirements*.txt"),
    *ROOT.glob("examples/*/requirements*.txt"),
]


def test_every_requirement_of_the_repository_is_exact() -> None:
    assert len(REQUIREMENTS) > 15
    loose = [f"{file.name}: {line}" for file in REQUIREMENTS for line in _wanted(file)]
    assert [line for line in loose if "==" not in line] == []


def _wanted(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-r", "--"))]
