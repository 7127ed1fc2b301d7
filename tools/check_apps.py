"""The quick tests of each template's app, in the environment of its requirements, side by side.

`make test-long` runs all of them in a rendered app; here the folder is tested as it lies.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import GUARD, bin_folder  # noqa: E402
from tests.rendering import TEMPLATES  # noqa: E402

SLOW = {
    "tkt-crewai-agent": (
        "api", "documents", "mcp", "openai_api", "rehearsal", "sandbox", "services", "web",
        "work", "worker",
    ),
    "tkt-rag-agent": ("extract", "ingest", "local_embedding", "services", "store", "tracing"),
    "tkt-vllm-gradio": ("children", "runs"),
}  # fmt: skip
"""Files that take more than a few seconds, or start programs."""


def main() -> int:
    running = [started(template) for template in TEMPLATES]
    return int(any([child.wait() for child in running]))  # one that is killed ends below 0


def started(template: str) -> subprocess.Popen[bytes]:
    programs = bin_folder(template)
    pytest = [programs / "python", "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    left_out = [f"--ignore=tests/test_{name}.py" for name in SLOW.get(template, ())]
    env = {"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(GUARD)}
    app = ROOT / template / "{{app_name}}"
    return subprocess.Popen([*pytest, *left_out], cwd=app, env=env)


if __name__ == "__main__":
    sys.exit(main())
