"""What was published of each template: `releases.json` names, by version, the commit it came from.

The tags themselves are the published repositories': here, a version tag would be taken for the
collection's own. The same commit always splits into the same commit there, so a tag can be made
again from its line.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "releases.json"


def released(template: str) -> dict[str, str]:
    """The commit of this repository by version ("0.1.0"), the oldest first; none yet gives {}."""
    record = json.loads(RECORD.read_text()).get(template, {})
    return dict(sorted(record.items(), key=lambda release: numbers(release[0])))


def keep(template: str, version: str, commit: str) -> None:
    """Write down that `version` was made from `commit` of this repository."""
    record = json.loads(RECORD.read_text())
    record.setdefault(template, {})[version] = commit
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


def numbers(version: str) -> list[int]:
    """To compare by: 0.10.0 is newer than 0.9.0."""
    return [int(part) for part in version.split(".")]
