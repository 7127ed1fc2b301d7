"""The images of rendered agents: built as the platform builds them, looked into, and started.

tkt-vllm-gradio's holds vLLM with CUDA, which is 8 GB: its Dockerfile is checked, and not built.

The base is Debian with its own Python, and bears the name of the platform's.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from parts.programs import free_port
from tests import live
from tests.crewing import CREW, finished
from tests.crewing import start as begin
from tests.live import RAG, App, ask, load, status, wait_for_page, wait_until
from tests.rendering import ROOT, TEMPLATES, call, render

CI = os.environ.get("CI") == "true"
REGISTRY = "registry.example.org"
PACKAGES = "python3,python3-venv,python-is-python3,libstdc++6"
CANARY = "canary-8d1f4c0be2"
SECRETS = [".env", "agent/.env", ".git/config", "k8s/mlflow-secrets.yaml", "data/store", "app.log"]
BUILD_TOOLS = {"gcc", "cc", "c++", "g++", "clang", "ld", "make", "cmake", "cargo", "rustc"}
UID, HEALTHY_S, MEMORY_MIB = 10001, 10, 1024

START = f"""
set -e
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
mount --bind "$data" "$root/data"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec unshare --root="$root" --wd=/app --setgid=0 --setuid={UID} "$@"
"""
"""A pod with `readOnlyRootFilesystem` and a volume at /data, without a container engine."""


@dataclass
class Image:
    """What is kept of an image, and as `root` what its container sees."""

    template: str
    layers: list[Path]
    config_file: Path
    root: Path

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
    _build(buildah, folder, template)
    return _opened(buildah, folder, template)


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


def _build(buildah: list[str], folder: Path, template: str) -> None:
    """With secrets all around, none of which is meant for the image."""
    render(ROOT / template, folder, project_name="live", container_registry=REGISTRY)
    for name in SECRETS:
        path = folder / "live" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(CANARY)
    (folder / "pip.conf").write_text(_pip_settings())
    mounts = [f"--volume={folder}/pip.conf:/etc/pip.conf:ro", "--volume=/etc/ssl:/etc/ssl:ro"]
    how = ["--isolation=chroot", "--pull-never", f"--tag={template}", *mounts]
    call(["env", f"A_SECRET={CANARY}", *buildah, "build", *how, str(folder / "live")])


def _pip_settings() -> str:
    """How pip reaches its index from this machine; that may not be as elsewhere."""
    wanted = r"\.(cert|index-url|trusted-host|proxy|timeout|default-timeout)='(.+)'$"
    found = re.findall(wanted, call([sys.executable, "-m", "pip", "config", "list"]), re.MULTILINE)
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in dict(found).items())


def _opened(buildah: list[str], folder: Path, template: str) -> Image:
    plain = ["--quiet", "--disable-compression"]
    call([*buildah, "push", *plain, template, f"dir:{folder}/image"])
    manifest = json.loads((folder / "image" / "manifest.json").read_text())
    blobs = [
        folder / "image" / blob["digest"].removeprefix("sha256:")
        for blob in (manifest["config"], *manifest["layers"])
    ]
    container = call([*buildah, "from", "--pull-never", template]).strip()
    root = Path(call([*buildah, "mount", container]).strip())
    return Image(template, blobs[1:], blobs[0], root)


@contextmanager
def running(image: Image) -> Iterator[App]:
    """The image's command as a user who can write nothing but /data, which is empty."""
    with tempfile.TemporaryDirectory(prefix="image-") as scratch:
        folder, port = Path(scratch), free_port()
        (folder / "data").mkdir()
        os.chown(folder / "data", UID, 0)
        into = ["unshare", "--mount", "sh", "-c", START, "sh", str(image.root), f"{folder}/data"]
        env = dict(pair.split("=", 1) for pair in image.config["Env"]) | {"HOME": "/"}
        with live.running([*into, *_command(image, port)], port, folder, env) as app:
            yield app


def _command(image: Image, port: int) -> list[str]:
    """The image's own, at a free port of this machine alone."""
    words = list(image.config["Cmd"])
    words[words.index("--port") + 1] = str(port)
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
def test_it_works_where_only_its_data_can_be_written(image: Image) -> None:
    with running(image) as app:
        wait_until(lambda: status(app, "/health"), HEALTHY_S)
        assert "gradio" in wait_for_page(app)
        try:
            (_answers if image.template == RAG else _works)(app)
        except Exception:
            print(app.log[-6000:])
            raise
        held = app.http.post("/gradio_api/upload", files={"files": b"What the page takes in."})
        assert held.status_code == 200, held.text
        assert "CRITICAL" not in app.log
        assert _peak_mib(app) < MEMORY_MIB


def _answers(app: App) -> None:
    (loaded,) = load(app, {"lease.txt": "The rent is 900 pounds a month."})
    assert loaded["status"] == "added", loaded
    assert "900" in ask(app, "How much is the rent a month?")["answer"]


def _works(app: App) -> None:
    file = {"files": ("lease.txt", "The rent is 900 pounds a month.")}
    app.http.post("/api/documents", files=file).raise_for_status()
    end = finished(app, begin(app, "How much is the rent a month?"))
    assert "900" in end["result"], end["error"]


def _peak_mib(app: App) -> int:
    lines = Path(f"/proc/{app.process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", lines, re.MULTILINE)
    assert found
    return int(found[1]) // 1024
