"""mypy --strict over each template's `agent/` and doors, in the environment of its requirements."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import bin_folder  # noqa: E402
from tests.rendering import TEMPLATES  # noqa: E402


def main() -> int:
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    running = []
    for template in TEMPLATES:
        app = ROOT / template / "{{app_name}}"
        doors = [door for door in ("app.py", "ui.py", "mcp_tools.py") if (app / door).exists()]
        python = ["--python-executable", str(bin_folder(template) / "python")]
        running.append(subprocess.Popen([*mypy, *python, "agent", *doors], cwd=app))
    return int(any([child.wait() for child in running]))  # one that is killed ends below 0


if __name__ == "__main__":
    sys.exit(main())
