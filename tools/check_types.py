"""mypy --strict over each template's `agent/` and doors, in the environment of its requirements."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import bin_folder  # noqa: E402


def main() -> int:
    app = ROOT / "tkt-rag-agent" / "{{app_name}}"
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    python = ["--python-executable", str(bin_folder() / "python")]
    return subprocess.run([*mypy, *python, "agent", "app.py", "mcp_tools.py"], cwd=app).returncode


if __name__ == "__main__":
    sys.exit(main())
