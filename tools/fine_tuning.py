"""Runs a program in the environment of fine-tuning, which is made first where it is not there.

python tools/fine_tuning.py examples/legal-qa/life.py
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts.environments import environment  # noqa: E402

wanted = ["--requirement", ROOT / "examples" / "legal-qa" / "requirements.txt"]
try:
    python = environment("fine-tuning", wanted) / "python"
except RuntimeError as error:
    sys.exit(str(error))
os.execv(python, [str(python), *sys.argv[1:]])
