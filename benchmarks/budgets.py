"""What the templates cost, against their limits and the last time: `make bench`.

    python benchmarks/budgets.py                      the parts that need no long wait, 25 minutes
    python benchmarks/budgets.py apps retrieval       some of them
    python benchmarks/budgets.py apps --before 82f2464    in turn with the templates of then, or
                                                      --template tkt-rag-agent one of them
    python benchmarks/budgets.py images check test    the images (as root), the two commands
    python benchmarks/budgets.py leak --minutes 60    memory after an hour of use

Keeps results/budgets.json; a figure that a run does not measure is left as it was. Ends with 1 when
one is past its limit (limits.json).

What a template's figures are:

    render_s      the platform's own call of Copier, word for word, as a process; seconds
    packages      distributions that the Dockerfile's stage `packages` installs, without pip
    install_mb    their files without bytecode, 10^6 bytes; bytecode_mb is the bytecode
    health_cpu_s, page_cpu_s   CPU seconds of the process until /health answers 200 and until /
                  is the page, with the bytecode compiled before and nothing configured
    …_of_floor    CPU seconds as so many times those of the floor, measured in turn
    rest_mib      resident memory of the app's process 5 s after that, and once it is idle
    loaded_mib    the same right after 1,000 documents of about 3,800 characters, where it holds
                  some, and 100 answers through the double of its gateway or engine; a crew's
                  answer is a whole run of four tasks
    floor_…       the same of the least: a template of one file, and bare_page.py, which has a page
                  of one field and the template's main libraries
    image_mb      the image with its base, unpacked, 10^6 bytes; null for tkt-vllm-gradio, whose
                  image of 8 GB is not built here; above_base_mb is without the base

Medians of 5, memory of one run. An app has no child processes but the
engine of tkt-vllm-gradio, which is not counted, and neither is that engine's environment: 8 GB of
vLLM with CUDA, of which engine_packages says how many distributions it pins. Apps run on this
machine's Python, the image on 3.12.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import draw
from rendered import ROOT, clean_environment, install
from results import keep, kept

sys.path.insert(0, str(ROOT))
from budgets_limits import bounds, flat, past

from tests.rendering import TEMPLATES

Figures = dict[str, Any]
NAME = "budgets"
EACH = ("render_s", "packages", "install_mb", "health_cpu_s", "page_cpu_s", "rest_mib",
        "loaded_mib", "image_mb")  # fmt: skip
ALL = ("quick_check_s", "full_test_s", "update_losses", "canary_breaks")
NOTHING: Figures = {template: dict.fromkeys(EACH) for template in TEMPLATES} | dict.fromkeys(ALL)
"""All figures there are to measure, which are null until they were."""


def main() -> int:
    known = {
        "apps": apps, "retrieval": retrieval, "overhead": overhead, "updates": updates,
        "canary": canary, "images": images, "check": check, "test": test, "leak": leak,
    }  # fmt: skip
    quick = ["apps", "retrieval", "overhead", "updates", "canary"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(known))
    parser.add_argument("--before", default="", metavar="COMMIT", help="templates of then, in turn")
    parser.add_argument("--template", choices=TEMPLATES, help="apps: this one alone")
    parser.add_argument("--minutes", type=float, default=60, help="of use, for the leak")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(known):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    if given.before and set(given.parts) - {"apps"}:
        parser.error("--before goes with the part apps alone: the others measure what lies here")
    last = kept(NAME)
    for part in given.parts or (["apps"] if given.before else quick):
        began = time.monotonic()
        print(f"\n{part}", flush=True)
        for figures in known[part](given):
            keep(NAME, _merged(NOTHING, _merged(kept(NAME), figures)))
        print(f"  {part}: {time.monotonic() - began:.0f} s", flush=True)
    draw.main()
    now = kept(NAME)
    print("\n".join(table(now, last)))
    broken = past(now, last)
    print("\n".join(broken))
    return int(bool(broken))


def _merged(old: Figures, new: Figures) -> Figures:
    """`new` over `old`, by template."""
    both = {
        name: _merged(old[name], value)
        for name, value in new.items()
        if isinstance(value, dict) and isinstance(old.get(name), dict)
    }
    return old | new | both


def table(now: Figures, last: Figures) -> list[str]:
    """A line a figure: as it is, as it was the last time and before, and its limit."""
    rows, old, limits = flat(now), flat(last), bounds()
    before = flat(now.get("before", {}))
    head = f"{'':48} {'now':>10} {'last':>10} {'before':>10}  limit"
    return [head] + [
        f"{name:48} {_said(value):>10} {_said(old.get(name)):>10} "
        f"{_said(before.get(name)):>10}  {limits.get(name, '')}"
        for name, value in rows.items()
    ]


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def apps(given: argparse.Namespace) -> Iterator[Figures]:
    """Each template: rendered, installed, started, at work."""
    from budgets_app import BEFORE, NOW, measured

    for template in [given.template] if given.template else TEMPLATES:
        with tempfile.TemporaryDirectory(prefix="budget-") as scratch:
            found = measured(template, given.before, Path(scratch))
            yield {template: found[NOW]}
            if given.before:
                yield {"before": {"commit": given.before, template: found[BEFORE]}}


def retrieval(_: argparse.Namespace) -> Iterator[Figures]:
    """Searches of tkt-rag-agent, with its packages."""
    from tests.doubles.gateway import Gateway
    from tests.doubles.serve import running
    from tests.live import bin_folder

    with running(Gateway().app) as url:
        done = subprocess.run(
            [bin_folder() / "python", "benchmarks/budgets_retrieval.py", url],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    yield {"tkt-rag-agent": json.loads(done.stdout.splitlines()[-1])}


def overhead(_: argparse.Namespace) -> Iterator[Figures]:
    """What each app adds to what it stands before, beside that alone, in the same run."""
    import crew
    import load
    import rag_footprint
    import vllm

    with tempfile.TemporaryDirectory() as scratch:
        rag = rag_footprint.first_token(install("tkt-rag-agent", Path(scratch) / "rag"))
    yield {
        "tkt-rag-agent": rag | load.throughput(),
        "tkt-crewai-agent": crew.overhead(),
        "tkt-vllm-gradio": vllm.overhead(),
    }


def updates(_: argparse.Namespace) -> Iterator[Figures]:
    """Owners' edits that are lost without a word, in updates to what lies here and to a version
    that changes the same places."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "updates.json"
        command = [sys.executable, "-m", "tests.updating", "--json", str(file)]
        subprocess.run(command, cwd=ROOT)  # it ends with 1 when something is lost
        if not file.exists():
            raise SystemExit("`python -m tests.updating` wrote no figures; run it to see why.")
        yield {"update_losses": json.loads(file.read_text())["update_losses"]}


def canary(_: argparse.Namespace) -> Iterator[Figures]:
    """What `make canary` found the last time: subjects that break with the newest releases."""
    found = kept("canary")
    if not found:
        print("  no results/canary.json yet: make canary")
        return
    reports = [report for report in found.values() if isinstance(report, dict)]
    yield {"canary_breaks": sum(bool(report["breaks"]) for report in reports)}


def images(_: argparse.Namespace) -> Iterator[Figures]:
    """Sizes of the images that tests/test_image.py builds, as root; the model server's is 8 GB, and
    is not built."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sizes.json"
        command = [sys.executable, "-m", "pytest", "tests/test_image.py", "-k", "its_size_is_told"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"IMAGE_SIZES": str(file)}, check=True)
        yield dict(json.loads(file.read_text()))


def check(_: argparse.Namespace) -> Iterator[Figures]:
    """Seconds of `make check` here, where it was run before."""
    yield {"quick_check_s": _seconds(["make", "check"], ROOT)}


def test(_: argparse.Namespace) -> Iterator[Figures]:
    """Seconds of `make test` in a clean clone of the last commit, which installs what it needs."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield {"full_test_s": _seconds(["make", "test"], clone)}


def _seconds(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=clean_environment())
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode} in {folder}.")
    return round(time.monotonic() - began, 1)


def leak(given: argparse.Namespace) -> Iterator[Figures]:
    """Memory of all apps after so many minutes of answers, all at once."""
    from budgets_leak import used

    with tempfile.TemporaryDirectory(prefix="leak-") as scratch:
        folder = Path(scratch)
        rendered = {template: install(template, folder / template) for template in TEMPLATES}
        yield used(rendered, given.minutes, folder / "data")


if __name__ == "__main__":
    sys.exit(main())
