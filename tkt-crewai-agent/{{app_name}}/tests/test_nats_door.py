"""Runs that other apps ask for on NATS."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from world import FakeModel, Jetstream, Journals, ended, kept, make_services, until

from agent.errors import Unavailable
from agent.nats_server import NatsServer
from agent.rehearsal import Rehearsal
from agent.services import Services, connect
from agent.settings import Settings
from agent.work import listed
from nats_door import CALLER, _answer, open_door

pytestmark = pytest.mark.anyio


async def answer(services: Services, **body: Any) -> dict[str, Any]:
    return await _answer(services, json.dumps(body).encode())


async def test_a_run_is_begun_and_named(services: Services) -> None:
    body = {"topic": "Which heating?", "process": "hierarchical", "budget": {"steps": 10}}

    told = await answer(services, **body)

    record = await kept(services.journal, told["run_id"])
    assert told == {"run_id": record.id, "state": "queued"}
    assert (record.door, record.owner, record.process) == ("nats", CALLER.id, "hierarchical")
    assert record.budget.steps == 10


async def test_the_same_key_is_the_same_run(services: Services) -> None:
    first = await answer(services, topic="Which heating?", key="k")

    assert await answer(services, topic="Which heating?", key="k") == first
    other = await answer(services, topic="Another", key="k")
    assert "This key was used before" in other["error"]


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Invalid JSON"),
    "no JSON": (b"{topic", "Invalid JSON"),
    "no text": (b"\xff\xfe", "Invalid JSON"),
    "a list": (b"[]", "object"),
    "no topic": (b"{}", "topic: Field required"),
    "a blank topic": (b'{"topic": " "}', "topic"),
    "half a surrogate": (b'{"topic": "\\ud800"}', "Invalid JSON"),
    "an unknown field": (b'{"topic": "a", "mood": 1}', "mood"),
    "an unknown process": (b'{"topic": "a", "process": "odd"}', "process"),
    "an approval": (b'{"topic": "a", "approve": ["research"]}', "leave `approve` out"),
    "too large a budget": (b'{"topic": "a", "budget": {"steps": 9999}}', "budget of steps"),
    "a budget of none": (b'{"topic": "a", "budget": {"steps": 0}}', "budget.steps"),
    "a budget that is no number": (b'{"topic": "a", "budget": {"dollars": NaN}}', "budget"),
    "a long key": (json.dumps({"topic": "a", "key": "k" * 201}).encode(), "key"),
    "a long topic": (json.dumps({"topic": "a" * 8001}).encode(), "1 to 8,000 characters"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_used_is_told_and_begins_nothing(
    case: str, services: Services
) -> None:
    data, sentence = BAD[case]

    told = await _answer(services, data)

    assert set(told) == {"error"}
    assert sentence in told["error"]
    assert "\n" not in told["error"]
    assert await services.journal.counts() == {}


async def test_a_journal_that_is_away_is_told(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("The runs cannot be kept.")

    monkeypatch.setattr(services.journal, "create", away)

    assert await answer(services, topic="a") == {"error": "The runs cannot be kept."}


async def test_a_fault_of_the_app_is_told_as_one_and_keeps_the_door_open(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever asked would wait for an answer until they give up."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(services.journal, "create", broken)

    told = await answer(services, topic="a")

    assert set(told) == {"error"}
    assert "hunter2" not in told["error"]


async def test_the_limits_hold_for_all_on_nats_together(
    folder: Path, model: FakeModel, anyio_backend: str
) -> None:
    services = await make_services(folder, model, concurrent_runs=1)
    await answer(services, topic="a")

    assert "limit of 1 answers" in (await answer(services, topic="b"))["error"]
    await services.close()


async def test_another_app_asks_is_answered_and_hears_how_it_goes_on(
    jetstream: Jetstream, folder: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rehearsal.__init__, "__defaults__", (0,))
    settings = Settings(_env_file=None, data_dir=folder, nats_url=jetstream.url)
    here = await connect(settings)
    here.worker.start(here)
    await open_door(here)
    other = await jetstream.connect("other")
    heard = await other.client.subscribe("agents.crew.events.*")
    await other.client.flush()

    request = json.dumps({"topic": "Which heating?"}).encode()
    reply = json.loads((await other.client.request("agents.crew.run", request, 3)).data)
    wrong = json.loads((await other.client.request("agents.crew.run", b"{", 3)).data)

    assert reply["state"] == "queued"
    assert set(wrong) == {"error"}
    kinds = []
    while not kinds or kinds[-1] != "done":
        event = json.loads((await heard.next_msg(5)).data)
        assert event["run_id"] == reply["run_id"]
        kinds.append(event["type"])
    assert kinds[0] == "state"
    assert [one.id for one in await listed(here, CALLER)] == [reply["run_id"]]
    await other.close()
    await here.close()


async def test_of_several_replicas_one_answers(replicas: Journals, jetstream: Jetstream) -> None:
    from dataclasses import replace

    pair = [await replicas.services() for _ in range(2)]
    for services in pair:
        await open_door(replace(services, nats=services.journal._server))
    other = await jetstream.connect("other")

    for number in range(5):
        body = json.dumps({"topic": f"Topic {number}"}).encode()
        await other.client.request("agents.crew.run", body, 3)

    async def all_there() -> bool:
        return len(await listed(pair[0], CALLER)) >= 5

    await until(all_there)
    await asyncio.sleep(0.2)  # for a sixth, which must not come

    assert len(await listed(pair[0], CALLER)) == 5
    await other.close()


@pytest.mark.parametrize("closed", [{"nats_door": "off"}, {"keycloak_url": "https://auth.test"}])
async def test_the_door_stays_shut_where_strangers_are_kept_out(
    closed: Any, folder: Path, anyio_backend: str
) -> None:
    from dataclasses import replace

    opened: list[str] = []

    class Server(NatsServer):
        def __init__(self) -> None:
            pass

        async def answer(self, name: str, do: Any) -> None:
            opened.append(name)

    shut = await make_services(folder / "a", **closed)
    wide = await make_services(folder / "b")
    for services in (shut, wide):
        await open_door(replace(services, nats=Server()))
    await open_door(wide)  # without NATS

    assert opened == ["run"]
    await shut.close()
    await wide.close()


async def test_a_run_of_nats_is_shown_to_nobody_else(services: Services) -> None:
    from world import ANA

    services.worker.start(services)
    told = await answer(services, topic="Which heating?")

    assert await listed(services, ANA) == []
    done = await ended(services, await kept(services.journal, told["run_id"]))
    assert done.state == "done"
