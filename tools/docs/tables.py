"""Fills the tables of the pages that are made from the code, and says which are out of date.

    python tools/docs/tables.py            # writes them
    python tools/docs/tables.py --check    # ends with 1 when one differs

A page asks for one by `<!-- table: settings tkt-rag-agent -->`; `<!-- end of table -->` ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from parts import apps  # noqa: E402
from parts.programs import call  # noqa: E402
from tools.docs.pages import TABLE, collection, rendered, scratch, slug  # noqa: E402

SERVER = {
    "/": "The page.",
    "/docs": "Every field of this API, to try out.",
    "/mcp": "Tools for other agents (MCP, streamable HTTP).",
}
"""What FastAPI's own description leaves out."""
UNVERIFIED = "*not verified on a cluster*"

Cells = list[list[str]]


def commands_of(template: str) -> list[str]:
    """Modules of `agent` that an owner runs: they tell argparse their name. The others with a
    command line are run by the app."""
    house = ROOT / template / "{{app_name}}" / "agent"
    named = (re.search(r'prog="python -m agent\.(\w+)"', p.read_text()) for p in house.glob("*.py"))
    return sorted(found[1] for found in named if found)


@cache
def told(template: str) -> dict[str, Any]:
    """What `probe.py` learns of an app with all defaults, and its commands' help."""
    with scratch() as folder:
        app = rendered(template, Path(folder))
        python = apps.programs(app, template) / "python"
        env = {"PATH": os.environ["PATH"], "COLUMNS": "88", "DATA_DIR": str(Path(folder) / "data")}
        found: dict[str, Any] = json.loads(
            call([python, "-B", ROOT / "tools" / "docs" / "probe.py"], app, env)
        )
        found["help"] = {
            name: call([python, "-B", "-m", f"agent.{name}", "--help"], app, env)
            for name in commands_of(template)
        }
        return found


def settings(template: str) -> str:
    rows = [
        [f"`{s['name']}`", s["about"], s["kind"], f"`{s['default']}`" if s["default"] else ""]
        for s in told(template)["settings"]
    ]
    return grid(["variable", "what it is", "kind", "default"], rows)


def routes(template: str) -> str:
    rows = []
    for r in told(template)["routes"]:
        sent, status = ", ".join(f"`{name}`" for name in r["sent"]), ", ".join(r["status"])
        rows.append([f"`{r['call']}`", r["about"], sent, status])
    has_tools = (ROOT / template / "{{app_name}}" / "mcp_tools.py").exists()
    beside = [path for path in SERVER if path != "/mcp" or has_tools]
    rows += [[f"`{path}`", SERVER[path], "", ""] for path in beside]
    return grid(["call", "what it does", "what it takes (`*`: must be given)", "answers"], rows)


def metrics(template: str) -> str:
    rows = [
        [f"`{m['name']}`", m["type"], ", ".join(f"`{x}`" for x in m["labels"]), m["about"]]
        for m in told(template)["metrics"]
        if m["name"].startswith("agent_")
    ]
    return grid(["name", "type", "labels", "what it counts"], rows)


def commands(template: str) -> str:
    return "\n".join(f"```text\n{said.strip()}\n```\n" for said in told(template)["help"].values())


def manifest(template: str) -> str:
    found = yaml.safe_load((ROOT / template / "manifest.yaml").read_text())
    rows = [
        [f"`{p['name']}`", "parameter", p["description"], f"`{p['default']}`"]
        for p in found["parameters"]
    ]
    rows += [[f"`{s['name']}`", "secret", s["description"], ""] for s in found["secrets"]]
    return grid(["name", "kind", "what it is", "default"], rows)


def answers(template: str) -> str:
    found = yaml.safe_load((ROOT / template / "copier.yml").read_text())
    asked = {n: q for n, q in found.items() if not n.startswith("_") and q.get("when") is not False}
    rows = [[f"`{n}`", str(q["help"]), f"`{q['default']}`"] for n, q in asked.items()]
    return grid(["answer", "what it is", "default"], rows)


def make() -> str:
    said = call(["make", "--no-print-directory", "help"], ROOT, {"PATH": os.environ["PATH"]})
    return f"```text\n{said.strip()}\n```\n"


def unverified() -> str:
    """Every sentence or row of the pages that says so of itself, by page and heading."""
    found = []
    for page in collection():
        name, heading = page.name.removeprefix("docs/"), ""
        if not page.name.startswith("docs/") or "architecture/status" in name:
            continue
        for line in _paragraphs(TABLE.sub("", page.text)):
            heading = line.lstrip("# ") if line.startswith("#") else heading
            if UNVERIFIED in line:
                place = f"[{heading}](../{name}#{slug(heading)})"
                found.append([name.removesuffix(".md"), place, _claim(line)])
    return grid(["page", "under", "what it says"], found)


def canary() -> str:
    """What `make canary` saw of each part the last time."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "canary.json").read_text())["figures"]
    rows = []
    for part, report in figures.items():
        broken = [
            f"`{', '.join(f'{name} {release}' for name, release in found['releases'].items())}`: "
            f"{found['test'].rpartition('/')[2].replace('::', ', ')}"
            for found in report["breaks"]
        ]
        waiting = [
            f"{name} {what.partition(':')[0]}" for name, what in report["cannot_be_taken"].items()
        ]
        rows.append(
            [part, str(len(report["newer"])), "; ".join(broken) or "nothing", ", ".join(waiting)]
        )
    return grid(["part", "newer releases", "what breaks, and where", "cannot be taken"], rows)


def _paragraphs(text: str) -> list[str]:
    """Paragraphs and bullets in one line each, and rows of tables."""
    rows = re.sub(r"\n(?=[|\-*] |\d+\. |#)", "\n\n", text)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", rows)]


def _claim(line: str) -> str:
    """The sentences with the mark, and the cells of a row without its bars and links."""
    plain = re.sub(r"\(\[[^]]*\]\([^)]*\)\)|\[([^]]*)\]\([^)]*\)", r"\1", line)
    if plain.startswith("|"):
        return " · ".join(cell.strip() for cell in plain.strip("| ").split("|"))
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z*`])", re.sub(r"^(?:[-*]|\d+\.) |\*\*", "", plain))
    return " ".join(s for s in sentences if UNVERIFIED in s)


def grid(head: list[str], rows: Cells) -> str:
    lines = [head, ["---"] * len(head), *[[cell.replace("|", "\\|") for cell in r] for r in rows]]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines) + "\n"


MADE: dict[str, Callable[..., str]] = {
    made.__name__: made
    for made in (settings, routes, metrics, commands, manifest, answers, make, unverified, canary)
}


def filled(text: str) -> str:
    """A page's text with its tables as they should be; KeyError names one that nobody makes."""

    def made(found: re.Match[str]) -> str:
        kind, *about = found[1].split()
        return f"<!-- table: {found[1]} -->\n\n{MADE[kind](*about)}\n<!-- end of table -->"

    return TABLE.sub(made, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, stale = parser.parse_args().check, []
    for page in collection():
        if (wanted := filled(page.text)) != page.text:
            stale.append(page.name)
            if not check:
                page.path.write_text(wanted)
                print(f"{page.name} is up to date again")
    if check and stale:
        print(f"Out of date: {', '.join(stale)}; run `make docs`.")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
