"""Who somebody is: a user of Keycloak's realm, or the holder of one of the app's own keys.

A token is taken when the realm signed it, it has not expired, and it was made for this app or for
a client that the settings name. The realm's signing keys are fetched when first needed, again when
a token names another one, and now and then, so that a key that was withdrawn stops working.
This file knows nothing of requests; `sign_on.py` does.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from agent.errors import Unavailable
from agent.keys import PREFIX, name_of

ALGORITHMS = ["RS256", "PS256", "ES256"]
"""How a realm may sign. No shared secret and no `none`: those anybody could make."""
LEEWAY_S = 30
"""How far the clocks of two machines may be apart."""
KEYS_KEPT_S = 600
"""After this the realm's keys are fetched anew."""
KEYS_REST_S = 5
"""Not more often than this, whatever key a token names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class User:
    """`id` never changes, `name` is for people; both are "" where nobody signs on."""

    id: str = ""
    name: str = ""


class Stranger(Exception):
    """Not let in: the reason, in a sentence that says nothing of the keys."""


class Access:
    """The realm at `issuer` (its public address) and the app's own keys."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        accepted: set[str],
        api_keys: dict[str, str],
    ) -> None:
        """`accepted`: further clients whose tokens are taken, `*` for all."""
        from authlib.integrations.starlette_client import OAuth

        self.issuer = issuer
        self.client_id = client_id
        self._accepted = accepted | {client_id}
        self._api_keys = api_keys
        self._fetched_at = self._asked_at = float("-inf")
        self._known: Any = None
        self._asking = asyncio.Lock()
        self.realm: Any = OAuth().register(
            "keycloak",
            client_id=client_id,
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            code_challenge_method="S256",
            client_kwargs={"scope": "openid", "timeout": 5},
        )

    async def user(self, credential: str) -> User:
        """Whose key or token this is; raises `Stranger`, or `Unavailable` where the realm's keys
        are out of reach."""
        if credential.startswith(PREFIX):
            name = name_of(self._api_keys, credential)
            if name is None:
                raise Stranger("This key is not known here, or was revoked.")
            return User(f"key:{name}", name)
        if not self.issuer:
            raise Stranger("This app takes keys alone: no KEYCLOAK_URL is set.")
        return self.user_of(await self._claims(credential))

    def user_of(self, claims: dict[str, Any]) -> User:
        return User(claims["sub"], claims.get("preferred_username") or claims["sub"])

    async def _claims(self, token: str) -> dict[str, Any]:
        """What a token says, once all of it is checked."""
        from joserfc import jws, jwt
        from joserfc.errors import JoseError

        try:
            kid = jws.extract_compact(token.encode()).headers().get("kid")
            decoded = jwt.decode(token, await self._keys(kid), algorithms=ALGORITHMS)
            jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(decoded.claims)
        except (JoseError, ValueError, TypeError) as error:
            raise Stranger(_reason(error)) from error
        self._check_purpose(decoded.claims)
        return dict(decoded.claims)

    def _check_purpose(self, claims: dict[str, Any]) -> None:
        """An access token, made for this app or for a client that may speak to it."""
        if claims.get("typ", "Bearer") != "Bearer" or not isinstance(claims["sub"], str):
            raise Stranger("This is no access token; send that one.")
        audience = claims.get("aud") or []
        clients = {audience} if isinstance(audience, str) else set(audience)
        if "*" not in self._accepted and not self._accepted & (clients | {claims.get("azp")}):
            raise Stranger(
                "This token was made for another client of the realm; ACCEPTED_CLIENTS names "
                "those that are let in."
            )

    async def _keys(self, kid: Any) -> Any:
        """The realm's keys, fetched anew when they are old or lack the key `kid`."""
        # Old ones do while somebody fetches: a realm that hangs holds up one request, not all.
        if not self._fresh(kid) and not (self._has(kid) and self._asking.locked()):
            async with self._asking:  # who comes meanwhile waits for the same answer
                rested = time.monotonic() >= self._asked_at + KEYS_REST_S
                if not self._fresh(kid) and rested:
                    await self._fetch()
        if self._known is None:
            raise self._away(None)
        return self._known

    def _has(self, kid: Any) -> bool:
        return self._known is not None and kid in {key.kid for key in self._known.keys}

    def _fresh(self, kid: Any) -> bool:
        return self._has(kid) and time.monotonic() < self._fetched_at + KEYS_KEPT_S

    async def _fetch(self) -> None:
        from joserfc.jwk import KeySet

        try:
            self._known = KeySet.import_key_set(await self.realm.fetch_jwk_set(force=True))
            self._fetched_at = time.monotonic()
        except Exception as error:
            log.warning("%s", self._away(error))
        self._asked_at = time.monotonic()  # now, or each who waited would ask a realm that hangs

    async def check(self) -> str:
        """Asks the realm for its keys; `Unavailable` says what to check."""
        try:
            found = await self.realm.fetch_jwk_set(force=True)
        except Exception as error:
            raise self._away(error) from error
        return f"{len(found['keys'])} keys of {self.issuer}"

    def _away(self, error: Exception | None) -> Unavailable:
        first = str(error).partition("\n")[0] or type(error).__name__
        said = f" ({first})" if error else ""
        return Unavailable(
            f"Keycloak at {self.issuer} does not give its keys{said}, so nobody can be let in by a "
            "token; check KEYCLOAK_URL and KEYCLOAK_REALM, or use a key of API_KEYS.",
            "keycloak",
        )


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "ExpiredTokenError":
        return "This token has expired; ask for a new one."
    if kind == "InvalidClaimError":
        return f"This token's claim {getattr(error, 'claim', '')!r} is not the expected one."
    return "This token is not one that the realm has signed."
