"""Which servers the app talks to: the only file that opens a connection.

`connect(settings)` builds the real `Services`; tests build their own. Nothing here waits for a
server: what is away is reported by `/ready` and used again when it is back.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from agent import gpu, keys
from agent.access import Access
from agent.adapters import Adapters
from agent.engine import Engine
from agent.errors import Unavailable
from agent.gpu import Card
from agent.health import Check
from agent.hub import Hub
from agent.limits import Limits
from agent.litellm import Registration, key_for
from agent.measures import Measures
from agent.mlflow import Registry
from agent.runs import Runs
from agent.settings import Settings
from agent.tokens import KeycloakToken
from agent.weights import Sources

LITELLM = "litellm"
"""What LiteLLM is called where it asks."""


@dataclass(frozen=True)
class Load:
    """How busy the engine is."""

    running: int
    waiting: int
    cache: float
    """Share of the memory for talks that is in use."""


@dataclass(frozen=True)
class Services:
    """All that the house works with. `registration` is None without LiteLLM."""

    settings: Settings
    engine: Engine
    adapters: Adapters
    sources: Sources
    runs: Runs
    limits: Limits
    measures: Measures
    registration: Registration | None = None
    access: Access | None = None
    passing: "set[asyncio.Task[None]]" = field(default_factory=set)
    """What is being handed on at /v1."""

    def checks(self) -> dict[str, Check | None]:
        """How to ask each service whether it answers; None for what is not configured."""
        registry = self.sources.registry
        return {
            "engine": self._engine,
            "litellm": self.registration.check if self.registration else None,
            "mlflow": registry.check if registry else None,
            "keycloak": self.access.check if self.access and self.access.issuer else None,
        }

    async def _engine(self) -> str:
        self.engine.need()
        return f"{self.engine.name}, talks of {self.engine.context:,} tokens"

    async def load(self) -> Load | None:
        """None where the engine does not say."""
        try:
            page = await self.engine_metrics()
            figures = {name: float(value) for name, value in _FIGURES.findall(page)}
        except ValueError:
            return None
        if len(figures) < 3:
            return None
        running, waiting = figures["num_requests_running"], figures["num_requests_waiting"]
        return Load(int(running), int(waiting), figures["kv_cache_usage_perc"])

    async def engine_metrics(self) -> str:
        """What the engine shows to Prometheus; "" while it shows nothing."""
        try:
            return (await self.engine.need().get("/metrics", timeout=2)).text
        except (httpx.HTTPError, Unavailable):
            return ""

    async def tend(self) -> None:
        """To be called now and then."""
        await self.adapters.tend()
        if self.registration:
            await self.registration.tend()

    async def close(self) -> None:
        await self.runs.close()
        await self.engine.stop()


_FIGURES = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)\{[^}]*\} (\S+)$", re.M
)


def connect(settings: Settings) -> Services:
    """Services for these settings; opens no connection yet, and starts no engine."""

    def cards() -> Sequence[Card]:
        return gpu.cards(settings.gpu_memory_gib)

    sources = Sources(Hub(settings.hf_token.get_secret_value()), _registry(settings))
    engine = Engine(settings, sources, engine_client, cards)
    runs = Runs()
    limits = Limits(settings.requests_per_minute, settings.concurrent_runs, 0)
    adapters = Adapters(engine, sources, settings.wanted_adapters)
    return Services(
        settings,
        engine,
        adapters,
        sources,
        runs,
        limits,
        Measures(runs, limits),
        _registration(settings, _offered(settings, engine, adapters)),
        _access(settings) if settings.signs_on else None,
    )


def engine_client(address: str, key: str) -> httpx.AsyncClient:
    """For the engine, which takes as many requests as come and queues them itself."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    # What it says is handed on as it is, so it must not be compressed on the way.
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    return httpx.AsyncClient(base_url=address, headers=headers, limits=limits, trust_env=False)


def _offered(
    settings: Settings, engine: Engine, adapters: Adapters
) -> Callable[[], dict[str, str]]:
    """What LiteLLM may send questions to: never the tiny model, which stands in for another."""

    def offered() -> dict[str, str]:
        if engine.small or not engine.lives or engine.phase == "failed":
            return {}  # but it stays while the engine is started anew
        there = {"", *adapters.loaded()}
        return {a: of or engine.name for a, of in settings.wanted_aliases.items() if of in there}

    return offered


def _registration(settings: Settings, offered: Callable[[], dict[str, str]]) -> Registration | None:
    if not settings.litellm_url:
        return None
    master_key = settings.litellm_master_key.get_secret_value()
    headers = {"Authorization": f"Bearer {master_key}"}
    http = httpx.AsyncClient(base_url=settings.litellm_url, headers=headers, timeout=10)
    key = key_for(settings.app_name, master_key)
    return Registration(http, settings.app_name, settings.own_address, key, offered)


def _registry(settings: Settings) -> Registry | None:
    if not settings.mlflow_url:
        return None
    auth = None
    if settings.can_mint_token:
        auth = KeycloakToken(
            settings.issuer,
            settings.mlflow_keycloak_client_id,
            settings.mlflow_client_secret.get_secret_value(),
            settings.mlflow_auth_username,
            settings.mlflow_auth_password.get_secret_value(),
        )
    http = httpx.AsyncClient(base_url=settings.mlflow_url, auth=auth, timeout=10)
    return Registry(http, settings.mlflow_models)


def _access(settings: Settings) -> Access:
    client_id = settings.keycloak_client_id or settings.app_name
    accepted = set(settings.accepted_clients.replace(",", " ").split())
    known = keys.parse(settings.api_keys)
    if settings.litellm_url:
        made = key_for(settings.app_name, settings.litellm_master_key.get_secret_value())
        known[LITELLM] = keys.digest(made)
    return Access(settings.issuer, client_id, accepted, known)
