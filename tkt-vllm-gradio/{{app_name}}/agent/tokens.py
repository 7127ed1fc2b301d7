"""A Keycloak token for the platform's own services, made from what is injected into each pod.

It is fetched by the password grant when it is first needed, kept, and renewed before it expires or
when it is refused.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx


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
        address = f"{self._realm}/protocol/openid-connect/token"
        return httpx.Request("POST", address, data=self._form)

    async def _keep(self, response: httpx.Response) -> None:
        await response.aread()
        token: dict[str, Any] = {}
        with suppress(ValueError):  # a web page, where a proxy stands in the way
            token = {} if response.is_error else response.json()
        if "access_token" not in token:
            raise httpx.HTTPError(f"Keycloak answers {response.status_code} and gives no token")
        self._token = token["access_token"]
        self._expires = time.monotonic() + token.get("expires_in", 60) - 30
