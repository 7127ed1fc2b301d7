"""What a built site must be: whole, searchable, and content with its own host."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

KNOWN = "rehearsal"
"""A word that stands on some page."""
ASKED_AT_ONCE = ("src", "srcset", "poster", "data", "xlink:href")
"""Attributes whose addresses a browser asks for without a click."""
ASKING = ("link", "image", "use")
"""Tags whose `href` is asked for at once too, unless it is one of these."""
NEVER_ASKED = {"canonical", "next", "prev", "alternate"}
_CSS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


class _Html(HTMLParser):
    """`wanted` is what a browser asks for at once, `links` where a click leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.wanted += [given[name].split(" ")[0] for name in ASKED_AT_ONCE if name in given]
        self.wanted += _styled(given.get("style", ""))
        if tag in ("a", "area") and "href" in given:
            self.links.append(given["href"])
        elif tag in ASKING and not NEVER_ASKED & set(given.get("rel", "").split()):
            self.wanted.append(given.get("href", ""))


def _styled(css: str) -> list[str]:
    return [first or second for first, second in _CSS.findall(css)]


def troubles(site: Path) -> list[str]:
    """A sentence each."""
    site = site.resolve()
    read = {path: _Html(path.read_text()) for path in sorted(site.rglob("*.html"))}
    read |= {path: _Html(path.read_text()) for path in sorted(site.rglob("*.svg"))}
    wanted = {path: html.wanted for path, html in read.items()}
    wanted |= {path: _styled(path.read_text()) for path in site.rglob("*.css")}
    found = [
        f"{path.relative_to(site)} asks for {address}."
        for path, addresses in wanted.items()
        for address in addresses
        if urlsplit(address).netloc
    ]
    for path, html in read.items():
        if path.name != "404.html":  # which is served at any address
            found += _dead(site, path, html, read)
    return [*found, *_unfound(site)]


def _dead(site: Path, path: Path, html: _Html, read: dict[Path, _Html]) -> Iterator[str]:
    for link in {*html.links, *html.wanted}:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        there = there / "index.html" if there.is_dir() else there
        anchor = unquote(parts.fragment)
        known = there not in read or anchor in read[there].ids | {"", "__top"}
        if not there.is_relative_to(site):
            yield f"{path.relative_to(site)} links to {link}, which is not on the site."
        elif not there.exists() or not known:
            yield f"{path.relative_to(site)} links to {link}, which is not there."


def _unfound(site: Path) -> Iterator[str]:
    """Pages that a search does not find."""
    items = json.loads((site / "search.json").read_text())["items"]
    places = {str(item["location"]).partition("#")[0] for item in items}
    for path in site.rglob("index.html"):
        place = path.parent.relative_to(site).as_posix()
        if (f"{place}/" if place != "." else "") not in places:
            yield f"{place} is not in the search index."
    if not any(KNOWN in item["text"] for item in items):
        yield f"The search index does not know the word {KNOWN!r}."


def browse(site: Path) -> list[str]:
    """Opens all pages in Debian's Chromium, and searches: what it asks for elsewhere, and what it
    complains about."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "Chromium is not installed: apt-get install chromium"
    found: list[str] = []
    with _served(site) as url, sync_playwright() as playwright:
        page = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        ).new_page()
        page.on("request", lambda asked: found.extend(_abroad(url, asked.url)))
        page.on("console", lambda line: found.extend(_complaint(page.url, line)))
        for path in sorted(site.rglob("index.html")):
            page.goto(f"{url}/{path.parent.relative_to(site).as_posix()}/")
        page.goto(f"{url}/")
        page.keyboard.press("/")
        page.keyboard.type(KNOWN)
        page.locator(f'a[href*="h={KNOWN}"]').first.wait_for()
    return found


def _abroad(home: str, url: str) -> list[str]:
    here = url.startswith((home, "data:", "blob:"))
    return [] if here else [f"A page asks for {url}."]


def _complaint(page: str, line: Any) -> list[str]:
    return [f"{page}: {line.text}"] if line.type == "error" else []


@contextmanager
def _served(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
