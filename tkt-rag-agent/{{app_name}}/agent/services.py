"""Which servers the app talks to: the only file that opens a connection.

`connect(settings)` builds the real `Services`; tests and notebooks build their own. Nothing here
waits for a server: what is away is reported by `/ready` and used again when it is back.
"""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from agent import keys
from agent.access import Access, User
from agent.errors import Unavailable
from agent.gateway import ChatModel, EmbeddingModel, Gateway
from agent.health import Check
from agent.index import Index
from agent.limits import Limits
from agent.local_embedding import LocalEmbedding
from agent.measures import Measures
from agent.runs import Runs
from agent.settings import CLUSTER_QDRANT, Settings
from agent.store import Store
from agent.tokens import KeycloakToken
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
    limits: Limits
    measures: Measures
    gateway: Gateway | None = None
    access: Access | None = None
    own_store: Callable[[str], Store] | None = None
    """Gives each user a store of their own, where documents are private."""
    stores: dict[str, Store] = field(default_factory=dict)
    """Those that were given."""

    def of(self, user: User) -> "Services":
        """What `user` works with: another's documents are in another store altogether."""
        if self.own_store is None:
            return self
        if user.id not in self.stores:
            self.stores[user.id] = self.own_store(user.id)
        return replace(self, store=self.stores[user.id])

    def checks(self) -> dict[str, Check | None]:
        """How to ask each service whether it answers; None for what is not configured."""
        return {
            "qdrant": self.store.database.check,
            "model": self.model.check if self.model else None,
            "embedding": self.embedding.check if self.embedding else None,
            "langfuse": self.tracing.check if self.tracing.on else None,
            "keycloak": self.access.check if self.access and self.access.issuer else None,
        }

    async def tend(self) -> None:
        """To be called now and then: find the models, and keep the stores as they want it."""
        if self.model:
            with contextlib.suppress(Unavailable):  # said by /ready and in each answer
                await self.model.name()
        count = 0
        for store in self._all_stores():
            await store.tend()
            count += len(await store.documents())
        self.measures.documents.set(count)

    async def close(self) -> None:
        await self.runs.close()
        for store in self._all_stores():
            await store.database.close()
        await asyncio.to_thread(self.tracing.close)

    def _all_stores(self) -> list[Store]:
        return list(self.stores.values()) if self.own_store else [self.store]


def connect(settings: Settings) -> Services:
    """Services for these settings; blocks for about a second, all of it imports."""
    gateway = Gateway(_gateway_client(settings)) if settings.gateway_url else None
    model, embedding = None, _embedding(settings, gateway)
    if gateway and settings.chat_model != "none":
        model = ChatModel(gateway, settings.chat_model, settings.answer_tokens)
    index, runs = Index(embedding), Runs()
    limits = Limits(
        settings.requests_per_minute, settings.concurrent_runs, settings.upload_mb_per_hour
    )

    def own_store(user: str) -> Store:
        part = hashlib.sha256(user.encode()).hexdigest()[:16]
        return Store(_database(settings, part), f"{settings.app_name}.{part}", index)

    return Services(
        settings,
        Store(_database(settings), settings.app_name, index),
        model,
        embedding,
        Tracing(
            settings.langfuse_public_key,
            settings.langfuse_secret_key.get_secret_value(),
            settings.langfuse_url,
        ),
        runs,
        limits,
        Measures(runs, limits),
        gateway,
        _access(settings) if settings.signs_on else None,
        own_store if settings.documents == "private" else None,
    )


def _access(settings: Settings) -> Access:
    client_id = settings.keycloak_client_id or settings.app_name
    accepted = set(settings.accepted_clients.replace(",", " ").split())
    return Access(settings.issuer, client_id, accepted, keys.parse(settings.api_keys))


def _embedding(settings: Settings, gateway: Gateway | None) -> Any:
    wanted = settings.embedding_model
    if wanted == "local":
        return LocalEmbedding()
    return EmbeddingModel(gateway, wanted) if gateway and wanted != "none" else None


def _database(settings: Settings, part: str = "") -> Any:
    """Where documents are: all, or those in the `part` that is one user's."""
    url = settings.qdrant_url
    if not url and settings.in_cluster and _resolves(CLUSTER_QDRANT):
        url = CLUSTER_QDRANT  # installed, even if it is down just now
    if url:
        return _server(url, settings, part)
    from agent.qdrant_embedded import Embedded

    folder = settings.data_dir / "users" / part if part else settings.data_dir / "qdrant"
    folder.mkdir(parents=True, exist_ok=True)
    return Embedded(folder)


def _server(url: str, settings: Settings, part: str) -> Any:
    from qdrant_client import AsyncQdrantClient

    from agent.qdrant_server import Server

    url = with_port(url)
    key = settings.qdrant_api_key.get_secret_value() or None
    client = AsyncQdrantClient(url=url, api_key=key, timeout=10, check_compatibility=False)
    alias = f"{settings.app_name}.{part}" if part else settings.app_name
    return Server(client, alias, url)


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
    auth = None if key or settings.litellm_endpoint else keycloak_token(settings)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    return httpx.AsyncClient(
        base_url=settings.gateway_url + "/", headers=headers, auth=auth, limits=limits
    )


def keycloak_token(settings: Settings) -> KeycloakToken:
    return KeycloakToken(
        settings.issuer,
        settings.mlflow_keycloak_client_id,
        settings.mlflow_client_secret.get_secret_value(),
        settings.mlflow_auth_username,
        settings.mlflow_auth_password.get_secret_value(),
    )
