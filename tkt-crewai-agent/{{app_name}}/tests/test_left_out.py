"""What left-out.txt names is all that is missing here, after an upgrade too."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent.parent


def test_what_each_package_needs_is_installed_or_left_out() -> None:
    installed = {canonicalize_name(found.name) for found in distributions()}
    missing = {name for found in distributions() for name in needs(found)} - installed
    assert missing <= left_out(), "compile requirements.txt anew, as requirements.in says"


def needs(found: Distribution) -> set[str]:
    """What it needs on this machine, without its extras."""
    wanted = [Requirement(line) for line in found.requires or []]
    here = [need for need in wanted if not need.marker or need.marker.evaluate({"extra": ""})]
    return {canonicalize_name(need.name) for need in here}


def left_out() -> set[str]:
    lines = (HERE / "left-out.txt").read_text().splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}
