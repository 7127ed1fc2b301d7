"""Where benchmarks keep what they saw: one JSON file a benchmark, quoted by the pages."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"


def save(name: str, figures: dict[str, Any]) -> None:
    """Print `figures` as a table and merge them into `results/NAME.json`."""
    keep(name, figures)
    for key, value in figures.items():
        print(f"{key:28} {value}")


def keep(name: str, figures: dict[str, Any]) -> None:
    """Merge `figures` into `results/NAME.json`."""
    path = FOLDER / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"command": "", "figures": {}}
    script, *words = sys.argv
    data = {word for word in words if Path(word).is_dir() and not word.startswith("tkt-")}
    words = ["DATA" if word in data else word for word in words]  # where it was is no matter
    command = " ".join(["python", script, *words])
    commands = dict.fromkeys([*filter(None, before["command"].split("; ")), command])
    FOLDER.mkdir(exist_ok=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "; ".join(commands),
        "machine": machine(),
        "figures": before["figures"] | figures,
    }
    new = path.with_suffix(".new")  # a second benchmark may read it meanwhile
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    new.replace(path)


def kept(name: str) -> dict[str, Any]:
    """The figures of `results/NAME.json`; none when there is no such file."""
    path = FOLDER / f"{name}.json"
    return dict(json.loads(path.read_text())["figures"]) if path.exists() else {}


def machine() -> str:
    """CPU, cores, memory, Python: what a figure depends on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in info.splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = models[0] if models else platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"
