"""What the platform asks of a template: the contract's machine-checkable assertions, by number.

1-4 manifest · 6-8 questions · 9-12 what is rendered · 13-17 deployment · 20-22 quota and routes ·
31-35 hygiene. Elsewhere: 8, 9 and 38 also in test_redeploy and test_roads; 18, 23-30 in
test_live_*.py, which start the app; 36 in test_page.py. 37 is checked here against the README, and
its long form, OPERATING.md, against the settings.

Departures: 5 and 19 need the platform's own code, which is not here; what 19 asks of the objects is
held in test_push.py, with objects written anew. 7 counts the computed questions (`when: false`)
among the questions. 33 is checked for an environment of the app's own, since the platform base
image's pins (starlette 0.41) do not fit Gradio 6.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.rendering import (
    COPIERS,
    ROOT,
    TEMPLATES,
    call,
    commit_all,
    files,
    manifest,
    questions,
    render,
)

STANDARD = {"project_name", "project_description", "author_name", "author_email"}
PLATFORM = {"domain_name", "container_registry"}
FILTERED = ("ansible_", "gitea_", "keycloak_", "argocd_", "harbor_", "shared_", "local_", "code_")
IMAGES = {"python:3.12-slim", "python-base:3.12-slim", "test-runner:latest"}
MEMORY = {"medium": 512, "large": 1024, "xlarge": 16384}  # MiB
CPU = {"medium": 1000, "large": 2000, "xlarge": 4000}  # thousandths of a core


@pytest.fixture(scope="session", params=[(t, c) for t in TEMPLATES for c in COPIERS], ids=str)
def rendered(request, tmp_path_factory) -> tuple[str, Path]:
    """A template rendered with what the older platform passes and nothing else, without trust."""
    template, version = request.param
    to = tmp_path_factory.mktemp("rendered") / "app"
    answers = {"project_name": "demo-app", "domain_name": "example.org"}
    registry = "registry.example.org"
    render(ROOT / template, to, version=version, container_registry=registry, **answers)
    return template, to


@pytest.fixture(params=TEMPLATES)
def template(request) -> str:
    return request.param


def deployment(folder: Path) -> dict:
    return yaml.safe_load((folder / "thinkube.yaml").read_text())


def containers(folder: Path) -> list[dict]:
    return deployment(folder)["spec"]["containers"]


def test_1_the_manifest_names_its_template(template):
    described = manifest(template)
    assert described["apiVersion"] == "thinkube.io/v1"
    assert described["kind"] == "TemplateManifest"
    metadata = described["metadata"]
    assert metadata["name"] == template, "manifest.yaml must name its template by its folder"
    assert re.fullmatch(r"[a-z0-9-]+", template)
    assert all(metadata[key].strip() for key in ("title", "description", "version"))


def test_2_and_3_parameters_survive_both_eras(template):
    parameters = manifest(template)["parameters"]
    assert isinstance(parameters, list)
    assert len(parameters) <= 2
    for parameter in parameters:
        name, default = parameter["name"], parameter["default"]
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert name not in STANDARD
        assert not name.startswith((*FILTERED, "use_", "enable_"))
        assert parameter["type"] in ("str", "choice")
        assert default
        assert not set(default) & set("\"'\\$`")
        if parameter["type"] == "choice":
            assert all(isinstance(c, str) and c for c in parameter["choices"])
            assert default in parameter["choices"]
        assert parameter.get("dynamic_source", "model_catalog") == "model_catalog"
        assert set(parameter.get("filter", {})) <= {"server_type", "is_downloaded"}


def test_4_no_secret_is_required(template):
    for secret in manifest(template).get("secrets", []):
        assert re.fullmatch(r"[A-Z_][A-Z0-9_]*", secret["name"])
        assert secret["description"]
        assert secret["required"] is False


def test_6_copier_needs_no_trust(template):
    config = yaml.safe_load((ROOT / template / "copier.yml").read_text())
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(config)
    assert {".git", "copier.yml", "copier.yaml"} <= set(config["_exclude"])


def test_7_each_question_has_a_default_and_agrees_with_the_manifest(template):
    asked = questions(template)
    parameters = {p["name"]: p["default"] for p in manifest(template)["parameters"]}
    assert set(asked) == STANDARD | PLATFORM | set(parameters) | {"app_name"}
    assert asked["app_name"]["when"] is False
    assert all("default" in question for question in asked.values())
    assert {name: asked[name]["default"] for name in parameters} == parameters


def test_8_nothing_that_the_platform_passes_beside_the_answers_is_written(template, tmp_path):
    passed = {
        "project_name": "demo-app",
        "domain_name": "example.org",
        "admin_username": "tkadmin",
        "namespace": "demo-app",
        "k8s_namespace": "demo-app",
        "container_registry": "registry.example.org",
        "registry_subdomain": "registry",
        "deployment_id": "deployment-marker",
        "github_token": "token-marker",
        "ansible_become_pass": "password-marker",
    }
    to = render(ROOT / template, tmp_path / "app", "--force", **passed)
    written = b"\n".join(files(to).values())
    for marker in (b"deployment-marker", b"token-marker", b"password-marker", b"tkadmin"):
        assert marker not in written


def test_10_nothing_is_left_unrendered(rendered):
    _, folder = rendered
    for name, content in files(folder).items():
        assert not name.endswith(".jinja"), name
        assert "{{" not in name, name
        assert name not in ("copier.yml", "copier.yaml")
        if name.endswith((".yaml", ".yml", ".md", ".env", "file", ".toml", "ignore")):
            assert b"{{" not in content, name
            assert b"{%" not in content, name
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    assert all(value not in ("None", "True", "") for value in answers.values())


def test_11_and_12_what_stands_at_the_root(rendered):
    _, folder = rendered
    there = {path.name for path in folder.iterdir()}
    wanted = {"manifest.yaml", "thinkube.yaml", "README.md", ".gitignore", "LICENSE"}
    wanted |= {"OPERATING.md"}
    assert wanted <= there
    assert (folder / "demo-app" / ".dockerignore").exists()
    written_by_the_platform = {
        "k8s", ".deployment-trigger", "DEVELOPMENT.md", "install-hooks.sh",
        "regenerate-manifests.sh", "process-templates.sh", ".git-hooks",
    }  # fmt: skip
    assert not there & written_by_the_platform


def test_11_the_readme_is_the_owners(rendered):
    _, folder = rendered
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# demo-app\n")
    assert "I want to" in readme
    assert "(OPERATING.md)" in readme


def test_11_the_owners_pages_lead_to_their_own_files_and_the_platforms_alone(rendered):
    """The collection is not theirs: they never see it."""
    _, folder = rendered
    for name in ("README.md", "OPERATING.md"):
        for target in re.findall(r"\]\(([^)]*)\)", (folder / name).read_text()):
            path = target.partition("#")[0]
            inside = not path or (folder / path).resolve().is_relative_to(folder.resolve())
            platforms = target.startswith("https://github.com/thinkube/")
            assert platforms or (inside and (folder / path).exists()), f"{name}: {target}"


def test_13_and_14_the_deployment_is_one_that_both_eras_can_write_down(rendered):
    _, folder = rendered
    described = deployment(folder)
    assert described["apiVersion"] == "thinkube.io/v1"
    assert described["kind"] == "ThinkubeDeployment"
    assert described["metadata"]["name"] == "demo-app"
    known = {
        "name", "build", "port", "size", "health", "gpu", "volume", "environment", "test",
        "migrations", "capabilities",
    }  # fmt: skip
    assert all(set(container) <= known for container in containers(folder))
    text = (folder / "thinkube.yaml").read_text()
    assert not any(sign in text for sign in ('"', "\\", "'''", "{{"))
    names = [container["name"] for container in containers(folder)]
    assert len(set(names)) == len(names)
    for container in containers(folder):
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", container["name"])
        assert isinstance(container["port"], int)
        assert container["health"] == "/health"
        assert container["size"] in MEMORY


def test_14_the_longest_project_name_still_fits_every_object_name(template, tmp_path):
    longest = "a" * 59
    to = render(ROOT / template, tmp_path / "app", project_name=longest)
    for container in containers(to):
        assert len(f"{longest}-{container['name']}") <= 63


def test_15_each_base_image_is_one_that_the_platform_has(rendered):
    _, folder = rendered
    for container in containers(folder):
        text = (folder / container["build"] / "Dockerfile").read_text()
        registry = re.search(r"^ARG CONTAINER_REGISTRY=(\S+)$", text, re.MULTILINE)[1]
        assert registry == "registry.example.org"
        for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            place = image.replace("${CONTAINER_REGISTRY}", registry)
            assert place.startswith("registry.example.org/library/")
            assert place.rsplit("/", 1)[1] in IMAGES


def test_15_containerfile_and_dockerfile_are_one_source(rendered):
    _, folder = rendered
    for container in containers(folder):
        build = folder / container["build"]
        assert (build / "Containerfile").resolve() == (build / "Dockerfile").resolve()


def test_16_a_gpu_is_asked_for_in_full(rendered):
    _, folder = rendered
    for container in containers(folder):
        if gpu := container.get("gpu"):
            assert gpu["count"] >= 1
            assert re.fullmatch(r"\d+Gi", gpu["memory"])
            assert container["size"] == "xlarge"


def test_17_the_test_command_survives_the_platforms_shell(rendered):
    _, folder = rendered
    for container in containers(folder):
        assert isinstance(container["test"]["enabled"], bool)
        command = container["test"]["command"]
        assert re.fullmatch(r"[A-Za-z0-9_./= :-]+", command)
        assert not re.match(r"[A-Z_]+=", command)
        assert "no:cacheprovider" in command


def test_20_two_copies_fit_into_the_namespaces_quota(rendered):
    """But for those with a GPU: one xlarge fills the quota, and a second copy would want a second
    card anyway."""
    _, folder = rendered
    sizes = [container["size"] for container in containers(folder) if "gpu" not in container]
    assert 2 * sum(MEMORY[size] for size in sizes) + 256 <= 16 * 1024
    assert 2 * sum(CPU[size] for size in sizes) + 250 <= 8000
    assert 2 * sum(MEMORY[size] for size in sizes) / 2 <= 8 * 1024  # requests are half, or less
    assert 2 * sum(CPU[size] for size in sizes) / 4 <= 4000  # requests are a quarter


def test_21_and_22_routes_lead_to_containers_and_no_trap_is_asked_for(rendered):
    _, folder = rendered
    spec = deployment(folder)["spec"]
    ports = {container["name"] for container in containers(folder) if container.get("port")}
    assert "/" in [route["path"] for route in spec["routes"]]
    assert all(route["to"] in ports for route in spec["routes"])
    assert not {"cache", "queue", "storage"} & set(spec.get("services", []))
    assert "dependencies" not in spec


def test_31_the_image_gets_no_secret_and_no_rubbish(rendered):
    _, folder = rendered
    for container in containers(folder):
        ignored = (folder / container["build"] / ".dockerignore").read_text().split()
        assert {".git", "k8s", ".env*", "*.log"} <= set(ignored)


def test_32_git_takes_every_file_and_the_platforms_manifests(rendered, tmp_path):
    _, folder = rendered
    commit_all(folder)
    names = [*files(folder), "k8s/kustomization.yaml"]
    checked = subprocess.run(
        ["git", "check-ignore", *names], cwd=folder, text=True, capture_output=True
    )
    assert checked.stdout == ""


def test_33_requirements_are_exact(rendered):
    _, folder = rendered
    for requirements in folder.rglob("requirements*.txt"):
        if ".venv" in requirements.parts:
            continue
        lines = [line for line in requirements.read_text().splitlines() if line[:1].isalnum()]
        assert lines
        assert all(re.match(r"[\w.-]+(\[[\w,]+\])?==[\w.]+( ;|$)", line) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
def test_33_every_requirement_has_a_wheel_for_the_image(template, machine):
    app = ROOT / template / "{{app_name}}"
    uv = ["uv", "pip", "install", "--dry-run", "--only-binary", ":all:", "--quiet"]
    for name in ("requirements.txt", "requirements-engine.txt"):
        if (app / name).exists():
            glibc = machine.replace("unknown-linux-gnu", "manylinux_2_36")  # the image's, Debian 12
            where = [
                "--python-platform",
                glibc,
                "--python-version",
                "3.12",
                "--target",
                "/tmp/none",
            ]
            call([".venv/bin/" + uv[0], *uv[1:], *where, "-r", str(app / name)], ROOT)


def test_34_the_image_is_built_by_old_rules_and_runs_as_nobody_special(rendered):
    _, folder = rendered
    for container in containers(folder):
        text = (folder / container["build"] / "Dockerfile").read_text()
        assert "RUN --mount" not in text
        assert "<<" not in text
        assert re.search(rf"^EXPOSE {container['port']}$", text, re.MULTILINE)
        assert re.search(r"^CMD \[", text, re.MULTILINE)
        user = re.search(r"^USER (\d+)$", text, re.MULTILINE)
        if "volume" not in container:  # what the platform mounts for a GPU belongs to root
            assert user
            assert int(user[1]) > 0 or "gpu" in container


def test_35_no_secret_and_no_foreign_domain_is_written(rendered):
    _, folder = rendered
    for name, content in files(folder).items():
        for sign in (
            rb"thinkube\.com",
            rb"\bsk-[A-Za-z0-9_-]{16}|\bsk-(lf|proj|ant)-[A-Za-z0-9]|\bAKIA[0-9A-Z]{16}",
            rb"\btka_[A-Za-z0-9_-]{40}|\bhf_[A-Za-z0-9]{30}|\bgithub_pat_",
            rb"\btk_[A-Za-z0-9]{16}",
            rb"\bghp_",
        ):
            assert not re.search(sign, content), f"{sign!r} in {name}"


def test_37_the_readme_says_what_an_operator_must_know(rendered):
    template, folder = rendered
    readme = (folder / "README.md").read_text()
    component = {"tkt-rag-agent": "Qdrant", "tkt-crewai-agent": "NATS"}.get(template, "LiteLLM")
    for word in ("BackendTrafficPolicy", "secretKeyRef", "redeploy", component, "optional", "lost"):
        assert word in readme, f"README.md.jinja does not say {word}"
    for name in ("README.md", "OPERATING.md"):
        text = (folder / name).read_text()
        told = [line for line in text.splitlines() if "ecret" in line]
        assert all(any(era in line for line in told) for era in ("2025", "2026")), name


def test_the_operators_page_names_each_setting_and_no_other(rendered):
    _, folder = rendered
    page = (folder / "OPERATING.md").read_text()
    table = page.partition("\n## Settings\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    tree = ast.parse((folder / "demo-app" / "agent" / "settings.py").read_text())
    (settings,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings"]
    fields = zip(settings.body, settings.body[1:], strict=False)
    said = {
        field.target.id.upper(): ast.unparse(after)
        for field, after in fields
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    assert len(set(named)) == len(named)
    assert set(named) == {name for name, text in said.items() if "Set by " not in text}
