"""Keycloak as an app sees it: a realm that signs people on, issues tokens and shows its keys.

    python -m tests.doubles.keycloak --port 8080

Whoever comes to the page to sign on is `user`, at once. Clients are public and use PKCE (S256);
the password grant is for `mlflow`, as on the platform. `fail`: 500 or hang for every path, no_keys
(500 for the signing keys alone) or no_token (400 for tokens alone).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.doubles import serve
from tests.doubles.control import Double, hang

REALM = "/realms/thinkube"
OIDC = f"{REALM}/protocol/openid-connect"


@dataclass
class Code:
    """What a code given at the sign-on page was given for."""

    client: str
    challenge: str
    redirect: str
    nonce: str
    user: str


class Keycloak(Double):
    """The realm. `url` must be set to the address that it is served at, as tokens name it.

    user: who signs on at the page; any name is a user, and its id is `id-NAME`.
    signed: how many tokens were issued; asked: (path, form) of what came.
    """

    failures = ("500", "hang", "no_keys", "no_token")
    settable = ("fail", "user", "url", "lifetime_s")
    counters = ("signed", "asked")

    def __init__(self, url: str = "", user: str = "ann", fail: str | None = None) -> None:
        super().__init__(fail)
        self.url, self.user, self.lifetime_s = url, user, 300
        self.signed = 0
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._codes: dict[str, Code] = {}
        self._keys = [_key()]
        self.app = Starlette(
            debug=True,  # a 500 shows its traceback
            routes=[
                self.control(),
                self._route("GET", f"{REALM}/.well-known/openid-configuration", self._discovery),
                self._route("GET", f"{OIDC}/certs", self._certs),
                self._route("GET", f"{OIDC}/auth", self._sign_on),
                self._route("POST", f"{OIDC}/token", self._token),
                self._route("GET", f"{OIDC}/logout", self._sign_off),
            ],
        )

    @property
    def issuer(self) -> str:
        return f"{self.url}{REALM}"

    def rotate(self) -> None:
        """From now on sign with a new key, and show it alone."""
        self._keys = [_key()]

    def token(self, user: str = "ann", client: str = "live", **claims: Any) -> str:
        """An access token; `claims` replace its own, None takes one out."""
        now = int(time.time())
        own = {
            "iss": self.issuer, "sub": f"id-{user}", "preferred_username": user, "typ": "Bearer",
            "azp": client, "aud": "account", "iat": now, "exp": now + self.lifetime_s,
            "jti": secrets.token_hex(8),
        }  # fmt: skip
        given = {name: value for name, value in (own | claims).items() if value is not None}
        return self.sign(given)

    def sign(self, claims: dict[str, Any], key: Any = None, **header: Any) -> str:
        """`claims` signed by the realm, or by another `key` that says it were the realm's."""
        self.signed += 1
        header = {"alg": "RS256", "typ": "JWT", "kid": self._keys[0].kid} | header
        return jwt.encode(header, claims, key or self._keys[0], algorithms=[header["alg"]])

    def public_key(self) -> bytes:
        """The realm's key as everybody can have it, in PEM."""
        return bytes(self._keys[0].as_pem(private=False))

    def _route(
        self, method: str, path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            form = {str(k): str(v) for k, v in (await request.form()).items()}
            self.asked.append((request.url.path, form or dict(request.query_params)))
            if self.fail == "hang":
                return await hang(request)
            broken = self.fail == "500" or (self.fail == "no_keys" and path.endswith("/certs"))
            return _error(500, "unknown_error") if broken else await handler(request)

        return Route(path, endpoint, methods=[method])

    async def _discovery(self, _: Request) -> Response:
        names = {"authorization": "auth", "token": "token", "end_session": "logout"}
        at = {f"{name}_endpoint": f"{self.url}{OIDC}/{path}" for name, path in names.items()}
        keys = {"issuer": self.issuer, "jwks_uri": f"{self.url}{OIDC}/certs"}
        signing = {"id_token_signing_alg_values_supported": ["RS256"]}
        return JSONResponse(at | keys | signing | {"code_challenge_methods_supported": ["S256"]})

    async def _certs(self, _: Request) -> Response:
        keys = KeySet(self._keys).as_dict(private=False)
        for key in keys["keys"]:
            key |= {"alg": "RS256", "use": "sig"}
        return JSONResponse(keys)

    async def _sign_on(self, request: Request) -> Response:
        asked = request.query_params
        if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
            return _error(400, "invalid_request", "Missing parameter: code_challenge_method")
        code, redirect = secrets.token_urlsafe(16), asked["redirect_uri"]
        self._codes[code] = Code(
            asked["client_id"], asked["code_challenge"], redirect, asked.get("nonce", ""), self.user
        )
        answer = urlencode({"state": asked["state"], "iss": self.issuer, "code": code})
        return RedirectResponse(f"{redirect}?{answer}", 302)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        if self.fail == "no_token":
            return _error(400, "invalid_grant", "Invalid user credentials")
        if form.get("grant_type") == "password" and form.get("client_id") == "mlflow":
            return self._issued(str(form["username"]), "mlflow", "")
        code = self._codes.pop(str(form.get("code")), None)  # a code works once
        if form.get("grant_type") != "authorization_code" or code is None:
            return _error(400, "invalid_grant", "Code not valid")
        digest = hashlib.sha256(str(form.get("code_verifier", "")).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same = (form.get("client_id"), form.get("redirect_uri")) == (code.client, code.redirect)
        if challenge != code.challenge or not same:
            return _error(400, "invalid_grant", "PKCE verification failed")
        return self._issued(code.user, code.client, code.nonce)

    def _issued(self, user: str, client: str, nonce: str) -> Response:
        tokens = {
            "access_token": self.token(user, client),
            "id_token": self.token(user, client, typ="ID", aud=client, nonce=nonce or None),
        }
        return JSONResponse(tokens | {"expires_in": self.lifetime_s, "token_type": "Bearer"})

    async def _sign_off(self, request: Request) -> Response:
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 302)


def _key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": secrets.token_hex(8)})


def _error(status: int, kind: str, description: str = "") -> Response:
    return JSONResponse({"error": kind, "error_description": description}, status)


if __name__ == "__main__":
    by_hand_port = serve.arguments(__doc__, 8080).parse_args().port
    serve.by_hand(Keycloak(f"http://127.0.0.1:{by_hand_port}").app, by_hand_port)
