"""What can be configured, where it comes from, and what wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import CLUSTER_LITELLM, CLUSTER_MLFLOW, Settings, read


def test_the_environment_wins_over_app_env_and_app_env_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "app.env"
    file.write_text("MODEL_ID=from/file\nAPP_TITLE='Our Model'\n# a comment\nANSWER_TOKENS=9\n")
    monkeypatch.setenv("MODEL_ID", "from/environment")

    settings = Settings(_env_file=file)

    assert settings.model_id == "from/environment"
    assert (settings.title, settings.answer_tokens) == ("Our Model", 9)
    assert settings.engine == "auto"


def test_empty_means_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "app.env"
    file.write_text("ENGINE=\nMAX_UPLOAD_MB=\nMODEL_ID=from/file\n")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("MODEL_ID", "")

    settings = Settings(_env_file=file)

    assert (settings.port, settings.max_upload_mb, settings.engine) == (7860, 20, "auto")
    assert settings.model_id == "from/file"


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
        _env_file=None, litellm_master_key="sk-hidden", hf_token="sk-hidden",
        session_secret="sk-hidden", ask_key="sk-hidden", mlflow_client_secret="sk-hidden",
        mlflow_auth_password="sk-hidden",
    )  # fmt: skip

    assert "sk-hidden" not in f"{settings} {settings!r} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MAX_UPLOAD_MB", "-1",
         "MAX_UPLOAD_MB='-1': Input should be greater than or equal to 1"),
        ("GPU_MEMORY_UTILIZATION", "90",
         "GPU_MEMORY_UTILIZATION='90': Input should be less than or equal to 1"),
        ("ENGINE", "llama", "ENGINE='llama': Input should be 'auto', 'vllm' or 'small'"),
        ("PORT", "http", "PORT='http': Input should be a valid integer, unable to parse string "
         "as an integer"),
        ("MODEL_ID", "two words",
         "MODEL_ID='two words': this is no owner/name, folder or models:/name"),
        ("ADAPTERS", "legal=a/b, =c/d", "ADAPTERS='legal=a/b, =c/d': '=c/d' is no name=source"),
        ("ALIASES", "a$b", "ALIASES='a$b': 'a$b' is no name=source"),
        ("ENGINE_ARGS", "--chat-template 'a", "ENGINE_ARGS=\"--chat-template 'a\": No closing "
         "quotation"),
        ("ENGINE_COMMAND", "  ", "ENGINE_COMMAND='  ': this names no program"),
        ("API_KEYS", "tka_a-key-by-mistake", "API_KEYS: entry 1 is no name:hash; python -m "
         "agent.keys makes one"),
        ("AUTH", "on", "AUTH=on needs KEYCLOAK_URL, API_KEYS or both"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_ends_the_process_with_one_sentence(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as end:
        read()

    assert str(end.value) == f"{sentence}; correct it in app.env or outside."


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-7B-Instruct", "/models/a_b.c", "./here", "~/models/one", "models:/name",
        "models:/name/3", "models:/name@champion",
    ],
)  # fmt: skip
def test_a_model_is_named_as_its_place_names_it(name: str) -> None:
    assert Settings(_env_file=None, model_id=name).model_id == name


def test_adapters_and_aliases_are_entries_with_commas_or_spaces_between() -> None:
    settings = Settings(
        _env_file=None,
        adapters="legal=models:/legal-lora@champion, med=owner/med",
        aliases="qa legal-qa=legal",
    )

    assert settings.wanted_adapters == {"legal": "models:/legal-lora@champion", "med": "owner/med"}
    assert settings.wanted_aliases == {"qa": "", "legal-qa": "legal"}


def test_without_aliases_the_model_is_offered_under_the_apps_name() -> None:
    assert Settings(_env_file=None, app_name="my-model").wanted_aliases == {"my-model": ""}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://litellm:4000", "http://litellm:4000"),
        ("http://litellm:4000/v1/", "http://litellm:4000"),
        ("https://host/gateway/v1", "https://host/gateway"),
    ],
)
def test_litellm_may_be_given_with_or_without_v1(given: str, used: str) -> None:
    assert Settings(_env_file=None, litellm_endpoint=given, litellm_master_key="k").litellm_url == (
        used
    )


def test_litellm_is_asked_only_with_a_key_and_in_a_cluster_without_an_address() -> None:
    pod = {"kubernetes_service_host": "10.0.0.1"}

    def litellm(**values: str) -> str:
        return Settings(_env_file=None, **values).litellm_url  # type: ignore[arg-type]

    assert litellm(litellm_endpoint="http://mine") == ""
    assert litellm(litellm_master_key="sk-1") == ""
    assert litellm(**pod) == ""
    assert litellm(**pod, litellm_master_key="sk-1") == CLUSTER_LITELLM
    assert litellm(**pod, litellm_master_key="sk-1", litellm_endpoint="http://mine") == (
        "http://mine"
    )


def test_mlflow_is_the_configured_one_else_the_platforms_own_where_an_account_is_injected() -> None:
    assert Settings(_env_file=None).mlflow_url == ""
    assert Settings(_env_file=None, keycloak_url="https://auth").mlflow_url == ""
    account = {"mlflow_auth_username": "ann", "mlflow_auth_password": "secret"}
    pod = Settings(_env_file=None, keycloak_url="https://auth", **account)
    assert pod.mlflow_url == CLUSTER_MLFLOW
    assert Settings(_env_file=None, mlflow_tracking_uri="http://ml/").mlflow_url == "http://ml"


def test_others_reach_the_app_inside_the_cluster_unless_told_otherwise() -> None:
    assert Settings(_env_file=None, app_name="my-model").own_address == (
        "http://my-model-app.my-model.svc.cluster.local:7860"
    )
    assert Settings(_env_file=None, service_url="http://here:1/").own_address == "http://here:1"


def test_strangers_are_kept_out_where_there_is_a_keycloak_or_it_is_wanted() -> None:
    assert not Settings(_env_file=None).signs_on
    assert Settings(_env_file=None, keycloak_url="https://auth").signs_on
    assert not Settings(_env_file=None, keycloak_url="https://auth", auth="off").signs_on
    assert Settings(_env_file=None, api_keys=f"ci:{'0' * 64}", auth="on").signs_on


def test_the_title_is_made_of_the_apps_name_when_none_is_given() -> None:
    assert Settings(_env_file=None, app_name="legal-model").title == "Legal Model"
