"""Stands between the app and a program that it starts: `python guard.py PROGRAM ...`.

It holds the reading end of a pipe. When the app dies, also by SIGKILL, the pipe ends, and the guard
kills its whole process group: vLLM's server does not take its workers with it, and they hold the
card's memory. It stands alone, so that it is there in 20 ms; nothing of the app is imported.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    # The whole group is asked to end; it waits. A handler, as the child would inherit SIG_IGN.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_the_app, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_the_app() -> None:
    os.read(0, 1)  # nothing is ever written
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
