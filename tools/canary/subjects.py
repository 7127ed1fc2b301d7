"""What the canary looks after: folders with exact requirements and checks of their own.

    requirements.in     what is imported, as name==release
    requirements.txt    that and all it needs

`tests/canaries/` holds two more, of the past.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from parts import apps  # noqa: E402

LIVE = {
    "tkt-rag-agent": [
        "test_live_app.py::test_it_answers_a_question_and_cites_the_passage",
        "test_doors.py::test_openais_client_gets_an_answer_with_its_sources",
        "test_doors.py::test_an_mcp_client_asks_searches_lists_and_adds",
        "test_page.py::test_without_a_model_the_page_says_so_and_quotes",
    ],
    "tkt-crewai-agent": [
        "test_crew_service.py::test_a_run_is_promised_followed_and_kept",
        "test_crew_service.py::test_an_assistant_uses_the_crew_as_a_tool",
        "test_crew_page.py::test_without_a_model_it_is_a_rehearsal_and_says_so",
    ],
    "tkt-vllm-gradio": [
        "test_model_server.py::test_an_answer_is_a_run_that_is_resumed",
        "test_model_server.py::test_the_openai_client_works_with_it",
        "test_model_page.py::test_it_shows_how_far_the_model_is_and_then_answers",
    ],
}
"""Of tests/, those in which the app starts, is asked, and shows its page."""
TOOLS = ["test_roads.py", "test_answers.py", "test_doubles.py", "test_engine_double.py"]
"""Of tests/, those that need what the tools bring, and no app."""
NAMES = [*LIVE, "tools"]


@dataclass(frozen=True)
class Check:
    """A call of pytest in `folder`: by the subject's own Python, or by this one, which starts the
    subject's app."""

    folder: Path
    tests: Sequence[str]
    own: bool = True


@dataclass(frozen=True)
class Subject:
    name: str
    wanted: Sequence[Path]
    """Each names what is imported: requirements.in."""
    pins: Sequence[Path]
    """What is installed today, one for each of `wanted`; none where nobody wrote it down."""
    checks: Sequence[Check]

    def direct(self) -> dict[str, str]:
        """The pinned release by what is asked for, extras included: {"uvicorn[standard]": ...}."""
        return dict(pair for path in self.wanted for pair in _pairs(path))

    def flags(self) -> list[str]:
        """What the command in the pins' first lines leaves out or replaces."""
        found: list[str] = []
        for path in self.pins:
            for flag, name in re.findall(r"(--(?:override|exclude)s?)[ =](\S+)", _head(path)):
                found += [flag, str(path.parent / name)]
        return found


def _head(path: Path) -> str:
    return "\n".join(path.read_text().splitlines()[:3])


def _pairs(path: Path) -> list[tuple[str, str]]:
    """(name, release) of each line, and of the files that it includes."""
    found: list[tuple[str, str]] = []
    for line in path.read_text().splitlines():
        if include := re.match(r"-r (\S+)", line):
            found += _pairs(path.parent / include[1])
        elif pin := re.match(r"([\w.\[\],-]+)==(\S+)", line):
            found.append((pin[1], pin[2]))
    return found


def folder(path: Path) -> Subject:
    """A folder with requirements.in, requirements.txt and check_*.py."""
    tests = sorted(file.name for file in path.glob("check_*.py"))
    wanted, pins = path / "requirements.in", path / "requirements.txt"
    return Subject(path.name, [wanted], [pins], [Check(path, tests)])


def template(name: str, to: Path) -> Subject:
    """The app of a template, rendered into `to`; with what a laptop adds."""
    app = apps.render(name, to / name, "app")
    files = [app / "requirements.in", app / "requirements-local.in"]
    wanted = [file for file in files if file.exists()]
    live = [f"tests/{test}" for test in LIVE[name]]
    checks = [Check(app, ["tests"]), Check(ROOT, live, own=False)]
    return Subject(name, wanted, [file.with_suffix(".txt") for file in wanted], checks)


def tools() -> Subject:
    """What this repository itself is worked on with."""
    wanted = ROOT / "requirements-dev.txt"
    return Subject("tools", [wanted], [], [Check(ROOT, [f"tests/{test}" for test in TOOLS])])
