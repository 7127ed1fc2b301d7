"""For pytest (`-p tools.canary.elsewhere`): the live tests start the app with the programs of the
environment that the canary has made, CANARY_BIN."""

import os
from pathlib import Path

from parts import apps

BIN = Path(os.environ["CANARY_BIN"])


def programs(app: Path, template: str) -> Path:
    return BIN


apps.programs = programs
