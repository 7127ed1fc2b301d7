"""The world of every test: no network, no settings from outside, no GPU.

Loaded for `platform/` as well, where most packages are missing: so imports are in the fixtures.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest

HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}


@pytest.fixture(autouse=True)
def _nothing_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach out fails, whatever the code makes of the error."""

    def guarded(name: str) -> Any:
        real = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and address[0] not in HERE:
                pytest.fail(f"the test wants to connect to {address}")
            return real(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.settings import Settings

    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
