"""What can be configured, where it comes from, and what wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.records import Budget
from agent.settings import CLUSTER_LITELLM, CLUSTER_LLM_GATEWAY, Settings, read

KEYCLOAK = "https://auth.example.com"


def test_the_environment_wins_over_app_env_and_app_env_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "app.env"
    file.write_text("CHAT_MODEL=from-file\nAPP_TITLE='Our Crew'\n# a comment\nRUN_STEPS=9\n")
    monkeypatch.setenv("CHAT_MODEL", "from-environment")

    settings = Settings(_env_file=file)

    assert settings.chat_model == "from-environment"
    assert (settings.title, settings.run_steps) == ("Our Crew", 9)
    assert settings.run_tokens == 500_000


def test_empty_means_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "app.env"
    file.write_text("RUN_SECONDS=\nMAX_UPLOAD_MB=\nCHAT_MODEL=from-file\n")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("CHAT_MODEL", "")

    settings = Settings(_env_file=file)

    assert (settings.port, settings.max_upload_mb, settings.run_seconds) == (7860, 20, 1800)
    assert settings.chat_model == "from-file"


def test_what_the_platform_injects_besides_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_BECOME_PASS", "x")
    file = tmp_path / "app.env"
    file.write_text("NO_SETTING_OF_OURS=1\n")

    assert "no_setting_of_ours" not in Settings(_env_file=file).model_dump()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    description = Settings.model_fields[name].description

    assert description
    assert description.strip().endswith(".")


def test_secrets_stay_out_of_what_is_printed() -> None:
    secrets = {
        name: "sk-hidden"
        for name, field in Settings.model_fields.items()
        if any(word in name for word in ("_key", "token", "secret", "password"))
        and "Secret" in str(field.annotation)
    }
    settings = Settings(_env_file=None, **secrets)  # type: ignore[arg-type]

    assert len(secrets) >= 9
    assert "sk-hidden" not in f"{settings} {settings!r} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://litellm:4000", "http://litellm:4000/v1"),
        ("http://litellm:4000/", "http://litellm:4000/v1"),
        ("http://litellm:4000/v1", "http://litellm:4000/v1"),
        ("https://host/gateway/v1/", "https://host/gateway/v1"),
        ("", ""),
    ],
)
def test_the_gateway_may_be_given_with_or_without_v1(given: str, used: str) -> None:
    assert Settings(_env_file=None, litellm_endpoint=given).gateway_url == used


def test_the_gateway_is_the_configured_one_else_litellm_else_the_platforms_own() -> None:
    minting = {
        "keycloak_url": KEYCLOAK, "mlflow_auth_username": "admin", "mlflow_auth_password": "pw",
    }  # fmt: skip
    configured = {"litellm_endpoint": "http://mine/v1", "litellm_master_key": "sk-1"}
    pod = {"kubernetes_service_host": "10.0.0.1"}

    def gateway(**values: str) -> str:
        return Settings(_env_file=None, **values).gateway_url  # type: ignore[arg-type]

    assert gateway(**minting, **configured) == "http://mine/v1"
    assert gateway(**minting, litellm_master_key="sk-1") == CLUSTER_LITELLM
    assert gateway(**pod, litellm_master_key="sk-1") == CLUSTER_LITELLM
    assert gateway(**minting) == CLUSTER_LLM_GATEWAY
    assert gateway(**pod) == ""
    assert gateway(litellm_master_key="sk-1") == ""
    assert gateway() == ""


def test_the_budget_is_the_most_that_one_run_may_use() -> None:
    settings = Settings(
        _env_file=None, run_steps=5, run_tokens=1000, run_dollars=0.5, run_seconds=60
    )

    assert settings.budget == Budget(5, 1000, 0.5, 60)


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ({}, True),
        ({"keycloak_url": KEYCLOAK}, False),
        ({"keycloak_url": KEYCLOAK, "auth": "off"}, True),
        ({"keycloak_url": KEYCLOAK, "nats_door": "on"}, True),
        ({"nats_door": "off"}, False),
    ],
    ids=str,
)
def test_runs_are_taken_from_nats_where_everybody_is_let_in(values: Any, taken: bool) -> None:
    assert Settings(_env_file=None, **values).takes_from_nats is taken


def test_hosts_are_parted_by_commas_or_spaces() -> None:
    settings = Settings(_env_file=None, read_hosts=" Example.org, *.example.com  b.org,")

    assert settings.hosts == {"example.org", "*.example.com", "b.org"}
    assert Settings(_env_file=None).hosts == frozenset()


def test_signing_on_without_anybody_who_could_is_refused() -> None:
    with pytest.raises(ValueError, match="AUTH=on needs KEYCLOAK_URL, API_KEYS or both"):
        Settings(_env_file=None, auth="on")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUN_STEPS", "0"), ("RUN_TOKENS", "-1"), ("RUN_DOLLARS", "0"), ("RUN_SECONDS", "0"),
        ("RUNS_AT_ONCE", "0"), ("RUNS_AT_ONCE", "1000"), ("KEEP_DAYS", "0"), ("ACK_WAIT_S", "0"),
        ("NATS_DOOR", "maybe"), ("PRICE_INPUT", "-1"), ("RUN_DOLLARS", "nan"),
        ("RUN_SECONDS", "nan"), ("ACK_WAIT_S", "nan"), ("PRICE_OUTPUT", "nan"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_ends_the_process_with_a_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match=f"{name}='{value}': .*; correct it in app.env"):
        read()


def test_the_title_is_made_of_the_apps_name_when_none_is_given() -> None:
    assert Settings(_env_file=None, app_name="town-crew").title == "Town Crew"


def test_a_key_that_stands_among_api_keys_by_mistake_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_KEYS", "tka_a-key-by-mistake")

    with pytest.raises(SystemExit) as end:
        read()

    assert str(end.value) == (
        "API_KEYS: entry 1 is no name:hash; python -m agent.keys makes one; "
        "correct it in app.env or outside."
    )
