"""Whether an app grows as it is used: its memory over the answers that it gives without a pause."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from budgets_work import DOCUMENTS, Work, at_work

EVERY_S = 5
"""Between two looks at the memory."""
WARM = 0.25
"""Share of the time that does not count: caches fill."""
Look = tuple[int, float]
"""Answers so far, MiB."""


def used(apps: dict[str, Path], minutes: float, scratch: Path) -> dict[str, dict[str, Any]]:
    """What becomes of the memory of each app, all at once for so many minutes."""
    with ThreadPoolExecutor(len(apps)) as pool:
        going = {
            template: pool.submit(_used, template, app, minutes, scratch / template)
            for template, app in apps.items()
        }
        return {template: one.result() for template, one in going.items()}


def _used(template: str, app: Path, minutes: float, folder: Path) -> dict[str, Any]:
    with at_work(template, app, folder) as work:
        if work.take_in:
            work.take_in(DOCUMENTS)
        looks = _looks(template, work, minutes * 60)
    later = looks[int(len(looks) * WARM) :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    return {
        "used_minutes": minutes,
        "used_answers": looks[-1][0],
        "used_mib": round(looks[-1][1]),
        "grown_mib_per_1000_answers": round(slope * 1000, 2),
    }


def _looks(template: str, work: Work, seconds: float) -> list[Look]:
    began = time.monotonic()
    looks: list[Look] = []
    answers = 0
    while (passed := time.monotonic() - began) < seconds or len(looks) < 4:
        if passed >= len(looks) * EVERY_S:
            looks.append((answers, work.process.rss_mib()))
            if len(looks) % 12 == 0:
                left = (seconds - passed) / 60
                print(
                    f"  {template}: {answers} answers, {looks[-1][1]:.0f} MiB, {left:.0f} min left"
                )
        work.answer(answers)
        answers += 1
    return [*looks, (answers, work.process.rss_mib())]
