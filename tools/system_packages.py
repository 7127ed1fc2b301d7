"""Installs the system packages that some tests want (a browser, a server, what builds an image,
what draws the diagrams of the documentation), where that is possible.

Without them those tests skip and say so. Under CI=true a missing one is an error: nothing may be
skipped there.
"""

import os
import shutil
import subprocess
import sys

WANTED = {
    "buildah": "buildah",
    "chromium": "chromium",
    "dot": "graphviz",
    "faketime": "faketime",
    "kubectl": "kubernetes-client",
    "mmdebstrap": "mmdebstrap",
    "nginx": "nginx-light",
}
"""Program that must be found, and the Debian package that has it."""


def main() -> int:
    missing = _missing()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {' '.join(missing)} for some of the tests ...", flush=True)
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], env=quiet)
        install = ["apt-get", "-qq", "-y", "install", "--no-install-recommends", *missing]
        subprocess.run(install, env=quiet, stdout=subprocess.DEVNULL)
        missing = _missing()
    if missing:
        print(f"Not installed: {' '.join(missing)}; the tests that want them will be skipped.")
    return 1 if missing and os.environ.get("CI") else 0


def _missing() -> list[str]:
    return [package for program, package in WANTED.items() if not shutil.which(program)]


if __name__ == "__main__":
    sys.exit(main())
