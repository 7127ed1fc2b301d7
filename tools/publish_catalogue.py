"""The entry of a published template in the platform's catalogue, `repositories.json`.

The keys were read in the platform's source, and an entry there was *not verified on a cluster*.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
GITHUB = r"(?:https://(?:[^/@]*@)?|ssh://git@|git@)github\.com[/:]([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
TAKEN = "tkt-vllm-gradio"
"""A name that the platform's own catalogue has."""


def entry(template: str, remote: str) -> str:
    """It as JSON, and what to mind; OWNER stands where `remote` is not on GitHub."""
    found = re.fullmatch(GITHUB, remote)
    owner, name = (found[1], found[2]) if found else ("OWNER", template)
    manifest = yaml.safe_load((ROOT / template / "manifest.yaml").read_text())
    catalogued = {
        "name": name,
        "type": "application_template",
        "description": manifest["metadata"]["description"],
        "github_url": f"https://github.com/{owner}/{name}",
        "org": owner,
        "deployment_type": "app",  # the platform's others are parts of it, of a fixed name
        "fixed_name": None,
    }
    notes = [] if found else ["It takes addresses of GitHub alone: put yours for OWNER."]
    if name == TAKEN:
        notes.append(
            f"The platform has a {TAKEN} of its own, a component called vllm. In the catalogue of "
            "your organisation, your entry takes its place; a repository of another name leaves it."
        )
    return "\n\n".join([json.dumps(catalogued, indent=2, ensure_ascii=False), *notes])
