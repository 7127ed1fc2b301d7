"""A Keycloak token for the platform's own services, made from what is injected into each pod.

It is fetched by the password grant when it is first needed, kept, and renewed before it expires or
when it is refused.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx

LIMIT_S = 10
"""For each step of asking Keycloak: all others wait meanwhile."""


class KeycloakToken(httpx.Auth):
    """Puts the token of `username` on each request; `realm` is the realm's address."""

    def __init__(
        self, realm: str, client_id: str, client_secret: str, username: str, password: str
    ) -> None:
        self._realm = realm
        self._form = {
            "grant_type": "password",
            "scope": "openid",
            "client_id": client_id,
            "client_secret": client_secret,
            "username": username,
            "password": password,
        }
        self._token = ""
        self._expires = 0.0
        self._asking = asyncio.Lock()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        async with self._asking:  # who comes meanwhile waits for the same token
            if time.monotonic() >= self._expires:
                await self._keep((yield self._token_request()))
            token = self._token
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            async with self._asking:
                if self._token == token:  # else another request that was refused has renewed it
                    await self._keep((yield self._token_request()))
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _token_request(self) -> httpx.Request:
        address = f"{self._realm}/protocol/openid-connect/token"
        limit = {"timeout": httpx.Timeout(LIMIT_S).as_dict()}  # the client's is not for this one
        return httpx.Request("POST", address, data=self._form, extensions=limit)

    async def _keep(self, response: httpx.Response) -> None:
        await response.aread()
        token: dict[str, Any] = {}
        with suppress(ValueError):  # a web page, where a proxy stands in the way
            token = {} if response.is_error else response.json()
        if "access_token" not in token:
            raise httpx.HTTPError(f"Keycloak answers {response.status_code} and gives no token")
        self._token = token["access_token"]
        self._expires = time.monotonic() + token.get("expires_in", 60) - 30
