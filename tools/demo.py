"""`make demo`: from a clone to a page that answers, of any template.

Each step says what it does and how long it took, and is left out when there is nothing to do.
"""

import argparse
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import yaml

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Render a template and live in it.")
    parser.add_argument("template")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--ask")
    options = parser.parse_args()
    if options.ask is None and port_taken(options.port):
        print(f"Port {options.port} is taken: stop what serves there, or make demo PORT=7861")
        return 2
    home = ROOT / ".demo" / options.template
    app = home / "demo"
    render(options.template, home)
    python = install(app)
    environment = os.environ | {"PORT": str(options.port)}
    loads = (app / "sample").is_dir()
    if loads and not running(options.port):  # a running demo has the documents open, and loaded
        with step("Loading the sample documents"):
            loader = "ingest" if (app / "agent" / "ingest.py").exists() else "documents"
            run([python, "-m", f"agent.{loader}", "sample"], app, environment)
    if options.ask is not None:
        return subprocess.run(
            [python, "-m", "agent.ask", options.ask], cwd=app, env=environment
        ).returncode
    print(f"\nThe page is at http://127.0.0.1:{options.port} (Ctrl-C ends it)\n", flush=True)
    server = [python, "-m", "uvicorn", "--factory", "app:create_app", "--host", "127.0.0.1"]
    os.chdir(app)
    os.execve(python, [*server, "--port", str(options.port), "--log-level", "warning"], environment)


def render(template: str, home: Path) -> None:
    """Render anew when the template has changed; what the demo has stored stays."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", template]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    key = fingerprint([p for p in map(ROOT.joinpath, names.split("\0")[:-1]) if p.is_file()])
    if done(home / ".rendered", key):
        return
    for old in (*home.glob("*"), *home.glob("demo/*")):  # or files that the template lost stay
        if old.name not in ("demo", ".venv", "data"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    with step(f"Rendering {template}"):
        answers = [
            "--data",
            "project_name=demo",
            "--data",
            f"project_description={line(template)}",
        ]
        copier = [sys.executable, "-m", "copier", "copy", "--defaults", "--overwrite", "--quiet"]
        run([*copier, *answers, str(ROOT / template), str(home)], ROOT)
    (home / ".rendered").write_text(key)


def line(template: str) -> str:
    """What stands under the heading of the demo's page: the manifest's first sentence."""
    described = yaml.safe_load((ROOT / template / "manifest.yaml").read_text())
    return str(described["metadata"]["description"]).partition(".")[0]


def install(app: Path) -> str:
    """The app's own environment, made of its own requirements; gives its Python."""
    python = app / ".venv" / "bin" / "python"
    small = app / "requirements-small.txt"  # what it would bring along is not needed
    key = fingerprint([app / "requirements.txt", *([small] if small.exists() else [])])
    if not done(app / ".venv" / ".installed", key):
        with step("Installing what the app needs"):
            uv = [sys.executable, "-m", "uv"]
            run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, ".venv"], app)
            wanted = ["--no-deps", "--requirement", "requirements.txt"]  # it is complete
            target = ["--python", str(python)]
            into = [*uv, "pip", "install", "--quiet", "--compile-bytecode", *target]
            run([*into, *wanted], app)
            if small.exists():
                run([*into, "--no-deps", "--requirement", small.name], app)
        (app / ".venv" / ".installed").write_text(key)
    return str(python)


def fingerprint(paths: list[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def done(stamp: Path, key: str) -> bool:
    return stamp.exists() and stamp.read_text() == key


def running(port: int) -> bool:
    """Whether a demo answers there."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return b'"healthy"' in response.read()
    except (OSError, ValueError):
        return False


def port_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def step(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{what} ...", flush=True)
    yield
    print(f"    done in {time.monotonic() - began:.1f} s", flush=True)


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    code = subprocess.run(command, cwd=folder, env=environment).returncode
    if code:
        print(f"This failed, and the reason stands above: {' '.join(command)}")
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
