"""The world of every test: no network, no settings from outside, runs in a temporary folder.

Loaded for `platform/` as well, where most packages are missing: so imports are in the fixtures.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from world import FakeGateway, FakeModel, Jetstream, Journals

    from agent.services import Services

HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}


def pytest_configure(config: pytest.Config) -> None:
    """CrewAI warns of itself hundreds of times."""
    for warning in ("DeprecationWarning:crewai", "UserWarning:pydantic.main"):
        config.addinivalue_line("filterwarnings", f"ignore::{warning}")


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
def model() -> FakeModel:
    from world import FakeModel

    return FakeModel()


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a RAM disk where there is a large one: most of a journal's time is waiting for a disk."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 2**30
    with tempfile.TemporaryDirectory(dir=shm if roomy else None) as made:
        yield Path(made)


@pytest.fixture
async def services(folder: Path, anyio_backend: str) -> AsyncIterator[Services]:
    """Runs and documents in a temporary folder, a rehearsal in place of a model, no traces; its
    worker is not at work yet."""
    from world import make_services

    made = await make_services(folder)
    yield made
    await made.close()


@pytest.fixture
async def with_model(folder: Path, model: FakeModel, anyio_backend: str) -> AsyncIterator[Services]:
    """As `services`, with `model` in place of the rehearsal."""
    from world import make_services

    made = await make_services(folder, model)
    yield made
    await made.close()


@pytest.fixture
def jetstream(folder: Path) -> Iterator[Jetstream]:
    """A NATS server with JetStream of this test's own."""
    from world import NATS_SERVER, Jetstream

    if not NATS_SERVER:
        pytest.skip("there is no nats-server on this machine")
    server = Jetstream(folder / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["local", "nats"])
async def journals(
    request: pytest.FixtureRequest, folder: Path, anyio_backend: str
) -> AsyncIterator[Journals]:
    """Opens one and the same journal, as often as one wants."""
    from world import Journals

    server = request.getfixturevalue("jetstream") if request.param == "nats" else None
    async with AsyncExitStack() as stack:
        yield Journals(folder / "runs", server, stack)


@pytest.fixture
async def replicas(
    jetstream: Jetstream, folder: Path, anyio_backend: str
) -> AsyncIterator[Journals]:
    """As `journals`, on NATS alone."""
    from world import Journals

    async with AsyncExitStack() as stack:
        yield Journals(folder / "runs", jetstream, stack)
