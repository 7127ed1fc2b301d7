"""`make canary`: would the newest releases of what we build on break us?

    python tools/canary/run.py                    the templates' apps and this repository's tools
    python tools/canary/run.py tkt-rag-agent      one of them
    python tools/canary/run.py DIR --now 2025-11-30
                                                  a folder with checks of its own, as of that day

The checks are run with today's releases first: what fails then is no news. Then with the newest;
of what fails, the package is searched for whose new release does it. Exit code 1 when anything
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.canary import subjects  # noqa: E402
from tools.canary.examine import Report, examine  # noqa: E402
from tools.canary.subjects import Subject  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="templates, tools, or folders; all without one")
    parser.add_argument("--now", type=_moment, default=datetime.now(UTC), metavar="DAY")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        chosen = [_subject(name, Path(folder)) for name in options.names or subjects.NAMES]
        reports = _examined(chosen, options.now)
    print("\n".join(line for name in reports for line in lines(name, reports[name])))
    _keep({name: report for name, report in reports.items() if name in subjects.NAMES})
    return int(any(red(report) for report in reports.values()))


def red(report: Report) -> bool:
    return bool(report["breaks"] or report["broken_today"])


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _subject(name: str, to: Path) -> Subject:
    if name in subjects.LIVE:
        return subjects.template(name, to)
    return subjects.tools() if name == "tools" else subjects.folder(Path(name).resolve())


def _examined(chosen: Sequence[Subject], now: datetime) -> dict[str, Report]:
    reports = {}
    with tqdm(total=3 * len(chosen), unit="step") as bar:

        @contextlib.contextmanager
        def step(what: str) -> Iterator[None]:
            bar.total = max(bar.total or 0, bar.n + 1)  # a search was not foreseen
            bar.set_description(f"{subject.name}: {what}")
            yield
            bar.update()

        for place, subject in enumerate(chosen, 1):
            reports[subject.name] = examine(subject, now, step)
            bar.total = bar.n + 3 * (len(chosen) - place)
    return reports


def _keep(reports: Mapping[str, Report]) -> None:
    """Beside what was seen of the others before."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from results import keep, kept

    known = {name: report for name, report in kept("canary").items() if name in subjects.NAMES}
    if reports:
        known |= reports
        keep("canary", known)


def lines(name: str, report: Report) -> Iterator[str]:
    """A subject's part of the table."""
    judged = "BREAKS" if red(report) else "green"
    yield f"{name:20} {judged}, {len(report['newer'])} newer releases, {report['seconds']} s"
    for failure in report["broken_today"]:
        yield f"  broken today, not by a release: {failure['test']}: {failure['error']}"
    if report["broken_today"]:
        yield "    each failed twice; a test with a limit of time does so on a busy machine too"
    for found in report["breaks"]:
        yield f"  {_culprit(found['releases'])} {found['test']}: {found['error']}"
        if found["failing_tests"] > 1:
            yield f"    and {found['failing_tests'] - 1} more tests"
    for found in report["unclear"]:
        yield f"  unclear: {found['test']}: {found['error']}: {found['why']}"
    for why in report["unsearched"]:
        yield f"  not searched for what else breaks: {why}"
    for kind in ("cannot_be_taken", "too_young"):
        for package, what in report[kind].items():
            yield f"  {kind.replace('_', ' ')}: {package} {what}"


def _culprit(releases: Mapping[str, str]) -> str:
    if not releases:
        return "culprit unknown, all newest together break, and no mixture with today's:"
    return " with ".join(f"{name} {release}" for name, release in releases.items()) + " breaks"


if __name__ == "__main__":
    sys.exit(main())
