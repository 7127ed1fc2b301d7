"""A question from the command line, answered in the process or by the running app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from world import LEASE, take_in

from agent.ask import main
from agent.services import Services

pytestmark = pytest.mark.anyio


async def said(capsys: pytest.CaptureFixture[str], question: str) -> tuple[Any, str]:
    """Exit status, or the message it exits with, and what is printed."""
    try:
        status: Any = await asyncio.to_thread(main, question)
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().out


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The documents of `services` are where the command line expects them, and no app runs."""
    (folder / "qdrant").symlink_to(folder)
    monkeypatch.setenv("DATA_DIR", str(folder))
    monkeypatch.setenv("PORT", "9")
    return monkeypatch


@pytest.mark.usefixtures("settings")
async def test_the_answer_is_printed_with_its_citations(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    await services.close()

    status, printed = await said(capsys, "What is the monthly rent?")

    assert status == 0
    assert printed.startswith("No model is connected, so this is quoted")
    assert "[1] lease.md, characters" in printed


@pytest.mark.usefixtures("settings")
async def test_with_the_documents_open_elsewhere_and_no_app_it_says_what_to_do(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)

    message, _ = await said(capsys, "What is the monthly rent?")

    assert "if another process has them open, stop it" in message


class App(BaseHTTPRequestHandler):
    """An app that takes longer, and is asked twice for the run."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say(202, '{"run_id": "r1", "detail": "It takes longer."}')

    def do_GET(self) -> None:
        App.asked += 1
        done = '{"state": "done", "result": {"answer": "At last.", "citations": []}}'
        running = '{"state": "running", "result": null}'
        self._say(200, done if App.asked > 1 else running)

    def _say(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Location", "/api/runs/r1")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def slow_app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


async def test_the_running_app_is_asked_and_waited_for(
    services: Services,
    tmp_path: Path,
    slow_app: int,
    settings: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    settings.setenv("PORT", str(slow_app))

    assert await said(capsys, "What is the monthly rent?") == (0, "At last.\n")
