"""The connection to a NATS server: the only file that knows its client.

It connects again by itself, for as long as it takes. `agents.APP.*` are the app's subjects;
OPERATING.md lists them.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as StreamError

from agent.errors import Unavailable
from agent.records import now
from agent.runs import Event

CONNECT_S = 3
"""A server that has not answered by then counts as away."""

log = logging.getLogger(__name__)


class NatsServer:
    """One server, and the subjects of one app on it."""

    def __init__(self, client: Client, url: str, token: str, app_name: str) -> None:
        self.client, self.url, self.app = client, url, app_name
        self._token, self._failing = token, False

    async def connect(self) -> None:
        options: dict[str, Any] = {"token": self._token} if self._token else {}
        try:
            async with asyncio.timeout(CONNECT_S):  # or the client would try for good
                await self.client.connect(
                    self.url,
                    name=self.app,
                    connect_timeout=CONNECT_S,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    error_cb=self._trouble,
                    **options,
                )
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            raise self.away(error) from error

    async def has_jetstream(self) -> bool:
        """Whether the server keeps messages; the platform's own may not."""
        try:
            await self.client.jetstream().account_info()
            return True
        except TimeoutError as error:  # it is there and says nothing: that is no answer
            raise self.away(error) from error
        except (NatsError, StreamError):
            return False

    def subject(self, *names: str) -> str:
        return ".".join(("agents", self.app, *names))

    async def announce(self, run_id: str, event: Event) -> None:
        """Tell whoever listens of an event; what nobody hears is lost."""
        body = message(run_id, event.type, event.data)
        with suppress(NatsError, OSError):
            await self.client.publish(self.subject("events", run_id), body)

    async def answer(self, name: str, do: Callable[[bytes], Awaitable[dict[str, Any]]]) -> None:
        """Answer requests to `agents.APP.NAME` with JSON; each is taken by one of the replicas."""

        async def reply(request: Msg) -> None:
            answer = await do(request.data)
            if request.reply:
                await request.respond(json.dumps(answer).encode())

        await self.client.subscribe(self.subject(name), queue=self.app, cb=reply)

    async def check(self) -> str:
        try:
            await self.client.flush(CONNECT_S)
        except (NatsError, OSError, TimeoutError) as error:
            raise self.away(error) from error
        return f"NATS {self.client.connected_server_version} at {self.url}"

    async def close(self) -> None:
        try:
            await self.client.close()
        except (NatsError, OSError) as error:
            log.debug("NATS was left: %s", error)

    def away(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        return Unavailable(
            f"NATS at {self.url} does not do its part ({said}); check NATS_URL, NATS_TOKEN and "
            "that the server runs.",
            "nats",
        )

    async def _trouble(self, error: Exception) -> None:
        """The client tells each failed try to connect; once an outage is enough."""
        if not self._failing:
            log.warning("NATS at %s: %s", self.url, str(error) or type(error).__name__)
        self._failing = not self.client.is_connected


def message(run_id: str, kind: str, data: dict[str, Any]) -> bytes:
    """An event as it is sent."""
    told = {"run_id": run_id, "type": kind, "data": data, "at": now()}
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")
