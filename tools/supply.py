"""What the templates are made of: `make supply` writes it down, `make audit` asks about it.

    tkt-*/sbom.cdx.json           CycloneDX 1.6: what the image's requirements.txt installs
    tkt-*/sbom-engine.cdx.json    the same of vLLM's environment, without licences: it is 8 GB
    docs/reference/licences.md    the licence of each package

The same requirements give the same bytes. Packages are laid out for the image's Python and
processor, whatever this machine's are, and none is run.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from packaging.requirements import Requirement  # noqa: E402

from parts.environments import environment, make  # noqa: E402
from parts.programs import call  # noqa: E402

WANTED = ["cyclonedx-bom==7.5.0", "pip-audit==2.10.1"]
TEMPLATES = sorted(path.name for path in ROOT.glob("tkt-*"))
PAGE = ROOT / "docs" / "reference" / "licences.md"
PYTHON, PLATFORM = "3.12", "x86_64-unknown-linux-gnu"
"""Of the image."""
IMAGE = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
}
"""The same in a requirement's words."""
UNSTATED = "not stated in the package"
BINDING = re.compile(r"GPL|EUPL|SSPL|BUSL|CC-BY-NC|CC-BY-SA|Commons Clause|Proprietary", re.I)
"""In a licence that an app under Apache-2.0 cannot take along without thought."""
READ = {
    "cel-python": "Apache-2.0",
    "crewai": "MIT",  # its README, in its metadata
    "crewai-core": UNSTATED,  # the README of crewai, from the same repository, says MIT
    "overrides": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "pypdfium2": "BSD-3-Clause AND Apache-2.0",
}
"""What a person read of those whose metadata names none in a form that a program understands."""
ALLOWED: dict[str, str] = {}
"""Why a package with a binding licence is taken all the same."""
DATABASES = ("osv", "pypi")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--audit", action="store_true", help="ask for known vulnerabilities")
    if parser.parse_args().audit:
        return audit()
    for template in TEMPLATES:
        print(f"Laying out what {template} needs ...", flush=True)
        (ROOT / template / "sbom.cdx.json").write_text(sbom(requirements(template)))
    engine = requirements("tkt-vllm-gradio").with_name("requirements-engine.txt")
    (ROOT / "tkt-vllm-gradio" / "sbom-engine.cdx.json").write_text(named_only(engine))
    PAGE.write_text(page())
    troubles = list(unfitting())
    print("\n".join(troubles) or f"{len(components())} packages, all with a licence that fits")
    return len(troubles) > 0


def requirements(template: str) -> Path:
    return ROOT / template / "{{app_name}}" / "requirements.txt"


def sbom(pins: Path) -> str:
    """CycloneDX of what these install in the image, with dependencies and licences."""
    with tempfile.TemporaryDirectory(prefix="supply-") as folder:
        venv = Path(folder) / "venv"
        make(venv)
        (packages,) = venv.glob("lib/python*/site-packages")
        target = ["--target", packages, "--python-version", PYTHON, "--python-platform", PLATFORM]
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"]
        call([*uv, *target, "--requirement", pins])
        return _cyclonedx("environment", venv)


def named_only(pins: Path) -> str:
    """CycloneDX of names and releases."""
    return _cyclonedx("requirements", pins)


def _cyclonedx(kind: str, source: Path) -> str:
    program = environment("supply", WANTED) / "cyclonedx-py"
    found = json.loads(call([program, kind, "--output-reproducible", "--sv", "1.6", source]))
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def components() -> dict[str, tuple[str, str, list[str]]]:
    """(release, licence, templates) of each package, by its name, from the lists as they lie."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for template in TEMPLATES:
        listed = json.loads((ROOT / template / "sbom.cdx.json").read_text())
        for part in listed["components"]:
            name = plain(part["name"])
            key = f"{name} {part['version']}"
            release, licence, users = found.get(key, (part["version"], licence_of(part), []))
            found[key] = (release, licence, [*users, template])
    return dict(sorted(found.items()))


def plain(name: str) -> str:
    """As the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(component: dict[str, Any]) -> str:
    """What its metadata declares, as an identifier where it has one; "" when it says nothing."""
    declared = component.get("licenses", [])
    exact = [one.get("expression") or one["license"].get("id") for one in declared]
    named = [one["license"].get("name", "") for one in declared if "license" in one]
    words = [name.rpartition(":: ")[2] for name in named]
    found = list(dict.fromkeys([*filter(None, exact)] or [*filter(None, words)]))
    return " and ".join(found) or READ.get(plain(component["name"]), "")


def page() -> str:
    rows = [
        f"| {key.split()[0]} | {release} | {licence or 'none named'} | {_users(users)} |"
        for key, (release, licence, users) in components().items()
    ]
    return "\n".join([HEAD, *rows, ""])


HEAD = """# Licences

You will find here the licence of every package that an app's image installs, and which template
brings it. `make supply` makes this page from each template's `sbom.cdx.json`;
[keeping up](../guides/keeping-up.md) tells what for.

A licence stands here as the package's own metadata declares it, or as a person read it in the
package's files. "Not stated in the package" means that neither says one. vLLM's environment is not
in this table: `tkt-vllm-gradio/sbom-engine.cdx.json` lists its packages without licences.

| package | release | licence | templates |
|---|---|---|---|"""


def _users(templates: list[str]) -> str:
    return "all" if templates == TEMPLATES else ", ".join(templates)


def unfitting() -> list[str]:
    """A sentence for each package whose licence does not fit, or is not known."""
    found = []
    for key, (_, licence, users) in components().items():
        name = key.split()[0]
        if not licence:
            found.append(
                f"{key} ({', '.join(users)}) names no licence: read its files, and enter what they "
                "say in READ of tools/supply.py."
            )
        elif BINDING.search(licence) and name not in ALLOWED:
            found.append(
                f"{key} ({', '.join(users)}) is under {licence}: do without it, or say in ALLOWED "
                "of tools/supply.py why it may stay."
            )
    return found


def audit() -> int:
    """1 when a pinned release is known to be vulnerable, 2 when nobody could be asked."""
    told: list[str] = []
    for path in audited():
        found = asked(path)
        told += found
        said = found or ["no known vulnerability"]
        print("\n".join(f"{_short(path)}: {line}" for line in said), flush=True)
    if any(not line.startswith("NOT ASKED") for line in told):
        return 1
    return 2 if told else 0


def audited() -> list[Path]:
    """Each file of exact requirements: the apps', and this repository's own."""
    return sorted([*ROOT.glob("tkt-*/*/requirements*.txt"), *ROOT.glob("requirements*.txt")])


def _short(path: Path) -> str:
    """ "tkt-rag-agent/requirements.txt" """
    return str(path.relative_to(ROOT)).replace("{{app_name}}/", "")


def in_image(pins: Path) -> list[str]:
    """What these requirements install in the image, as name==release."""
    wanted = [Requirement(line) for line in re.findall(r"^[A-Za-z].*$", pins.read_text(), re.M)]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate(dict(IMAGE))]
    return [f"{plain(one.name)}{one.specifier}" for one in here]


def asked(pins: Path) -> list[str]:
    """A line for each known vulnerability of these releases."""
    program = environment("supply", WANTED) / "pip-audit"
    words = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    for database in DATABASES:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(in_image(pins)))
            file.flush()
            done = subprocess.run(
                [program, "--requirement", file.name, *words, "--vulnerability-service", database],
                capture_output=True, text=True,
            )  # fmt: skip
        found = understood(done.stdout)
        if found is not None:
            return found
    return [
        "NOT ASKED: neither api.osv.dev nor pypi.org/pypi/NAME/json told of these packages. This "
        "says nothing about them: call `make audit` where one of the two can be reached."
    ]


def understood(said: str) -> list[str] | None:
    """None when pip-audit got no answer about all packages; it ends with 0 then too."""
    try:
        listed = json.loads(said)["dependencies"]
    except ValueError:
        return None
    if any("skip_reason" in one for one in listed):
        return None
    return [
        f"{one['name']} {one['version']}: {known['id']}, fixed in "
        f"{', '.join(known['fix_versions']) or 'no release'}"
        for one in listed
        for known in one["vulns"]
    ]


if __name__ == "__main__":
    sys.exit(main())
