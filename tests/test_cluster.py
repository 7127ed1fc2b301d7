"""In the cluster, with nothing but what the platform injects, the app finds its services itself.

The cluster's names lead to doubles on this machine (`names`), and Keycloak speaks TLS.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from parts.programs import free_port
from tests.doubles.gateway import Gateway
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, App, ask, load, started, status, wait_until

AUTH = "auth.example.com"
LLM_GATEWAY = "llm-proxy.thinkube-control.svc.cluster.local:8080"
LITELLM = "litellm.litellm.svc.cluster.local:80"
QDRANT = "qdrant.qdrant.svc.cluster.local:6333"
INJECTED = {
    "KEYCLOAK_URL": f"https://{AUTH}",
    "KEYCLOAK_REALM": "thinkube",
    "KUBERNETES_SERVICE_HOST": "10.152.183.1",
    "MLFLOW_KEYCLOAK_CLIENT_ID": "mlflow",
    "MLFLOW_CLIENT_SECRET": "client-secret",
    "MLFLOW_AUTH_USERNAME": "admin",
    "MLFLOW_AUTH_PASSWORD": "admin-password",
    "API_KEYS": API_KEYS,
}
LEASE = {"lease.txt": "The rent is 900 pounds a month."}
QUESTION = "What is the rent a month?"


@dataclass
class Keycloak:
    """Gives out numbered tokens, of which `gateway` takes the newest. `asked` holds the path and
    the form of each request for one."""

    gateway: Gateway
    lifetime_s: int = 300
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def token(self, path: str, form: str) -> dict[str, Any]:
        self.asked.append((path, parse_qs(form)))
        self.gateway.key = f"token-{len(self.asked)}"
        return {"access_token": self.gateway.key, "expires_in": self.lifetime_s}


@contextmanager
def serving(keycloak: Keycloak, certificate: trustme.LeafCert) -> Iterator[int]:
    """The port at which `keycloak` is served over TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            body = json.dumps(keycloak.token(self.path, form)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """Whoever signs Keycloak's certificate, and a file that makes an app trust it."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


@contextmanager
def in_cluster(
    authority: tuple[trustme.CA, Path], **env: Any
) -> Iterator[tuple[App, Keycloak, Gateway]]:
    """An app in a cluster with Keycloak and the LLM gateway, and no Qdrant."""
    gateway = Gateway()
    keycloak = Keycloak(gateway)
    with (
        running(gateway.app) as url,
        serving(keycloak, authority[0].issue_cert(AUTH)) as port,
        started(
            names={f"{AUTH}:443": port, LLM_GATEWAY: urlsplit(url).port or 0},
            key=APP_KEY,
            **INJECTED | env,
        ) as app,
    ):
        load(app, LEASE)
        yield app, keycloak, gateway


def test_the_llm_gateway_is_used_with_a_token_that_is_kept_and_renewed(
    authority: tuple[trustme.CA, Path],
) -> None:
    with in_cluster(authority, SSL_CERT_FILE=authority[1]) as (app, keycloak, gateway):
        for _ in range(3):
            assert ask(app, QUESTION)["mode"] == "model"
        ((path, form),) = keycloak.asked
        assert path == "/realms/thinkube/protocol/openid-connect/token"
        assert form == {
            "grant_type": ["password"],
            "scope": ["openid"],
            "client_id": ["mlflow"],
            "client_secret": ["client-secret"],
            "username": ["admin"],
            "password": ["admin-password"],
        }
        gateway.key = "another, so the token is refused"
        keycloak.lifetime_s = 0
        assert ask(app, QUESTION)["mode"] == "model"
        renewed = len(keycloak.asked)
        assert renewed > 1
        assert ask(app, QUESTION)["mode"] == "model"
        assert len(keycloak.asked) > renewed  # as the last one had expired
        assert "embedded, in" in status(app, "/ready")["services"]["qdrant"]["detail"]


def test_a_keycloak_that_nobody_vouches_for_gets_no_password(
    authority: tuple[trustme.CA, Path],
) -> None:
    with in_cluster(authority) as (app, keycloak, _):
        answer = ask(app, QUESTION)
        assert answer["mode"] == "extractive"
        assert "CERTIFICATE_VERIFY_FAILED" in answer["answer"]
        assert keycloak.asked == []


def test_a_litellm_key_makes_it_use_litellm_and_ask_for_no_token() -> None:
    litellm, keycloak = Gateway(key="sk-lite"), Keycloak(Gateway())
    with (
        running(litellm.app) as url,
        started(
            names={LITELLM: urlsplit(url).port or 0},
            key=APP_KEY,
            LITELLM_MASTER_KEY="sk-lite",
            **INJECTED,
        ) as app,
    ):
        load(app, LEASE)
        assert ask(app, QUESTION)["mode"] == "model"
        assert keycloak.asked == []
        # Qdrant's name is looked up, no more; Keycloak is asked for the keys of its users.
        assert set(app.refused) <= {f"{QDRANT.partition(':')[0]}:", f"{AUTH}:"}


def test_a_qdrant_that_is_installed_but_down_is_named_and_used_again_when_it_is_up() -> None:
    port = free_port()
    with started(names={QDRANT: port}, KUBERNETES_SERVICE_HOST="10.152.183.1") as app:
        ready = status(app, "/ready")
        assert ready["ready"] is False
        assert QDRANT in ready["services"]["qdrant"]["detail"]
        refused = app.http.post("/api/chat", json={"question": QUESTION})
        assert refused.status_code == 502
        assert refused.headers["content-type"] == "application/problem+json"
        sentence = refused.json()["detail"]
        assert QDRANT in sentence
        assert sentence.endswith("check QDRANT_URL and that it runs.")
        with running(Qdrant().app, port):
            wait_until(lambda: status(app, "/ready")["ready"], 10)
            load(app, LEASE)
            assert "900 pounds" in ask(app, QUESTION)["answer"]
