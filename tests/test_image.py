"""The images of agents that were pushed: built from the clone, looked into, and started as pods.

The first half of the road, from a template to the clone and the objects, is in test_push.py.
tkt-vllm-gradio's image holds vLLM with CUDA, which is 8 GB: its Dockerfile is checked, and not
built.

The base is Debian with its own Python, and bears the name of the platform's. With
IMAGE_SIZES=FILE.json the sizes are written there, in MB (10^6 bytes) unpacked: {"tkt-rag-agent":
{"image_mb": all layers, "above_base_mb": without those of the base}}.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from parts.programs import free_port
from tests import live
from tests.crewing import CREW, finished
from tests.crewing import start as begin
from tests.doubles.edge import Edge
from tests.doubles.git_server import GitServer
from tests.doubles.serve import running as served
from tests.kubernetes import pod
from tests.kubernetes.call import deployment
from tests.kubernetes.objects import Object, beside, dockerfile, objects
from tests.kubernetes.road import Pushed, walk
from tests.kubernetes.rules import amount, refusals
from tests.live import API_KEYS, APP_KEY, RAG, App, ask, load, wait_for_page, wait_until
from tests.rendering import ROOT, TEMPLATES, call, commit_all, render
from tests.test_page import CHROMIUM, new_page

CI = os.environ.get("CI") == "true"
REGISTRY = "registry.example.org"
PACKAGES = "python3,python3-venv,python-is-python3,libstdc++6"
CANARY = "canary-8d1f4c0be2"
SECRETS = [".env", "agent/.env", ".git/config", "k8s/mlflow-secrets.yaml", "data/store", "app.log"]
BUILD_TOOLS = {"gcc", "cc", "c++", "g++", "clang", "ld", "make", "cmake", "cargo", "rustc"}
UID, HEALTHY_S, READY_S = 10001, 10, 30
KEY = f"""\
      environment:
        - name: API_KEYS
          value: {API_KEYS}
"""
"""What an owner adds to a container of thinkube.yaml for a script. A hash is no secret."""

START = """
set -e
root=$1 data=$2 user=$3; shift 3
mount --bind "$root" "$root"
mount --bind "$data" "$root/data"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec unshare --root="$root" --wd=/app --setgid=0 --setuid="$user" "$@"
"""
"""A pod with `readOnlyRootFilesystem` and a volume at /data, without a container engine."""


@dataclass
class Image:
    """What is kept of an image, and as `root` what its container sees."""

    pushed: Pushed
    layers: list[Path]
    config_file: Path
    root: Path

    @property
    def template(self) -> str:
        return self.pushed.template

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.config_file.read_text())["config"])


@pytest.fixture(scope="module")
def base() -> Iterator[tuple[list[str], Path]]:
    """Buildah with the platform's base image, and a folder to work in."""
    programs = shutil.which("buildah") and shutil.which("mmdebstrap")
    if not CI and not (programs and os.geteuid() == 0):
        pytest.skip("an image needs root, buildah and mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="image-") as scratch:
        folder = Path(scratch)
        buildah = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]
        try:
            _build_base(buildah, folder)
            yield buildah, folder
        finally:
            call([*buildah, "rm", "--all"])


@pytest.fixture(scope="module", params=[RAG, CREW])
def image(request: pytest.FixtureRequest, base: tuple[list[str], Path]) -> Image:
    buildah, scratch = base
    template = str(request.param)
    folder = scratch / template
    folder.mkdir()
    pushed = _pushed(folder, template)
    _build(buildah, folder, pushed)
    return _opened(buildah, folder, pushed)


def _pushed(folder: Path, template: str) -> Pushed:
    """An app in a git server, and its owner's first change there, by a push from a clone."""
    git = GitServer(folder / "git")
    with served(git.app) as url:
        pushed = walk(template, deployment("2026", template, "live"), git, url, folder)
        described = pushed.clone / "thinkube.yaml"
        text = described.read_text()
        described.write_text(text.replace("      test:\n", f"{KEY}      test:\n"))
        commit_all(pushed.clone, "Let a script in")
        call(["git", "push", "--quiet", "origin", "main"], pushed.clone)
    return pushed


def _build_base(buildah: list[str], folder: Path) -> None:
    debian = ["--variant=essential", f"--include={PACKAGES}", "bookworm"]
    try:
        call(["mmdebstrap", "--quiet", *debian, str(folder / "base.tar")])
    except RuntimeError as error:
        if CI:
            raise
        pytest.skip(f"no Debian packages for a base: {error}")
    (folder / "Base").write_text("FROM scratch\nADD base.tar /\n")
    name = f"{REGISTRY}/library/python:3.12-slim"
    call([*buildah, "build", "--file", str(folder / "Base"), "--tag", name, str(folder)])


def _build(buildah: list[str], folder: Path, pushed: Pushed) -> None:
    """As Kaniko is told to, with secrets all around, none of which is meant for the image."""
    (container,) = pushed.spec["containers"]
    file = dockerfile(container, pushed.clone)
    for name in SECRETS:
        path = file.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(CANARY)
    (folder / "pip.conf").write_text(_pip_settings())
    mounts = [f"--volume={folder}/pip.conf:/etc/pip.conf:ro", "--volume=/etc/ssl:/etc/ssl:ro"]
    where = [
        f"--tag={pushed.template}",
        f"--file={file}",
        f"--build-arg=CONTAINER_REGISTRY={REGISTRY}",
    ]
    how = ["--isolation=chroot", "--pull-never", *where, *mounts]
    call(["env", f"A_SECRET={CANARY}", *buildah, "build", *how, str(file.parent)])


def _pip_settings() -> str:
    """How pip reaches its index from this machine; that may not be as elsewhere."""
    wanted = r"\.(cert|index-url|trusted-host|proxy|timeout|default-timeout)='(.+)'$"
    found = re.findall(wanted, call([sys.executable, "-m", "pip", "config", "list"]), re.MULTILINE)
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in dict(found).items())


def _opened(buildah: list[str], folder: Path, pushed: Pushed) -> Image:
    plain = ["--quiet", "--disable-compression"]
    call([*buildah, "push", *plain, pushed.template, f"dir:{folder}/image"])
    manifest = json.loads((folder / "image" / "manifest.json").read_text())
    config, *layers = (
        folder / "image" / blob["digest"].removeprefix("sha256:")
        for blob in (manifest["config"], *manifest["layers"])
    )
    container = call([*buildah, "from", "--pull-never", pushed.template]).strip()
    root = Path(call([*buildah, "mount", container]).strip())
    return Image(pushed, layers, config, root)


@dataclass
class Pod:
    """A container that was started from its Deployment, behind the platform's edge."""

    era: str
    container: Object
    app: App
    """As its Service's port gives it."""
    direct: App
    """Without the edge."""
    kubelet: pod.Kubelet
    groups: list[Path]

    @property
    def memory_mib(self) -> float:
        return amount(self.container["resources"]["limits"]["memory"]) / 2**20


@contextmanager
def running(image: Image, era: str) -> Iterator[Pod]:
    """The image's command with a pod's variables, limits and probes, as a user who can write
    nothing but /data, which is empty."""
    deployed = deployment(era, image.template, "live")
    made = objects(image.pushed.spec, deployed) + beside(deployed)
    assert refusals(made, era) == []
    container = pod.container_of(made)
    with tempfile.TemporaryDirectory(prefix="image-") as scratch, ExitStack() as stack:
        folder, port = Path(scratch), free_port()
        (folder / "data").mkdir()
        os.chown(folder / "data", int(image.config["User"]), 0)
        groups, said = stack.enter_context(pod.limited(container))
        print(f"{image.template}, {era}: {said}")
        where = [str(image.root), f"{folder}/data", image.config["User"]]
        enter = ["sh", "-c", pod.join(groups) + START, "sh", *where]
        env = dict(pair.split("=", 1) for pair in image.config["Env"]) | {"HOME": "/"}
        env |= pod.environment(container, made)
        command = ["unshare", "--mount", *enter, *_command(image, container, port)]
        direct = stack.enter_context(live.running(command, port, folder, env))
        url = stack.enter_context(served(Edge(direct.url).app))
        app = App(url, direct.process, folder, APP_KEY)
        app.http.headers["Host"] = f"{deployed.app}.{deployed.domain}"
        kubelet = stack.enter_context(pod.Kubelet(container, direct.url).watching())
        yield Pod(era, container, app, direct, kubelet, groups)


def _command(image: Image, container: Object, port: int) -> list[str]:
    """The image's own, whose port is the container's; at a free one of this machine alone."""
    words = list(image.config["Cmd"])
    at = words.index("--port") + 1
    assert [{"containerPort": int(words[at]), "name": "http"}] == container["ports"]
    words[at] = str(port)
    words[words.index("--host") + 1] = "127.0.0.1"
    return words


@pytest.mark.parametrize("template", TEMPLATES)
def test_hadolint_finds_nothing_in_the_dockerfile(template: str, tmp_path: Path) -> None:
    render(ROOT / template, tmp_path, project_name="live")
    call([str(Path(sys.executable).parent / "hadolint"), str(tmp_path / "live" / "Dockerfile")])


@pytest.mark.slow
@pytest.mark.long
def test_its_user_is_not_root_and_its_command_needs_no_shell(image: Image) -> None:
    assert image.config["User"] == str(UID)
    assert not image.config.get("Entrypoint")
    assert image.config["Cmd"][0] == "uvicorn"  # the other form begins with /bin/sh


@pytest.mark.slow
@pytest.mark.long
def test_nothing_secret_is_in_a_layer(image: Image) -> None:
    """Nor was: in the platform's layers, one an instruction, a file that is removed stays."""
    assert not re.search(r"\brm\b", (image.root / "app" / "Dockerfile").read_text())
    for path in [*image.layers, image.config_file]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            assert text.find(CANARY.encode()) == -1, f"{path} has the canary."


@pytest.mark.slow
@pytest.mark.long
def test_only_what_runs_is_in_a_layer(image: Image) -> None:
    paths = [path for layer in image.layers for path in _paths(layer)]
    programs = {path.name for path in paths if path.parent.name in ("bin", "sbin")}
    assert {"python3", "uvicorn"} <= programs
    assert programs.isdisjoint(BUILD_TOOLS)
    assert {path.name for path in paths}.isdisjoint({".cache", "test_chain.py", "test_crew.py"})
    assert not [path for path in paths if path.parent == PurePosixPath("tmp")]


def _paths(layer: Path) -> list[PurePosixPath]:
    with tarfile.open(layer) as files:
        return [PurePosixPath(name) for name in files.getnames()]


@pytest.mark.slow
@pytest.mark.long
def test_its_size_is_told_with_the_base_and_without(image: Image) -> None:
    base, above = map(_mb, image.layers)
    assert base > 0
    assert above > 0
    if told := os.environ.get("IMAGE_SIZES"):
        file = Path(told)
        known = json.loads(file.read_text()) if file.exists() else {}
        known[image.template] = {"image_mb": base + above, "above_base_mb": above}
        file.write_text(json.dumps(known, indent=2) + "\n")


def _mb(layer: Path) -> int:
    """Unpacked, in 10^6 bytes."""
    with tarfile.open(layer) as files:
        return round(sum(file.size for file in files) / 1e6)


@pytest.mark.slow
@pytest.mark.long
def test_its_pods_work_in_both_eras_where_only_their_data_can_be_written(image: Image) -> None:
    """Under the limits of their size, and never killed by the kubelet."""
    with ExitStack() as stack:
        older = stack.enter_context(running(image, "2025"))
        wait_until(lambda: live.status(older.direct, "/health"), HEALTHY_S)
        newer = stack.enter_context(running(image, "2026"))
        for pod_of_era in (older, newer):
            _works_as_a_pod(image.template, pod_of_era)
        _its_page_is_whole(older.direct)
        wait_until(lambda: min(_lives(older), _lives(newer)) >= 1, 60)
        for pod_of_era in (older, newer):
            assert not pod_of_era.kubelet.killed
            assert "CRITICAL" not in pod_of_era.app.log
            assert _peak_mib(pod_of_era.app) < pod_of_era.memory_mib
            waited = pod.throttled_s(pod_of_era.groups)
            print(f"{image.template}, {pod_of_era.era}: {waited:.1f} s throttled by its quota")


def _its_page_is_whole(app: App) -> None:
    """What the Dockerfile takes out of Gradio is nothing that its page asks for."""
    failed: list[str] = []
    key = {"Authorization": f"Bearer {APP_KEY}"}  # strangers would be sent to sign on
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = new_page(browser, extra_http_headers=key)
        page.on("response", lambda got: failed.append(got.url) if got.status >= 400 else None)
        page.goto(app.url)
        page.locator("textarea").first.wait_for()
        page.wait_for_timeout(2000)  # what it loads last
    assert failed == []


def _lives(running_pod: Pod) -> int:
    return running_pod.kubelet.asked.get("livenessProbe", 0)


def _works_as_a_pod(template: str, pod: Pod) -> None:
    app, kubelet = pod.app, pod.kubelet
    try:
        assert wait_until(lambda: kubelet.ready_s, READY_S) >= 5
        assert "gradio" in wait_for_page(app)
        _answers(app) if template == RAG else _works(app, pod.era)
        held = app.http.post("/gradio_api/upload", files={"files": b"What the page takes in."})
        assert held.status_code == 200, held.text
    except Exception:
        print(app.log[-6000:])
        raise


def _answers(app: App) -> None:
    (loaded,) = load(app, {"lease.txt": "The rent is 900 pounds a month."})
    assert loaded["status"] == "added", loaded
    end = ask(app, "How much is the rent a month?")
    assert "900" in end["answer"]
    assert [citation["document"] for citation in end["citations"]] == ["lease.txt"]


def _works(app: App, era: str) -> None:
    """The 2026 platform's variables name its own gateway, which is not here: a run says so."""
    file = {"files": ("lease.txt", "The rent is 900 pounds a month.")}
    app.http.post("/api/documents", files=file).raise_for_status()
    end = finished(app, begin(app, "How much is the rent a month?"))
    if era == "2026":
        assert "The gateway at http://llm-proxy" in end["error"]
    else:
        assert "900" in end["result"], end["error"]


def _peak_mib(app: App) -> int:
    lines = Path(f"/proc/{app.process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", lines, re.MULTILINE)
    assert found
    return int(found[1]) // 1024
