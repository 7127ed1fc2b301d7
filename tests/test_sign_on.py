"""Only the right people get in: a rendered app before a realm that signs real tokens."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from parts.programs import free_port
from tests import live
from tests.doubles.keycloak import OIDC, Keycloak
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, App, load, started, wait_until


@dataclass
class Closed:
    app: App
    keycloak: Keycloak

    def get(self, path: str, token: str = "", **headers: str) -> httpx.Response:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{self.app.url}{path}", headers=given | headers, timeout=30)

    def browser(self, **headers: str) -> httpx.Client:
        """A browser that has not signed on; it follows redirects."""
        html = {"Accept": "text/html"} | headers
        return httpx.Client(base_url=self.app.url, headers=html, follow_redirects=True, timeout=30)


@contextmanager
def closed(**env: Any) -> Iterator[Closed]:
    keycloak = Keycloak()
    with running(keycloak.app) as url:
        keycloak.url = url
        with started(key=APP_KEY, KEYCLOAK_URL=url, API_KEYS=API_KEYS, **env) as app:
            yield Closed(app, keycloak)


@pytest.fixture(scope="module")
def world() -> Iterator[Closed]:
    with closed() as world:
        yield world


def test_without_keycloak_everybody_is_let_in() -> None:
    with started() as app:
        assert app.http.get("/api/documents").status_code == 200
        assert app.http.get("/metrics").status_code == 200
        assert app.http.get("/auth/logout").headers["location"] == "/"


def test_a_stranger_sees_health_and_nothing_else(world: Closed) -> None:
    assert world.get("/health").status_code == 200
    closed = ["/", "/ready", "/metrics", "/docs", "/openapi.json", "/api/documents", "/v1/models"]
    closed += ["/mcp", "/config", "/gradio_api/info", "/api/runs/x", "/redoc", "/nothing"]
    for path in closed:
        answer = world.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/api/chat", "/v1/chat/completions", "/mcp", "/gradio_api/upload"):
        assert httpx.post(f"{world.app.url}{path}", json={}).status_code == 401, path


def test_a_token_of_this_app_lets_in(world: Closed) -> None:
    assert world.get("/api/documents", world.keycloak.token()).status_code == 200
    assert world.get("/v1/models", world.keycloak.token(azp=None, aud=["live"])).json()["data"]


def test_a_key_lets_in_and_a_revoked_or_unknown_one_does_not(world: Closed) -> None:
    assert world.get("/metrics", APP_KEY).text.startswith("# HELP")
    unknown = world.get("/metrics", APP_KEY + "x")
    assert unknown.status_code == 401
    assert unknown.json()["detail"] == "This key is not known here, or was revoked."


def unsigned(claims: dict[str, Any]) -> str:
    return _encoded({"alg": "none", "typ": "JWT"}, claims) + "."


def signed_as_secret(claims: dict[str, Any], key: bytes) -> str:
    """A token whose shared secret is what everybody knows."""
    text = _encoded({"alg": "HS256", "typ": "JWT"}, claims)
    return f"{text}.{_base64(hmac.digest(key, text.encode(), 'sha256'))}"


def _encoded(*parts: dict[str, Any]) -> str:
    return ".".join(_base64(json.dumps(part).encode()) for part in parts)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_no_forged_or_foreign_token_lets_in(world: Closed) -> None:
    keycloak, now = world.keycloak, int(time.time())
    claims = {"iss": keycloak.issuer, "sub": "id-ann", "azp": "live", "exp": now + 300}
    bad = {
        "expired": keycloak.token(exp=now - 60),
        "without an end": keycloak.token(exp=None),
        "not yet valid": keycloak.token(nbf=now + 3600),
        "of another realm": keycloak.token(iss=f"{keycloak.url}/realms/other"),
        "of nobody": keycloak.token(sub=None),
        "signed by another key": keycloak.sign(claims, RSAKey.generate_key(2048)),
        "alg none": unsigned(claims),
        "signed with the public key as a secret": signed_as_secret(claims, keycloak.public_key()),
        "an ID token": keycloak.token(typ="ID", aud="live"),
        "a refresh token": keycloak.token(typ="Refresh"),
        "of another client": keycloak.token(client="mlflow"),
        "cut": keycloak.token()[:-9],
        "changed": keycloak.token().replace(".", ".e", 1),
        "no token": "nonsense",
        "three dots": "...",
    }
    for why, token in bad.items():
        answer = world.get("/api/documents", token)
        assert answer.status_code == 401, f"{why}: {answer.text}"
        assert answer.json()["detail"].endswith("."), why
    header = {"Authorization": "Basic YTpi"}
    assert httpx.get(f"{world.app.url}/api/documents", headers=header).status_code == 401


def test_a_token_of_a_client_that_is_named_lets_in() -> None:
    with closed(ACCEPTED_CLIENTS="mlflow, crew") as world:
        assert world.get("/api/documents", world.keycloak.token(client="mlflow")).status_code == 200
        assert world.get("/api/documents", world.keycloak.token(client="other")).status_code == 401


def test_keys_of_the_realm_that_change_are_fetched_anew() -> None:
    with closed() as world:
        before = world.keycloak.token()
        assert world.get("/api/documents", before).status_code == 200
        world.keycloak.rotate()
        after = world.keycloak.token()
        wait_until(lambda: world.get("/api/documents", after).status_code == 200, 10)
        assert world.get("/api/documents", before).status_code == 401
        fetched = [path for path, _ in world.keycloak.asked if path == f"{OIDC}/certs"]
        unknown = world.keycloak.sign({}, RSAKey.generate_key(2048), kid="x")
        for _ in range(20):  # tokens that name no key of the realm must not flood it
            world.get("/api/documents", unknown)
        again = [path for path, _ in world.keycloak.asked if path == f"{OIDC}/certs"]
        assert len(again) - len(fetched) <= 2


def test_a_browser_signs_on_with_pkce_comes_back_to_its_page_and_signs_off(world: Closed) -> None:
    wait_for_page_behind(world)
    with world.browser() as browser:
        page = browser.get("/?tab=documents")
        assert page.status_code == 200
        assert "gradio" in page.text
        assert str(page.url) == f"{world.app.url}/?tab=documents"
        hops = [urlsplit(str(hop.url)).path for hop in page.history]
        assert hops == ["/", "/auth/login", f"{OIDC}/auth", "/auth/callback"]
        asked = parse_qs(urlsplit(str(page.history[2].url)).query)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["client_id"] == ["live"]
        cookie = page.history[-1].headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert browser.get("/api/documents").json() == []
        browser.get("/auth/logout", follow_redirects=False)
        assert browser.get("/api/documents").status_code == 401


def wait_for_page_behind(world: Closed) -> None:
    def there() -> bool:
        return "gradio" in world.get("/", APP_KEY, Accept="text/html").text

    wait_until(there)


def test_the_cookie_holds_no_token_and_cannot_be_made_up(world: Closed) -> None:
    with world.browser() as browser:
        browser.get("/docs")
        name, value = next(iter(browser.cookies.items()))
        held = base64.b64decode(value.split(".")[0] + "==")
        assert set(json.loads(held)) == {"user"}
        assert b"eyJ" not in held
        forged = json.loads(held) | {"user": {"id": "id-bob", "name": "bob", "until": 9e9}}
        begin = base64.b64encode(json.dumps(forged).encode()).decode()
        cookie = ".".join([begin, *value.split(".")[1:]])
        answer = httpx.get(f"{world.app.url}/api/documents", cookies={name: cookie})
        assert answer.status_code == 401


def test_a_state_that_was_used_or_made_up_signs_nobody_on(world: Closed) -> None:
    with world.browser() as browser:
        back = browser.get("/docs").history[-1].url
    tokens = [form for path, form in world.keycloak.asked if path == f"{OIDC}/token"]
    for address in (back, f"{world.app.url}/auth/callback?code=x&state=y", "/auth/callback"):
        with world.browser() as stranger:
            answer = stranger.get(str(address))
            assert answer.status_code == 400
            assert "Signing on did not work" in answer.text
            assert stranger.get("/api/documents").status_code == 401
    assert tokens == [form for path, form in world.keycloak.asked if path == f"{OIDC}/token"]


def test_a_state_of_one_browser_does_not_sign_on_another(world: Closed) -> None:
    with world.browser() as attacker, world.browser() as victim:
        attacker.follow_redirects = False
        to_realm = attacker.get("/auth/login").headers["location"]
        back = attacker.get(to_realm).headers["location"]
        assert victim.get(back).status_code == 400
        assert victim.get("/api/documents").status_code == 401


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)",
     "/%0d%0aLocation: https://evil.example", "\\\\evil.example", "/\t/evil.example"],
)  # fmt: skip
def test_signing_on_leads_back_to_this_app_alone(world: Closed, target: str) -> None:
    with world.browser() as browser:
        page = browser.get("/auth/login", params={"next": target}, follow_redirects=False)
        while page.is_redirect:
            address = str(page.next_request.url if page.next_request else "")
            assert address.startswith((world.app.url, world.keycloak.url))
            page = browser.get(address, follow_redirects=False)
        assert page.status_code in (200, 404)


def test_another_sites_page_cannot_use_the_cookie(world: Closed) -> None:
    with world.browser() as browser:
        browser.get("/docs")
        search = {"query": "rent"}
        ours = {"Origin": world.app.url}
        assert browser.post("/api/search", json=search, headers=ours).status_code == 200
        theirs = {"Origin": "https://evil.example"}
        assert browser.post("/api/search", json=search, headers=theirs).status_code == 401


def test_behind_the_edge_everything_stays_https() -> None:
    with closed(APP_URL="https://app.example.com") as world:
        edge = {"Host": "app.example.com", "X-Forwarded-Proto": "https"}
        with world.browser(**edge) as browser:
            browser.follow_redirects = False
            to_realm = browser.get("/auth/login").headers
            asked = parse_qs(urlsplit(to_realm["location"]).query)
            assert asked["redirect_uri"] == ["https://app.example.com/auth/callback"]
            assert "secure" in to_realm["set-cookie"].lower()


def test_with_keycloak_away_keys_still_work_and_tokens_are_told_why() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with started(key=APP_KEY, KEYCLOAK_URL=address, API_KEYS=API_KEYS) as app:
        world = Closed(app, Keycloak(address))
        assert world.get("/api/documents", APP_KEY).status_code == 200
        refused = world.get("/api/documents", world.keycloak.token())
        assert refused.status_code == 502
        assert "check KEYCLOAK_URL" in refused.json()["detail"]
        with world.browser() as browser:
            page = browser.get("/")
            assert page.status_code == 502
            assert "does not answer" in page.text


def test_with_the_realms_keys_away_known_ones_still_work() -> None:
    with closed() as world:
        assert world.get("/api/documents", world.keycloak.token()).status_code == 200
        world.keycloak.fail = "500"
        assert world.get("/api/documents", world.keycloak.token()).status_code == 200
        ready = world.get("/ready", APP_KEY).json()
        assert ready["services"]["keycloak"]["ok"] is False


def test_a_sign_on_without_keycloak_takes_keys_alone() -> None:
    with started(key=APP_KEY, AUTH="on", API_KEYS=API_KEYS) as app:
        world = Closed(app, Keycloak())
        assert world.get("/api/documents", APP_KEY).status_code == 200
        assert world.get("/api/documents").status_code == 401
        assert world.get("/api/documents", "eyJ.x.y").status_code == 401
        with world.browser() as browser:
            assert "no KEYCLOAK_URL is set" in browser.get("/").text


def test_the_command_line_asks_a_closed_app_with_its_key(tmp_path: Path) -> None:
    with started(tmp_path, key=APP_KEY, AUTH="on", API_KEYS=API_KEYS) as app:
        load(app, {"lease.txt": "The rent is 900 pounds a month."})
        env = {"PORT": app.url.rpartition(":")[2], "DATA_DIR": str(tmp_path), "AUTH": "off"}
        refused = asked(tmp_path, env)
        assert (refused.returncode, "set ASK_KEY" in refused.stderr) == (1, True)
        answer = asked(tmp_path, env | {"ASK_KEY": APP_KEY})
        assert (answer.returncode, "900 pounds" in answer.stdout) == (0, True)


def asked(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m agent.ask`, in an environment of its own."""
    given = {name: str(value) for name, value in live._base(folder, None).items()} | env
    command = [live.bin_folder() / "python", "-m", "agent.ask", "How much is the rent?"]
    return subprocess.run(
        command, cwd=live.rendered(), env=given, capture_output=True, text=True, timeout=60
    )
