"""The real MLflow: a registered model, its versions and aliases, found where they are mounted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parts.environments import environment
from parts.mlflow import WANTED, Mlflow, server
from parts.programs import call, free_port
from tests.doubles.keycloak import Keycloak
from tests.doubles.serve import running
from tests.live import wait_until
from tests.serving import CONFIG, adapter_folder, loading, served

pytestmark = pytest.mark.long
REGISTER = """
import json, os, pathlib, sys, tempfile
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
made = {}
for name, kind, folder in json.loads(sys.argv[2]):
    with mlflow.start_run() as run:
        mlflow.log_artifacts(folder, "model")
    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException:
        pass  # a further version
    source = f"{run.info.artifact_uri}/model"
    version = client.create_model_version(name, source, run.info.run_id)
    if kind:
        client.set_registered_model_alias(name, kind, version.version)
"""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    with server(tmp_path_factory.mktemp("mlflow")) as here:
        yield here


def register(mlflow: Mlflow, *models: tuple[str, str, Path]) -> None:
    """(name, alias or "", folder) each, as a notebook does it."""
    python = environment("mlflow", WANTED) / "python"
    told = json.dumps([(name, alias, str(folder)) for name, alias, folder in models])
    env = {"PATH": os.environ["PATH"], "HOME": str(mlflow.artefacts)}
    call([python, "-c", REGISTER, mlflow.url, told], env=env)


def small_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


def test_versions_and_aliases_of_a_registered_model_are_served(
    mlflow: Mlflow, tmp_path: Path
) -> None:
    first = small_model(tmp_path / "first", max_position_embeddings=1111)
    second = small_model(tmp_path / "second", max_position_embeddings=2222)
    register(mlflow, ("legal", "champion", first), ("legal", "", second))
    env = {"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_MODELS": mlflow.artefacts}
    lengths = {"models:/legal": 2222, "models:/legal/1": 1111, "models:/legal@champion": 1111}
    for n, (uri, length) in enumerate(lengths.items()):
        home = tmp_path / str(n)
        home.mkdir()
        with served(home, MODEL_ID=uri, **env) as here:
            told = here.http.get("/api/model").json()
            assert (told["model"], told["context"]) == ("legal", length)
            assert told["origin"].startswith("MLflow: legal, version")
            assert here.chat(model="legal").status_code == 200
            assert here.ready()["services"]["mlflow"]["ok"]


def test_a_hub_model_that_the_platform_mirrors_is_read_from_there(
    mlflow: Mlflow, tmp_path: Path
) -> None:
    register(mlflow, ("ann-tiny", "", small_model(tmp_path / "mirror")))
    away = f"http://127.0.0.1:{free_port()}"
    env = {"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_MODELS": mlflow.artefacts}
    with served(tmp_path, MODEL_ID="ann/tiny", HF_ENDPOINT=away, **env) as here:
        told = here.http.get("/api/model").json()
        assert (told["model"], told["origin"]) == ("ann/tiny", "MLflow: ann-tiny, version 1")


def test_an_adapter_comes_from_there_too(mlflow: Mlflow, tmp_path: Path) -> None:
    register(mlflow, ("legal-lora", "champion", adapter_folder(tmp_path / "lora", 16)))
    env = {"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_MODELS": mlflow.artefacts}
    with served(tmp_path, ADAPTERS="legal=models:/legal-lora@champion", **env) as here:
        wait_until(lambda: here.http.get("/api/model").json()["adapters"] == ["legal"], 20)
        assert here.flag("--max-lora-rank") == "16"


def test_it_is_asked_with_a_token_that_the_app_makes_itself(mlflow: Mlflow, tmp_path: Path) -> None:
    register(mlflow, ("with-token", "", small_model(tmp_path / "model")))
    keycloak = Keycloak()
    with running(keycloak.app) as realm:
        keycloak.url = realm
        env = {
            "MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_MODELS": mlflow.artefacts,
            "KEYCLOAK_URL": realm, "AUTH": "off", "MLFLOW_AUTH_USERNAME": "tkadmin",
            "MLFLOW_AUTH_PASSWORD": "pw", "MLFLOW_CLIENT_SECRET": "secret",
        }  # fmt: skip
        with served(tmp_path, MODEL_ID="models:/with-token", **env):
            granted = [form for _, form in keycloak.asked if form.get("grant_type") == "password"]
            assert granted[0]["client_id"] == "mlflow"
            assert granted[0]["username"] == "tkadmin"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/nothing", "MLflow has no models:/nothing"),
        ("models:/unmounted", "does not hold its files"),
    ],
)
def test_what_is_not_there_is_said(mlflow: Mlflow, tmp_path: Path, uri: str, said: str) -> None:
    if uri == "models:/unmounted":
        register(mlflow, ("unmounted", "", small_model(tmp_path / "model")))
    env = {"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_MODELS": tmp_path / "elsewhere"}
    with loading(tmp_path, MODEL_ID=uri, **env) as here:
        assert said in here.until("failed")["detail"]
