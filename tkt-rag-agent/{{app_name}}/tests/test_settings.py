"""What can be configured, where it comes from, and what wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import CLUSTER_LITELLM, CLUSTER_LLM_GATEWAY, Settings, read


def test_the_environment_wins_over_app_env_and_app_env_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "app.env"
    file.write_text("CHAT_MODEL=from-file\nAPP_TITLE='Our Deeds'\n# a comment\nPASSAGES=9\n")
    monkeypatch.setenv("CHAT_MODEL", "from-environment")

    settings = Settings(_env_file=file)

    assert settings.chat_model == "from-environment"
    assert (settings.title, settings.passages) == ("Our Deeds", 9)
    assert settings.embedding_model == "auto"


def test_empty_means_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "app.env"
    file.write_text("EMBEDDING_MODEL=\nMAX_UPLOAD_MB=\nCHAT_MODEL=from-file\n")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("CHAT_MODEL", "")

    settings = Settings(_env_file=file)

    assert (settings.port, settings.max_upload_mb) == (7860, 50)
    assert settings.embedding_model == "auto"
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
    settings = Settings(
        _env_file=None, litellm_master_key="sk-hidden", qdrant_api_key="sk-hidden",
        langfuse_secret_key="sk-hidden", mlflow_client_secret="sk-hidden",
        mlflow_auth_password="sk-hidden",
    )  # fmt: skip

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
        "keycloak_url": "https://auth.example.com",
        "mlflow_auth_username": "admin",
        "mlflow_auth_password": "pw",
    }
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


def test_a_value_that_makes_no_sense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_UPLOAD_MB", "-1")

    with pytest.raises(ValueError, match="max_upload_mb"):
        Settings(_env_file=None)


def test_the_title_is_made_of_the_apps_name_when_none_is_given() -> None:
    assert Settings(_env_file=None, app_name="deeds-and-leases").title == "Deeds And Leases"


def test_a_setting_that_cannot_be_ends_the_process_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PASSAGES", "0")
    with pytest.raises(SystemExit, match=r"PASSAGES='0': .* greater than or equal to 1; correct"):
        read()


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
