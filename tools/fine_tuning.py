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
    python = environment("fine-tuning", wanted, compiled=False) / "python"
except RuntimeError as error:
    sys.exit(str(error))
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
if not os.environ.get("MODEL"):
    os.environ["HF_HUB_OFFLINE"] = "1"  # the model comes from a package; nobody need ask the hub
# Each step of a training takes and gives back the same hundreds of megabytes: kept by the process,
# it takes a fifth less time.
os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000"}
os.execv(python, [str(python), *sys.argv[1:]])
