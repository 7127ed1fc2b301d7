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

from agent import services as module
from agent import tokens as tokens_module
from agent.errors import Unavailable
from agent.gateway import ChatModel, Gateway
from agent.services import connect, keycloak_token, with_port
from agent.settings import CLUSTER_LLM_GATEWAY, CLUSTER_QDRANT, Settings

pytestmark = pytest.mark.anyio

POD: dict[str, Any] = {
    "keycloak_url": "https://auth.example.com/",
    "keycloak_realm": "thinkube",
    "mlflow_client_secret": "client-secret",
    "mlflow_auth_username": "admin",
    "mlflow_auth_password": "admin-password",
}


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **values)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://qdrant.example.com", "https://qdrant.example.com:443"),
        ("https://qdrant.example.com/", "https://qdrant.example.com:443"),
        ("http://qdrant", "http://qdrant:6333"),
        ("qdrant", "http://qdrant:6333"),
        ("qdrant:7000", "http://qdrant:7000"),
        ("http://qdrant:80", "http://qdrant:80"),
        ("https://qdrant:6333/under/", "https://qdrant:6333/under"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_qdrants_port_is_spelt_out(given: str, used: str) -> None:
    assert with_port(given) == used


async def test_with_nothing_configured_qdrant_is_embedded_and_no_model_is_connected(
    folder: Path,
) -> None:
    services = connect(settings(folder))

    assert "embedded" in await services.store.database.check()
    assert services.model is None
    assert services.embedding is None
    assert not services.tracing.on
    await services.close()


async def test_a_qdrant_url_means_the_server(folder: Path) -> None:
    services = connect(settings(folder, qdrant_url="http://127.0.0.1:9"))

    assert services.store.database.place == "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match=r"Qdrant at http://127\.0\.0\.1:9 does not answer"):
        await services.store.documents()
    await services.close()


def names(*known: str) -> Callable[..., Any]:
    def getaddrinfo(host: str, *_: Any) -> Any:
        if host not in known:
            raise socket.gaierror("unknown name")
        return [("an address",)]

    return getaddrinfo


async def test_in_a_cluster_its_qdrant_is_taken_only_where_its_name_resolves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = settings(folder, kubernetes_service_host="10.0.0.1")

    monkeypatch.setattr(module.socket, "getaddrinfo", names())
    without = connect(pod)
    monkeypatch.setattr(module.socket, "getaddrinfo", names("qdrant.qdrant.svc.cluster.local"))
    installed = connect(pod)
    elsewhere = connect(settings(folder))

    assert without.store.database.place == str(folder / "qdrant")
    assert installed.store.database.place == CLUSTER_QDRANT
    assert elsewhere.store.database.place == str(folder / "qdrant")
    for services in (without, installed, elsewhere):
        await services.close()


@pytest.mark.parametrize("name", ["chat_model", "embedding_model"])
async def test_a_model_called_none_is_not_connected(name: str, folder: Path) -> None:
    chosen: dict[str, Any] = {"litellm_endpoint": "http://gateway.test", name: "none"}
    services = connect(settings(folder, **chosen))

    assert (services.model is None) == (name == "chat_model")
    assert (services.embedding is None) == (name == "embedding_model")
    await services.close()


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


async def test_litellm_gets_its_key(folder: Path) -> None:
    chosen = settings(
        folder, litellm_endpoint="http://litellm.test", litellm_master_key="sk-1", **POD
    )
    client, requests = sent_with(chosen)

    assert await Gateway(client).models() == ["chat"]

    (request,) = requests
    assert str(request.url) == "http://litellm.test/v1/models"
    assert request.headers["authorization"] == "Bearer sk-1"


async def test_a_gateway_without_a_key_gets_none_and_never_the_platforms_token(
    folder: Path,
) -> None:
    client, requests = sent_with(settings(folder, litellm_endpoint="http://other.test", **POD))

    await Gateway(client).models()

    (request,) = requests
    assert "authorization" not in request.headers


async def test_the_platforms_gateway_gets_a_token_by_password_which_is_kept(folder: Path) -> None:
    client, requests = sent_with(settings(folder, **POD))

    await Gateway(client).models()
    await Gateway(client).models()

    token, first, second = requests
    realm = "https://auth.example.com/realms/thinkube"
    assert str(token.url) == f"{realm}/protocol/openid-connect/token"
    form = dict(pair.split("=") for pair in token.content.decode().split("&"))
    assert form == {
        "grant_type": "password",
        "scope": "openid",
        "client_id": "mlflow",
        "client_secret": "client-secret",
        "username": "admin",
        "password": "admin-password",
    }
    assert str(first.url) == f"{CLUSTER_LLM_GATEWAY}/models"
    assert [r.headers["authorization"] for r in (first, second)] == ["Bearer jwt1"] * 2


async def test_the_token_is_renewed_before_it_expires(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(tokens_module.time, "monotonic", lambda: now)
    client, requests = sent_with(settings(folder, **POD))
    await Gateway(client).models()

    now += 29
    await Gateway(client).models()
    now += 2
    await Gateway(client).models()

    paths = [request.url.path.rsplit("/", 1)[1] for request in requests]
    assert paths == ["token", "models", "models", "token", "models"]
    assert requests[-1].headers["authorization"] == "Bearer jwt2"


async def test_a_token_that_is_refused_is_fetched_anew_once(folder: Path) -> None:
    tokens, accepted = iter(["old", "new"]), {"Bearer new"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": next(tokens), "expires_in": 300})
        right = request.headers["authorization"] in accepted
        return httpx.Response(200 if right else 401, json={"data": [{"id": "chat"}]})

    client = module._gateway_client(settings(folder, **POD))
    client._transport, client._mounts = httpx.MockTransport(answer), {}

    assert await Gateway(client).models() == ["chat"]
    assert await Gateway(client).models() == ["chat"]


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

    first, second = await asyncio.gather(Gateway(client).models(), Gateway(client).models())

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
        await ChatModel(Gateway(client), "auto", 64).name()

    assert "password" not in str(failure.value)
    assert "client-secret" not in str(failure.value)


async def test_no_secret_is_ever_printed_or_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chosen = settings(folder, litellm_master_key="sk-hidden", **POD)
    client, _ = sent_with(settings(folder, **POD))
    token = keycloak_token(chosen)

    await Gateway(client).models()
    services = connect(chosen)

    shown = f"{services} {services!r} {token!r} {client!r} {vars(services)} {caplog.text}"
    for secret in ("sk-hidden", "client-secret", "admin-password", "jwt1"):
        assert secret not in shown
    await services.close()


async def test_certificates_are_verified(folder: Path) -> None:
    client = module._gateway_client(settings(folder, **POD))

    context = client._transport._pool._ssl_context  # type: ignore[attr-defined]

    assert context.check_hostname
    await client.aclose()
