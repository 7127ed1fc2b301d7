"""Which servers the app talks to: the only file that opens a connection.

`connect(settings)` builds the real `Services`; tests and notebooks build their own. Nothing here
waits for a server: what is away is reported by `/ready` and used again when it is back.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from agent.errors import Unavailable
from agent.gateway import ChatModel, EmbeddingModel, Gateway
from agent.index import Index
from agent.local_embedding import LocalEmbedding
from agent.runs import Runs
from agent.settings import CLUSTER_QDRANT, Settings
from agent.store import Store
from agent.tracing import Tracing


@dataclass(frozen=True)
class Services:
    """All that the house works with. `model` and `embedding` are None when not configured."""

    settings: Settings
    store: Store
    model: ChatModel | None
    embedding: EmbeddingModel | LocalEmbedding | None
    tracing: Tracing
    runs: Runs

    async def tend(self) -> None:
        """To be called now and then: find the models, and keep the store as they want it."""
        if self.model:
            with contextlib.suppress(Unavailable):  # said by /ready and in each answer
                await self.model.name()
        await self.store.tend()

    async def close(self) -> None:
        await self.runs.close()
        await self.store.database.close()
        await asyncio.to_thread(self.tracing.close)


def connect(settings: Settings) -> Services:
    """Services for these settings; blocks for about a second, all of it imports."""
    gateway = Gateway(_gateway_client(settings)) if settings.gateway_url else None
    model, embedding = None, _embedding(settings, gateway)
    if gateway and settings.chat_model != "none":
        model = ChatModel(gateway, settings.chat_model, settings.answer_tokens)
    return Services(
        settings,
        Store(_database(settings), settings.app_name, Index(embedding)),
        model,
        embedding,
        Tracing(
            settings.langfuse_public_key,
            settings.langfuse_secret_key.get_secret_value(),
            settings.langfuse_url,
        ),
        Runs(),
    )


def _embedding(settings: Settings, gateway: Gateway | None) -> Any:
    wanted = settings.embedding_model
    if wanted == "local":
        return LocalEmbedding()
    return EmbeddingModel(gateway, wanted) if gateway and wanted != "none" else None


def _database(settings: Settings) -> Any:
    url = settings.qdrant_url
    if not url and settings.in_cluster and _resolves(CLUSTER_QDRANT):
        url = CLUSTER_QDRANT  # installed, even if it is down just now
    if url:
        return _server(url, settings)
    from agent.qdrant_embedded import Embedded

    folder = settings.data_dir / "qdrant"
    folder.mkdir(parents=True, exist_ok=True)
    return Embedded(folder)


def _server(url: str, settings: Settings) -> Any:
    from qdrant_client import AsyncQdrantClient

    from agent.qdrant_server import Server

    url = with_port(url)
    key = settings.qdrant_api_key.get_secret_value() or None
    client = AsyncQdrantClient(url=url, api_key=key, timeout=10, check_compatibility=False)
    return Server(client, settings.app_name, url)


def with_port(url: str) -> str:
    """`url` with its port spelt out: Qdrant's client takes 6333 also for https without one."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    port = parts.port or (443 if parts.scheme == "https" else 6333)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"


def _resolves(url: str) -> bool:
    """A service that is not installed has no name in the cluster; one that is down has."""
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except OSError:
        return False


def _gateway_client(settings: Settings) -> httpx.AsyncClient:
    key = settings.litellm_master_key.get_secret_value()
    auth = None if key or settings.litellm_endpoint else KeycloakToken(settings)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    return httpx.AsyncClient(
        base_url=settings.gateway_url + "/", headers=headers, auth=auth, limits=limits
    )


class KeycloakToken(httpx.Auth):
    """A token for the platform's own gateway, made from what the platform injects into each pod.

    It is fetched by the password grant when it is first needed, kept, and renewed before it expires
    or when it is refused.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = ""
        self._expires = 0.0

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if time.monotonic() >= self._expires:
            await self._keep((yield self._token_request()))
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == 401:
            await self._keep((yield self._token_request()))
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _token_request(self) -> httpx.Request:
        settings = self._settings
        form = {
            "grant_type": "password",
            "scope": "openid",
            "client_id": settings.mlflow_keycloak_client_id,
            "client_secret": settings.mlflow_client_secret.get_secret_value(),
            "username": settings.mlflow_auth_username,
            "password": settings.mlflow_auth_password.get_secret_value(),
        }
        realm = f"{settings.keycloak_url.rstrip('/')}/realms/{settings.keycloak_realm}"
        return httpx.Request("POST", f"{realm}/protocol/openid-connect/token", data=form)

    async def _keep(self, response: httpx.Response) -> None:
        await response.aread()
        token = {} if response.is_error else response.json()
        if "access_token" not in token:
            raise httpx.HTTPError(f"Keycloak answers {response.status_code} and gives no token")
        self._token = token["access_token"]
        self._expires = time.monotonic() + token.get("expires_in", 60) - 30
