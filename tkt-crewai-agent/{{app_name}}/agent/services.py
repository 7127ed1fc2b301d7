"""Which servers the app talks to: the only file that opens a connection.

`await connect(settings)` builds the real `Services`; tests and notebooks build their own. What is
away is reported by `/ready` and used again when it is back; only NATS, once it is configured, is
waited for, as it decides where runs are kept.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from agent import keys, prompts
from agent.access import Access
from agent.documents import Documents
from agent.gateway import ChatModel
from agent.health import Check
from agent.journal import Journal
from agent.journal_local import LocalJournal
from agent.limits import Limits
from agent.mcp_client import LIMIT_S as RAG_S
from agent.mcp_client import RagAgent
from agent.measures import Measures
from agent.rehearsal import Rehearsal
from agent.runs import Runs
from agent.settings import CLUSTER_NATS, CLUSTER_QDRANT, Settings
from agent.tokens import KeycloakToken
from agent.tools import Toolbox
from agent.tracing import Tracing
from agent.web import Pages
from agent.worker import Worker


@dataclass(frozen=True)
class Services:
    """All that the house works with."""

    settings: Settings
    journal: Journal
    worker: Worker
    model: ChatModel | Rehearsal
    toolbox: Toolbox
    tracing: Tracing
    runs: Runs
    limits: Limits
    measures: Measures
    access: Access | None = None
    nats: Any = None
    """The NatsServer, where there is one."""

    @property
    def documents(self) -> Documents:
        return self.toolbox.documents

    @property
    def task_names(self) -> list[str]:
        return [step.name for step in prompts.TASKS]

    def agent_of(self, task: str) -> str:
        """The role of whom a task was given to."""
        key = next((step.agent for step in prompts.TASKS if step.name == task), "")
        return prompts.AGENTS[key].role if key in prompts.AGENTS else key

    def task_after(self, task: str) -> str:
        """The name of the next task, "" after the last one."""
        names = self.task_names
        return names[names.index(task) + 1] if task in names[:-1] else ""

    def checks(self) -> dict[str, Check | None]:
        """How to ask each service whether it answers; None for what is not configured."""
        return {
            "runs": self.journal.check,
            "model": None if self.model.rehearses else self.model.check,
            "qdrant": self.documents.check,
            "rag": self.toolbox.rag.check if self.toolbox.rag else None,
            "langfuse": self.tracing.check if self.tracing.on else None,
            "keycloak": self.access.check if self.access and self.access.issuer else None,
        }

    async def tend(self) -> None:
        """To be called now and then."""
        self.measures.counted(await self.journal.counts())

    async def close(self) -> None:
        await self.worker.close()
        await self.runs.close()
        await self.journal.close()
        await self.documents.close()
        if isinstance(self.model, ChatModel):
            await self.model.close()
        if self.toolbox.pages:
            await self.toolbox.pages.close()
        await asyncio.to_thread(self.tracing.close)


async def connect(settings: Settings) -> Services:
    """Services for these settings, with a worker that is not started yet; Unavailable while NATS
    is configured and away."""
    nats, journal = await _journal(settings)
    limits = Limits(
        settings.requests_per_minute, settings.concurrent_runs, settings.upload_mb_per_hour
    )
    try:
        await journal.start()
        toolbox = await asyncio.to_thread(_toolbox, settings)
    except BaseException:  # or the next try finds the runs' folder in use
        await journal.close()
        raise
    return Services(
        settings,
        journal,
        Worker(settings.runs_at_once, settings.ack_wait_s),
        _model(settings),
        toolbox,
        Tracing(
            settings.langfuse_public_key,
            settings.langfuse_secret_key.get_secret_value(),
            settings.langfuse_url,
        ),
        Runs(),
        limits,
        Measures(limits),
        _access(settings) if settings.signs_on else None,
        nats,
    )


async def _journal(settings: Settings) -> tuple[Any, Journal]:
    """NATS with JetStream; else SQLite, and events are told on NATS if there is one."""
    folder, keep = settings.data_dir / "runs", settings.keep_days
    url = settings.nats_url
    if not url and settings.in_cluster and await asyncio.to_thread(_resolves, CLUSTER_NATS):
        url = CLUSTER_NATS
    if not url:
        return None, LocalJournal(folder, keep)
    from nats.aio.client import Client

    from agent.journal_nats import NatsJournal
    from agent.nats_server import NatsServer

    token = settings.nats_token.get_secret_value()
    server = NatsServer(Client(), url, token, settings.app_name)
    await server.connect()
    if await server.has_jetstream():
        return server, NatsJournal(server, keep, settings.ack_wait_s)
    return server, LocalJournal(folder, keep, server)


def _model(settings: Settings) -> ChatModel | Rehearsal:
    if not settings.gateway_url or settings.chat_model == "none":
        return Rehearsal()
    prices = settings.price_input, settings.price_output
    return ChatModel(
        _gateway_client(settings),
        settings.chat_model,
        settings.answer_tokens,
        settings.model_timeout_s,
        prices,
    )


def _toolbox(settings: Settings) -> Toolbox:
    rag = RagAgent(settings.rag_mcp_url, _rag_client(settings)) if settings.rag_mcp_url else None
    pages = Pages(settings.hosts) if settings.hosts else None
    return Toolbox(documents_of(settings), pages, rag, settings.run_python)


def _rag_client(settings: Settings) -> Callable[[], httpx.AsyncClient]:
    """Makes a client for each talk, as MCP's own client ends the one that it is given."""
    key = settings.rag_mcp_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    auth = keycloak_token(settings) if not key and settings.can_mint_token else None
    timeout = httpx.Timeout(30, read=RAG_S)
    return lambda: httpx.AsyncClient(headers=headers, auth=auth, timeout=timeout)


def documents_of(settings: Settings) -> Documents:
    """The crew's documents, on a Qdrant server or embedded."""
    url = settings.qdrant_url
    if not url and settings.in_cluster and _resolves(CLUSTER_QDRANT):
        url = CLUSTER_QDRANT  # installed, even if it is down just now
    if url:
        return Documents(_qdrant_server(url, settings), settings.app_name)
    from agent.qdrant_embedded import Embedded

    folder = settings.data_dir / "qdrant"
    folder.mkdir(parents=True, exist_ok=True)
    return Documents(Embedded(folder), settings.app_name)


def _qdrant_server(url: str, settings: Settings) -> Any:
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


def _access(settings: Settings) -> Access:
    client_id = settings.keycloak_client_id or settings.app_name
    accepted = set(settings.accepted_clients.replace(",", " ").split())
    return Access(settings.issuer, client_id, accepted, keys.parse(settings.api_keys))


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
