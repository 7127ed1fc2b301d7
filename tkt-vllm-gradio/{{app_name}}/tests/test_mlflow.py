"""Registered models of MLflow, against its REST API as it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.errors import Refused, Unavailable
from agent.mlflow import Registry

pytestmark = pytest.mark.anyio

QWEN = {"name": "qwen", "version": "3", "source": "runs:/abc/model"}


class MLflow:
    """One model `qwen`, whose version 3 is the newest and has the alias champion."""

    def __init__(self, uri: str, logged: str = "") -> None:
        self.asked: list[str] = []
        self._answers: dict[str, Any] = {
            "registered-models/search": {"registered_models": []},
            "model-versions/get-download-uri": {"artifact_uri": uri},
            "logged-models/m-0f3a": {"model": {"info": {"artifact_uri": logged}}},
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        query = dict(request.url.params)
        self.asked.append(path)
        if path in self._answers:
            return httpx.Response(200, json=self._answers[path])
        if path == "model-versions/search":
            assert query["order_by"] == "version_number DESC"
            known = query["filter"] == "name = 'qwen'"
            return httpx.Response(200, json={"model_versions": [QWEN]} if known else {})
        right = {"model-versions/get": ("version", "3"), "registered-models/alias": (
            "alias", "champion")}  # fmt: skip
        name, value = right[path]
        if query["name"] == "qwen" and query[name] == value:
            return httpx.Response(200, json={"model_version": QWEN})
        return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})


def registry(answer: Any, mounted: Path) -> Registry:
    transport = httpx.MockTransport(answer)
    return Registry(httpx.AsyncClient(transport=transport, base_url="http://mlflow.test"), mounted)


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("models:/qwen", "model-versions/search"),
        ("models:/qwen/3", "model-versions/get"),
        ("models:/qwen@champion", "registered-models/alias"),
    ],
)
async def test_a_version_is_the_newest_a_number_or_the_one_with_an_alias(
    uri: str, asked: str, tmp_path: Path
) -> None:
    there = folder(tmp_path / "1/abc/artifacts/model")
    mlflow = MLflow("mlflow-artifacts:/1/abc/artifacts/model")

    found = await registry(mlflow, tmp_path).folder(uri)

    assert found == (there, "qwen, version 3")
    assert mlflow.asked[0] == asked


@pytest.mark.parametrize(
    ("uri", "mounted"),
    [
        ("mlflow-artifacts:/1/abc/artifacts/model", "1/abc/artifacts/model"),
        ("mlflow-artifacts:/1/abc/artifacts/model", "artifacts/1/abc/artifacts/model"),
        ("mlflow-artifacts://mlflow:5000/1/abc/artifacts/model", "1/abc/artifacts/model"),
        ("s3://mlflow/1/abc/artifacts/model", "1/abc/artifacts/model"),
        ("s3://mlflow/1/abc/artifacts/model", "mlflow/1/abc/artifacts/model"),
        ("s3://bucket/a/prefix/1/abc/artifacts/model", "1/abc/artifacts/model"),
        ("file:///mlflow/artifacts/1/abc/artifacts/model", "1/abc/artifacts/model"),
    ],
)
async def test_its_files_are_found_where_they_are_mounted(
    uri: str, mounted: str, tmp_path: Path
) -> None:
    there = folder(tmp_path / mounted)

    assert (await registry(MLflow(uri), tmp_path).folder("models:/qwen"))[0] == there


async def test_a_model_of_mlflow_3_is_found_by_its_own_id(tmp_path: Path) -> None:
    there = folder(tmp_path / "1/models/m-0f3a/artifacts")
    mlflow = MLflow("models:/m-0f3a", "mlflow-artifacts:/1/models/m-0f3a/artifacts")

    assert (await registry(mlflow, tmp_path).folder("models:/qwen"))[0] == there


async def test_where_mlflow_names_no_place_the_versions_source_is_taken(tmp_path: Path) -> None:
    there = folder(tmp_path / "abc/model")

    assert (await registry(MLflow(""), tmp_path).folder("models:/qwen"))[0] == there


async def test_files_that_are_not_mounted_are_a_sentence(tmp_path: Path) -> None:
    """Also where the share has a folder that is called as the last part of their path."""
    folder(tmp_path / "artifacts")
    mlflow = MLflow("mlflow-artifacts:/1/abc/artifacts")

    with pytest.raises(Refused) as refusal:
        await registry(mlflow, tmp_path).folder("models:/qwen")

    assert str(refusal.value) == (
        f"MLflow has models:/qwen, but {tmp_path} does not hold its files (1/abc/artifacts)."
    )


@pytest.mark.parametrize("uri", ["models:/other", "models:/qwen/9", "models:/qwen@nobody"])
async def test_what_mlflow_does_not_have_is_a_sentence(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"MLflow has no {uri}; look at its registered models."):
        await registry(MLflow(""), tmp_path).folder(uri)


@pytest.mark.parametrize("uri", ["models:/", "models:/a/b", "models:/a@", "models:/a/3@b"])
async def test_what_is_no_name_is_a_sentence_and_not_asked(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is no models:/name, models:/name/3 or models:/name@alias"):
        await registry(lambda _: pytest.fail("it was asked"), tmp_path).folder(uri)


async def test_a_mirror_of_the_hub_has_a_dash_for_its_slash(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.params["filter"] == "name = 'owner-qwen'"
        return httpx.Response(200, json={})

    assert await registry(answer, tmp_path).mirror("owner/qwen") is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(401, text="no"), "Client error '401 Unauthorized'"),
        (httpx.Response(500, text="oops"), "Server error '500 Internal Server Error'"),
        (httpx.Response(200, text="<html>sign on</html>"), "Expecting value"),
        (httpx.ConnectError("refused"), "(refused)"),
        (httpx.ReadTimeout(""), "(ReadTimeout)"),
    ],
    ids=["401", "500", "a page", "away", "hangs"],
)
async def test_an_mlflow_that_is_away_is_a_sentence(
    answer: httpx.Response | Exception, said: str, tmp_path: Path
) -> None:
    def away(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    for ask in (registry(away, tmp_path).folder("models:/qwen"), registry(away, tmp_path).check()):
        with pytest.raises(Unavailable) as failure:
            await ask
        assert str(failure.value).startswith("MLflow at http://mlflow.test")
        assert said in str(failure.value)
        assert str(failure.value).endswith("check MLFLOW_TRACKING_URI.")


async def test_an_mlflow_that_answers_is_well(tmp_path: Path) -> None:
    assert "http://mlflow.test" in await registry(MLflow(""), tmp_path).check()
