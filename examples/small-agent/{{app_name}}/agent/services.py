"""Which servers the app talks to: the only file that opens a connection.

`connect(settings)` builds the real `Services`; tests build their own. Nothing here waits for a
server: what is away is reported by `/ready` and used again when it is back.
"""

import asyncio
import contextlib
from dataclasses import dataclass

import httpx

from agent import keys
from agent.access import Access, User
from agent.errors import Unavailable
from agent.gateway import ChatModel, Gateway
from agent.health import Check
from agent.limits import Limits
from agent.measures import Measures
from agent.runs import Runs
from agent.settings import Settings
from agent.tokens import KeycloakToken
from agent.tracing import Tracing


@dataclass(frozen=True)
class Services:
    """All that the house works with. `model` is None when none is configured."""

    settings: Settings
    model: ChatModel | None
    tracing: Tracing
    runs: Runs
    limits: Limits
    measures: Measures
    access: Access | None = None

    def of(self, user: User) -> "Services":
        """What `user` works with: here the same for everybody."""
        return self

    def checks(self) -> dict[str, Check | None]:
        """How to ask each service whether it answers; None for what is not configured."""
        return {
            "model": self.model.check if self.model else None,
            "langfuse": self.tracing.check if self.tracing.on else None,
            "keycloak": self.access.check if self.access and self.access.issuer else None,
        }

    async def tend(self) -> None:
        """To be called now and then: find the model."""
        if self.model:
            with contextlib.suppress(Unavailable):  # said by /ready and in each answer
                await self.model.name()

    async def close(self) -> None:
        await self.runs.close()
        await asyncio.to_thread(self.tracing.close)


def connect(settings: Settings) -> Services:
    """Services for these settings."""
    model = None
    if settings.gateway_url and settings.chat_model != "none":
        gateway = Gateway(_gateway_client(settings))
        model = ChatModel(gateway, settings.chat_model, settings.answer_tokens)
    secret = settings.langfuse_secret_key.get_secret_value()
    tracing = Tracing(settings.langfuse_public_key, secret, settings.langfuse_url)
    runs, limits = Runs(), Limits(settings.requests_per_minute, settings.concurrent_runs, 0)
    access = _access(settings) if settings.signs_on else None
    return Services(settings, model, tracing, runs, limits, Measures(runs, limits), access)


def _access(settings: Settings) -> Access:
    client_id = settings.keycloak_client_id or settings.app_name
    accepted = set(settings.accepted_clients.replace(",", " ").split())
    return Access(settings.issuer, client_id, accepted, keys.parse(settings.api_keys))


def _gateway_client(settings: Settings) -> httpx.AsyncClient:
    key = settings.litellm_master_key.get_secret_value()
    auth = None if key or settings.litellm_endpoint else _keycloak_token(settings)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    return httpx.AsyncClient(
        base_url=settings.gateway_url + "/", headers=headers, auth=auth, limits=limits
    )


def _keycloak_token(settings: Settings) -> KeycloakToken:
    return KeycloakToken(
        settings.issuer,
        settings.mlflow_keycloak_client_id,
        settings.mlflow_client_secret.get_secret_value(),
        settings.mlflow_auth_username,
        settings.mlflow_auth_password.get_secret_value(),
    )
