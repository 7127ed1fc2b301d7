"""The limits of benchmarks/limits.json, and a sentence for each figure that is past one.

A figure is named as there: `packages` of a template as `tkt-rag-agent.packages`, another by its own
name.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMITS = Path(__file__).resolve().parent / "limits.json"


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by the names that the limits use."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if not isinstance(value, dict):
            found[name] = value
        elif name.startswith("tkt-"):
            found |= {f"{name}.{key}": one for key, one in value.items()}
    return found


def past(figures: dict[str, Any], last: dict[str, Any], limits: Path = LIMITS) -> list[str]:
    """A sentence for each figure that breaks its limit; `last` are those of the run before."""
    now, before = flat(figures), flat(last)
    return [
        f"{_named(name)} is {now[name]}, {how} its limit of {bound} (last time "
        f"{before.get(name, 'not measured')}): {why} Take out what it costs, or raise the limit in "
        f"benchmarks/{limits.name} and say why."
        for name, how, bound, why in _limits(limits)
        if now.get(name) is not None
        and (now[name] > bound if how == "above" else now[name] < bound)
    ]


def bounds(limits: Path = LIMITS) -> dict[str, str]:
    """`at most 105` by name."""
    words = {"above": "at most", "below": "at least"}
    return {name: f"{words[how]} {bound}" for name, how, bound, _ in _limits(limits)}


def _limits(limits: Path) -> Iterator[tuple[str, str, float, str]]:
    """Name, "above" or "below" where it is broken, the bound, and why it is there."""
    for name, limit in json.loads(limits.read_text()).items():
        how = "above" if "most" in limit else "below"
        yield name, how, limit["most" if how == "above" else "least"], limit["why"]


def _named(name: str) -> str:
    template, _, figure = name.rpartition(".")
    return f"{template}: {figure}" if template else figure
