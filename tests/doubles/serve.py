"""Serving a double: in a thread for the length of a block, or in the foreground by hand."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.responses import Response


@contextmanager
def running(app: Any, port: int = 0) -> Iterator[str]:
    """Serve the ASGI `app` on 127.0.0.1 from a thread; yields its URL, without a slash at the end.

    Port 0 takes a free one. It accepts connections when it yields; at the end open requests are
    cancelled and their connections closed. OSError when the port is taken.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    send_at_once(listener)
    server = uvicorn.Server(_config(app))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def send_at_once(listener: socket.socket) -> None:
    """What it accepts holds nothing back for an ACK. Servers do so by themselves, but asyncio not
    for a listener that it has not made; then the first token of a kept connection is 40 ms late."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def by_hand(app: Any, port: int) -> None:
    """Serve until Ctrl-C."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


def arguments(description: str | None, port: int) -> argparse.ArgumentParser:
    """The command line that all doubles share; `port` is the default."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=port)
    return parser


class Cut(Exception):
    """Raised by what makes a streamed body: the connection is closed in mid-body."""


class Stream(Response):
    """A body made piece by piece; nothing is sent before the first piece, which may be empty.

    A client that leaves, or the loop's time `until`, ends `pieces` at once, so that its `finally`
    runs. `started` tells whether headers were sent, `late` that `until` came first.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        status_code: int = 200,
        media_type: str | None = None,
        until: float | None = None,
    ) -> None:
        self.status_code, self.media_type, self.background = status_code, media_type, None
        self.init_headers()
        self._pieces, self._until = pieces, until
        self.started = self.late = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(until_gone(receive))
        try:
            now = asyncio.get_running_loop().time()
            seconds = None if self._until is None else max(0, self._until - now)
            done, _ = await asyncio.wait(
                (sending, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            self.late = not done
        finally:
            await _end(leaving)
            await _end(sending)
            await self._pieces.aclose()

    async def _send(self, send: Any) -> None:
        async for piece in self._pieces:
            await self._start(send)
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._start(send)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Any) -> None:
        if not self.started:
            self.started = True
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start"} | start)


async def until_gone(receive: Any) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[None]) -> None:
    """Uvicorn closes the connection of a response that was started and not finished."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Cut):
        await task


def _config(app: Any) -> uvicorn.Config:
    # Critical: a response that is cut on purpose is an error in uvicorn's log.
    return uvicorn.Config(
        app,
        ws="none",
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=0,
    )


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("The double did not start; serve it by hand to see why.")
        time.sleep(0.002)
