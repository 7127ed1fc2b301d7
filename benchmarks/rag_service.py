"""tkt-rag-agent as a service: fuzzed, loaded, drilled, killed and attacked.

    python benchmarks/rag_service.py [DATA] [fuzz load drills kills injections]

Without names it measures all parts, in about 15 minutes; DATA is the folder that holds
`bipia_injection` (microsoft/BIPIA, benchmark/, as a tar file), without which its attacks are left
out. Prints a table and keeps it in results/rag-service.json; a figure that a run does not measure
is left as it was.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import injections
import load
from rendered import ROOT
from results import save

sys.path.insert(0, str(ROOT))
from tests.test_bad_days import kill_during_ingest
from tests.test_fuzz import fuzz

KILLS = 20
Data = Path | None


def main() -> None:
    known: dict[str, Callable[[Data], dict[str, Any]]] = {
        "fuzz": fuzzed, "load": loaded, "drills": drilled, "kills": killed, "injections": attacked,
    }  # fmt: skip
    words = sys.argv[1:]
    data = next((Path(word) for word in words if word not in known), None)
    for name in [word for word in words if word in known] or known:
        print(f"\n{name}", flush=True)
        save("rag-service", known[name](data))


def fuzzed(_: Data) -> dict[str, Any]:
    """Requests made from the description, and how many were answered by a fault of the app."""
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder))
    return {
        "fuzz_examples": found.examples,
        "fuzz_5xx": found.failed,
        "fuzz_documents_lost": len(found.lost),
    }


def loaded(_: Data) -> dict[str, Any]:
    """200 streams for a minute, and tokens at full speed beside a bare pass-through."""
    seen, speed = load.streams(), load.throughput()
    return {
        "streams": seen["streams"],
        "streams_lost": seen["lost"],
        "streams_crossed": seen["crossed"],
        "streams_segments": seen["segments"],
        "streams_peak_mib": round(seen["peak_mib"]),
        "streams_health_slowest_ms": round(seen["health_slowest_ms"]),
        "streams_app_cpu_s": round(seen["app_cpu_s"], 1),
        **speed,
    }


def drilled(_: Data) -> dict[str, Any]:
    """The bad days of tests/test_bad_days.py."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "drills.xml"
        command = [sys.executable, "-m", "pytest", "tests/test_bad_days.py", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    passed = {str(case.get("name")): not len(case) for case in cases}
    return {"drills": len(passed), "drills_passed": sum(passed.values()), "drills_each": passed}


def killed(_: Data) -> dict[str, Any]:
    """SIGKILL at a moment that chance picks in an upload."""
    with tempfile.TemporaryDirectory() as folder:
        lost = kill_during_ingest(Path(folder), KILLS)
    return {"ingest_kill_tries": KILLS, "ingest_kill_lost": lost}


def attacked(data: Data) -> dict[str, Any]:
    """Orders to the model, fake citations, images, scripts and unseen text inside documents."""
    found = injections.measure(data)
    return {
        "injections": found.pop("injections"),
        "injections_obeyed": found.pop("injections_obeyed"),
        "injections_model": found.pop("model"),
        "injections_more": found,
    }


if __name__ == "__main__":
    main()
