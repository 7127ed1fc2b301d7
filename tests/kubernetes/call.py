"""What the platform passes to Copier in each of its states, and the two commands word for word."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.rendering import call, copier, manifest

ERAS = ("2025", "2026")
FIXED = {
    "project_name", "domain_name", "admin_username", "namespace", "k8s_namespace",
    "container_registry", "registry_subdomain", "github_token",
}  # fmt: skip
"""What the 2026 platform passes and does not make a variable of its pods."""


@dataclass(frozen=True)
class Deployed:
    """One deployment of an app. `passed` is all that Copier gets, by name; `secrets` are those of
    the manifest that the administrator has set, which the 2025 platform alone hands on."""

    era: str
    app: str
    domain: str
    passed: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def registry(self) -> str:
        return self.passed["container_registry"]

    @property
    def parameters(self) -> dict[str, str]:
        """What becomes a variable of each pod, under its name in capitals."""
        given = {k: v for k, v in self.passed.items() if k not in FIXED and v}
        return given if self.era == "2026" else {}


def deployment(era: str, template: str, app: str = "demo-app", **answers: str) -> Deployed:
    """As the Templates page asks for it: with the default of each parameter of the manifest."""
    asked = manifest(template)["parameters"]
    assert isinstance(asked, list)
    parameters = {parameter["name"]: parameter["default"] for parameter in asked}
    domain = answers.pop("domain_name", "example.org")
    passed = {"project_name": app, "domain_name": domain, "project_description": ""}
    passed |= {"container_registry": f"registry.{domain}", "author_name": "Thinkube User"}
    passed |= {"author_email": f"user@{domain}"} | parameters | answers
    return Deployed(era, app, domain, passed | (_newer(app) if era == "2026" else {}))


def _newer(app: str) -> dict[str, str]:
    return {
        "admin_username": "tkadmin",
        "namespace": app,
        "k8s_namespace": app,
        "registry_subdomain": "registry",
        "deployment_id": "7f3a",
        "overwrite_existing": "True",
        "system_username": "thinkube",
        "master_node_name": "node1",
        "master_node_ip": "10.0.0.1",
        "ansible_user": "thinkube",
        "ansible_ssh_private_key_file": "/home/thinkube/.ssh/id_ed25519",
        "ansible_become_pass": "sudo-password",
        "github_token": "token-of-github",
    }


def run_copier(deployed: Deployed, source: Path | str, to: Path) -> None:
    """2025: trusted, options first. 2026: not trusted, over what is there."""
    given = deployed.passed.items()
    if deployed.era == "2025":
        data = [f"--data={name}={value}" for name, value in given if value]
        options = ["--trust", "--defaults", "--vcs-ref=HEAD"]
        call([copier(), "copy", *options, *data, str(source), str(to)])
    else:
        data = [part for name, value in given for part in ("--data", f"{name}={value}")]
        call([copier(), "copy", "--force", "--vcs-ref=HEAD", str(source), str(to), *data])


def words_of_2025(deployed: Deployed) -> str:
    """The line of shell that the 2025 platform runs: each value in single quotes, which an `eval`
    inside `bash -c "..."` reads a second time."""
    data = " ".join(f"--data={name}='{value}'" for name, value in deployed.passed.items() if value)
    return f'bash -c "eval \\"copier copy --trust --defaults --vcs-ref=HEAD {data} URL DEST\\""'
