"""Keeps CrewAI and what it brings along from telling others about its use.

To be imported before CrewAI: some of these are read while it is imported. A test watches that no
connection leaves the machine.
"""

import atexit
import logging
import os
import shutil
import tempfile
import warnings

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "OTEL_SDK_DISABLED": "true",  # the app's own traces do not ask it
    "ANONYMIZED_TELEMETRY": "False",  # Chroma's, which CrewAI imports
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

os.environ.update(QUIET)
_folder = tempfile.mkdtemp(prefix="crew-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
# Each crew opens a database for its tasks' outputs. Nothing is written to it here, see crew.py.
os.environ.setdefault("CREWAI_STORAGE_DIR", _folder)
if not os.access(os.path.expanduser("~"), os.W_OK):
    os.environ["HOME"] = _folder  # it keeps settings and a key there, also when nothing uses them
# Its own checkpoints are not used here.
warnings.filterwarnings("ignore", "function callbacks cannot be serialized")
# What goes wrong is told in the run; their lines may quote it.
for _name in ("crewai", "crewai_core"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
