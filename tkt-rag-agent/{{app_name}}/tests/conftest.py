"""The world of every test: no network, no settings from outside, documents in a temporary folder.

Loaded for `platform/` as well, where most packages are missing: so imports are in the fixtures.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from world import FakeGateway

    from agent.services import Services

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


@pytest.fixture
def gateway() -> FakeGateway:
    from world import FakeGateway

    return FakeGateway()


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a RAM disk where there is a large one: most of the store's time is waiting for a disk."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 2**30
    with tempfile.TemporaryDirectory(dir=shm if roomy else None) as made:
        yield Path(made)


@pytest.fixture
async def services(folder: Path, anyio_backend: str) -> AsyncIterator[Services]:
    """Qdrant Edge in a temporary folder, no model, no traces."""
    from world import make_services

    made = make_services(folder)
    yield made
    await made.close()


@pytest.fixture
async def with_model(
    folder: Path, gateway: FakeGateway, anyio_backend: str
) -> AsyncIterator[Services]:
    """As `services`, with the models of `gateway`."""
    from world import make_services

    made = make_services(folder, gateway)
    yield made
    await made.close()
