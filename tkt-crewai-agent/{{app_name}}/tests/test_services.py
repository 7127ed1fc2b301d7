"""Which servers the app talks to, and with which credentials."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from world import ANA, Jetstream, ask, ended

from agent import nats_server, rehearsal
from agent import services as module
from agent import tokens as tokens_module
from agent.errors import Unavailable
from agent.gateway import ChatModel
from agent.health import probe
from agent.journal_local import LocalJournal
from agent.journal_nats import NatsJournal
from agent.rehearsal import Rehearsal
from agent.services import connect, keycloak_token, with_port
from agent.settings import CLUSTER_LLM_GATEWAY, CLUSTER_NATS, CLUSTER_QDRANT, Settings

pytestmark = pytest.mark.anyio

POD: dict[str, Any] = {
    "keycloak_url": "https://auth.example.com/",
    "keycloak_realm": "thinkube",
    "mlflow_client_secret": "client-secret",
    "mlflow_auth_username": "admin",
    "mlflow_auth_password": "admin-password",
}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal.Rehearsal.__init__, "__defaults__", (0,))


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **values)


def names(*known: str) -> Callable[..., Any]:
    """A cluster in which these names, and all of this machine, resolve."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        if host in known:
            return [("an address",)]
        if str(host).endswith("svc.cluster.local"):
            raise socket.gaierror("unknown name")
        return real(host, *more, **options)

    return getaddrinfo


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://qdrant.example.com", "https://qdrant.example.com:443"),
        ("http://qdrant", "http://qdrant:6333"),
        ("qdrant", "http://qdrant:6333"),
        ("qdrant:7000", "http://qdrant:7000"),
        ("https://qdrant:6333/under/", "https://qdrant:6333/under"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_qdrants_port_is_spelt_out(given: str, used: str) -> None:
    assert with_port(given) == used


async def test_with_nothing_configured_all_is_in_the_folder_and_a_rehearsal_works(
    folder: Path,
) -> None:
    here = await connect(settings(folder))

    assert isinstance(here.model, Rehearsal)
    assert isinstance(here.journal, LocalJournal)
    assert (here.journal.shared, here.nats, here.access) == (False, None, None)
    assert here.toolbox.rag is here.toolbox.pages is None
    here.worker.start(here)
    record = await ask(here)
    assert (await ended(here, record)).state == "done"
    found = await probe(here.checks())
    assert all(service["ok"] for service in found.values())
    assert found["model"]["detail"] == "not configured"
    await here.close()


async def test_all_that_is_open_is_closed(folder: Path) -> None:
    for _ in range(2):  # the folder is free again
        here = await connect(settings(folder, litellm_endpoint="http://gateway.test"))
        here.worker.start(here)
        await here.close()
        assert here.model._http.is_closed  # type: ignore[union-attr]


async def test_what_was_opened_is_closed_when_the_rest_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next try would find the runs' folder in use."""

    def broken(_: Settings) -> None:
        raise Unavailable("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(module, "documents_of", broken)
        with pytest.raises(Unavailable, match="no disk") as kept:
            await connect(settings(folder))

    assert kept  # its traceback holds what was left open, so nothing is closed by chance
    await (await connect(settings(folder))).close()


async def test_a_second_process_on_the_same_folder_is_refused_in_a_sentence(folder: Path) -> None:
    first = await connect(settings(folder))

    with pytest.raises(Unavailable, match="Another process works on the runs"):
        await connect(settings(folder))

    await first.close()


async def test_runs_are_on_nats_where_it_is_configured(folder: Path, jetstream: Jetstream) -> None:
    pair = [await connect(settings(folder / n, nats_url=jetstream.url)) for n in "ab"]

    assert all(isinstance(here.journal, NatsJournal) for here in pair)
    pair[0].worker.start(pair[0])
    record = await ask(pair[1])
    assert (await ended(pair[1], record)).owner == ANA.id
    assert (await probe(pair[1].checks()))["runs"]["ok"]
    for here in pair:
        await here.close()


async def test_a_nats_without_jetstream_only_hears_the_events(
    folder: Path, jetstream: Jetstream
) -> None:
    plain = Jetstream(folder, "-V")
    plain.start()

    here = await connect(settings(folder, nats_url=plain.url))

    assert isinstance(here.journal, LocalJournal)
    assert here.nats
    assert f"JetStream is off at {plain.url}" in here.journal.place
    listener = await plain.connect()
    heard = await listener.client.subscribe("agents.crew.events.*")
    await listener.client.flush()
    here.worker.start(here)
    await ended(here, await ask(here))
    assert b'"queued"' in (await heard.next_msg(2)).data
    await listener.close()
    await here.close()
    plain.stop()


async def test_a_nats_that_is_configured_and_away_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "CONNECT_S", 0.3)
    with pytest.raises(Unavailable, match=r"NATS at nats://127\.0\.0\.1:9"):
        await connect(settings(folder, nats_url="nats://127.0.0.1:9"))


async def test_in_a_cluster_its_services_are_taken_only_where_their_names_resolve(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = settings(folder, kubernetes_service_host="10.0.0.1")
    asked = []

    class Server:
        def __init__(self, client: Any, url: str, *_: Any) -> None:
            asked.append(url)

        async def connect(self) -> None:
            raise Unavailable("NATS is away.")

    monkeypatch.setattr("agent.nats_server.NatsServer", Server)
    monkeypatch.setattr(module.socket, "getaddrinfo", names())
    without = await connect(pod)
    await without.close()
    monkeypatch.setattr(module.socket, "getaddrinfo", names("qdrant.qdrant.svc.cluster.local"))
    with_qdrant = await connect(pod)
    await with_qdrant.close()
    monkeypatch.setattr(module.socket, "getaddrinfo", names("nats.nats.svc.cluster.local"))
    with pytest.raises(Unavailable, match="NATS is away"):
        await connect(pod)
    outside = await connect(settings(folder))
    await outside.close()

    assert asked == [CLUSTER_NATS]
    assert without.documents.database.place == str(folder / "qdrant")
    assert with_qdrant.documents.database.place == CLUSTER_QDRANT
    assert outside.documents.database.place == str(folder / "qdrant")


async def test_a_model_called_none_is_not_connected(folder: Path) -> None:
    chosen: dict[str, Any] = {"litellm_endpoint": "http://gateway.test", "chat_model": "none"}
    here = await connect(settings(folder, **chosen))

    assert here.model.rehearses
    await here.close()


async def test_tools_are_there_where_they_are_configured(folder: Path) -> None:
    here = await connect(
        settings(folder, rag_mcp_url="http://rag/mcp", read_hosts="example.org", run_python=True)
    )

    assert here.toolbox.rag
    assert here.toolbox.pages
    assert here.toolbox.python
    assert set(here.checks()) == {"runs", "model", "qdrant", "rag", "langfuse", "keycloak"}
    await here.close()


def sent_with(chosen: Settings) -> tuple[httpx.AsyncClient, list[httpx.Request]]:
    """The gateway's client as the app makes it, and what goes out of it."""
    requests: list[httpx.Request] = []
    client = module._gateway_client(chosen)

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.url.path.endswith("/token"):
            number = sum(r.url.path.endswith("/token") for r in requests)
            return httpx.Response(200, json={"access_token": f"jwt{number}", "expires_in": 60})
        return httpx.Response(200, json={"data": [{"id": "chat"}]})

    client._transport = httpx.MockTransport(answer)
    client._mounts = {}
    return client, requests


def model_of(client: httpx.AsyncClient) -> ChatModel:
    model = ChatModel(client, "chat", 64, 10)
    model.pauses_s = ()
    return model


async def test_litellm_gets_its_key(folder: Path) -> None:
    chosen = settings(
        folder, litellm_endpoint="http://litellm.test", litellm_master_key="sk-1", **POD
    )
    client, requests = sent_with(chosen)

    assert await model_of(client).models() == ["chat"]

    (request,) = requests
    assert str(request.url) == "http://litellm.test/v1/models"
    assert request.headers["authorization"] == "Bearer sk-1"


async def test_a_gateway_without_a_key_gets_none_and_never_the_platforms_token(
    folder: Path,
) -> None:
    client, requests = sent_with(settings(folder, litellm_endpoint="http://other.test", **POD))

    await model_of(client).models()

    (request,) = requests
    assert "authorization" not in request.headers


async def test_the_platforms_gateway_gets_a_token_by_password_which_is_kept(folder: Path) -> None:
    client, requests = sent_with(settings(folder, **POD))

    await model_of(client).models()
    await model_of(client).models()

    token, first, second = requests
    realm = "https://auth.example.com/realms/thinkube"
    assert str(token.url) == f"{realm}/protocol/openid-connect/token"
    assert str(first.url) == f"{CLUSTER_LLM_GATEWAY}/models"
    assert [r.headers["authorization"] for r in (first, second)] == ["Bearer jwt1"] * 2


async def test_the_token_is_renewed_before_it_expires(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(tokens_module.time, "monotonic", lambda: now)
    client, requests = sent_with(settings(folder, **POD))
    await model_of(client).models()

    now += 31
    await model_of(client).models()

    paths = [request.url.path.rsplit("/", 1)[1] for request in requests]
    assert paths == ["token", "models", "token", "models"]


async def test_two_first_requests_at_once_share_one_token(folder: Path) -> None:
    fetched = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            fetched.append(request)
            await asyncio.sleep(0.05)
            return httpx.Response(200, json={"access_token": "jwt", "expires_in": 60})
        return httpx.Response(200, json={"data": [{"id": "chat"}]})

    client = module._gateway_client(settings(folder, **POD))
    client._transport, client._mounts = httpx.MockTransport(answer), {}

    first, second = await asyncio.gather(model_of(client).models(), model_of(client).models())

    assert first == second == ["chat"]
    assert len(fetched) == 1


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(401, json={"error": "invalid_grant"}),
        httpx.Response(200, json={"no": "token"}),
        httpx.Response(200, text="<html>maintenance</html>"),
        httpx.Response(200, json=["odd"]),
    ],
    ids=["refused", "no token", "web page", "list"],
)
async def test_a_keycloak_that_gives_no_token_is_one_sentence_without_secrets(
    reply: httpx.Response, folder: Path
) -> None:
    client = module._gateway_client(settings(folder, **POD))
    client._transport, client._mounts = httpx.MockTransport(lambda _: reply), {}

    with pytest.raises(Unavailable) as failure:
        await model_of(client).complete([{"role": "user", "content": "Hi"}])

    assert "password" not in str(failure.value)
    assert "client-secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        ({"rag_mcp_key": "sk-rag"}, "Bearer sk-rag"),
        ({}, None),
        ({"rag_mcp_key": "sk-rag"} | POD, "Bearer sk-rag"),
        (POD, "Bearer jwt"),
    ],
    ids=["key", "nothing", "key in a pod", "pod"],
)
async def test_the_rag_agent_gets_its_key_else_the_platforms_token(
    values: Any, sent: str | None, folder: Path
) -> None:
    had = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "jwt", "expires_in": 60})
        had.append(request.headers.get("authorization"))
        return httpx.Response(200)

    client = module._rag_client(settings(folder, rag_mcp_url="http://rag/mcp", **values))()
    client._transport, client._mounts = httpx.MockTransport(answer), {}

    await client.get("http://rag/mcp")

    assert had == [sent]


async def test_no_secret_is_ever_printed_or_logged(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(module.socket, "getaddrinfo", names())
    chosen = settings(folder, litellm_master_key="sk-hidden", rag_mcp_key="sk-hidden", **POD)
    client, _ = sent_with(settings(folder, **POD))
    token = keycloak_token(chosen)

    await model_of(client).models()
    here = await connect(chosen)

    shown = f"{here} {here!r} {token!r} {client!r} {vars(here)} {caplog.text}"
    for secret in ("sk-hidden", "client-secret", "admin-password", "jwt1"):
        assert secret not in shown
    await here.close()


async def test_certificates_are_verified(folder: Path) -> None:
    client = module._gateway_client(settings(folder, **POD))

    context = client._transport._pool._ssl_context  # type: ignore[attr-defined]

    assert context.check_hostname
    await client.aclose()


async def test_a_task_has_a_role_and_a_next_one(folder: Path) -> None:
    here = await connect(settings(folder))

    assert here.task_names == ["research", "analysis", "draft", "edit"]
    assert here.agent_of("research") == "Researcher"
    assert here.agent_of("nothing") == ""
    assert [here.task_after(name) for name in here.task_names] == ["analysis", "draft", "edit", ""]
    assert here.task_after("nothing") == ""
    await here.close()
