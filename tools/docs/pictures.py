"""Takes the pictures of the apps' pages that the documentation shows, in docs/pictures/.

    python tools/docs/pictures.py                     all twelve; a few minutes
    python tools/docs/pictures.py --only rag          those of one app
    python tools/docs/pictures.py --into /tmp/look    somewhere else

Each picture is of an app that was rendered, installed and just started, with no key and no
variable of the platform: it is what a reader sees after `make demo`. Nothing is hidden or drawn
over. Seconds that an app measured differ from one time to the next; the rest does not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from parts import apps  # noqa: E402
from parts.programs import call  # noqa: E402
from tools.demo import step  # noqa: E402
from tools.docs.looks import LOOKS, PATIENCE_S, Look, Missed  # noqa: E402

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SCHEMES = ("light", "dark")
TRIES = 4
CHROMIUM = ("--no-sandbox", "--force-color-profile=srgb", "--disable-lcd-text")
"""With colours and edges of letters that are the same on each screen."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    parser.add_argument("--only", choices=LOOKS, help="one app")
    options = parser.parse_args()
    if not shutil.which("chromium"):
        print("Chromium takes the pictures, and is missing: apt-get install chromium")
        return 1
    options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-", ignore_cleanup_errors=True) as scratch:
        for name in [options.only] if options.only else LOOKS:
            take(name, LOOKS[name], Path(scratch), options.into)
    return 0


def take(name: str, look: Look, scratch: Path, into: Path) -> None:
    """All pictures of one app, which is started anew for each."""
    with step(f"{name}: rendering {look.template}, installing what it needs"):
        answers = {"project_description": look.description}
        app = apps.render(look.template, scratch, look.project, **answers)
        python = apps.programs(app, look.template) / "python"
    for size in SIZES:
        for scheme in SCHEMES:
            file = into / f"{name}-page-{size}-{scheme}.png"
            with step(f"{name}: {size}, {scheme}"):
                file.write_bytes(_picture(app, python, look, size, scheme))


def _picture(app: Path, python: Path, look: Look, size: str, scheme: str) -> bytes:
    data = {"DATA_DIR": "data"}  # in the app's folder: pages show it
    for left in reversed(range(TRIES)):
        shutil.rmtree(app / "data", ignore_errors=True)
        if look.sample:
            call([python, "-m", look.sample, "sample"], app, data)
        with apps.launched(app, look.template, app.parent / "logs", **data) as url:
            _wait_for_page(url)
            with _page(size, scheme) as page:
                page.goto(url)
                try:
                    look.drive(page)
                    return _still(page)
                except Missed:
                    print(f"    missed the moment; tries left: {left}", flush=True)
    raise RuntimeError(f"The page of {look.template} was too late {TRIES} times: try again.")


def _wait_for_page(url: str) -> None:
    """It comes later than /health, and a note stands there until then."""
    deadline = time.monotonic() + PATIENCE_S
    while b"gradio" not in urlopen(url, timeout=30).read():
        if time.monotonic() > deadline:
            raise RuntimeError(f"No page at {url} within {PATIENCE_S} s.")
        time.sleep(0.2)


@contextmanager
def _page(size: str, scheme: str) -> Iterator[Any]:
    """A window of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    width, height = SIZES[size]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM)
        )
        reader: dict[str, Any] = {
            "viewport": {"width": width, "height": height},
            "device_scale_factor": 1,
            "color_scheme": scheme,
            "reduced_motion": "reduce",
            "locale": "en-GB",
            "timezone_id": "UTC",
        }
        page = browser.new_context(**reader).new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        yield page
        browser.close()


def _still(page: Any) -> bytes:
    """The picture, once all fonts are there and nothing on it moves any more."""
    page.evaluate("document.fonts.ready")
    page.evaluate("scrollTo(0, 0)")
    before = b""
    for _ in range(20):
        now: bytes = page.screenshot(animations="disabled")
        if now == before:
            return now
        before = now
        page.wait_for_timeout(400)
    return before


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
