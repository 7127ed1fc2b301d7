"""The limits of benchmarks/limits.json, and a sentence for each figure that is past one.

A figure is named as there: `packages` of a template as `tkt-rag-agent.packages`, another by its own
name. CPU seconds are compared as they would be on the machine for which the limits were set: as
many times the CPU seconds of a fixed loop that was timed in the same minute. The machines of this
project differ by the factor of two from one hour to the next, and a loop differs with them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMITS = Path(__file__).resolve().parent / "limits.json"
LOOP_S = 0.2
"""CPU seconds of the loop on a quick machine: a unit, no more."""

CPU = ("render_cpu_s", "health_cpu_s", "page_cpu_s")


def flat(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by the names that the limits use; those of CPU as on the limits' machine too, with
    `calibrated` behind their name."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if not isinstance(value, dict):
            found[name] = value
        elif name.startswith("tkt-"):
            found |= {f"{name}.{key}": one for key, one in (value | calibrated(value)).items()}
    return found


def calibrated(figures: dict[str, Any]) -> dict[str, float]:
    loop_s = figures.get("loop_cpu_s")
    names = [name for name in figures if name in CPU]
    return {f"{n}_calibrated": round(figures[n] * LOOP_S / loop_s, 2) for n in names if loop_s}


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
