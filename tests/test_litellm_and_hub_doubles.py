"""LiteLLM's and the hub's doubles: against the real proxy, and asked by the hub's real client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.litellm import KEY, configuration
from tests import live
from tests.doubles.gateway import Gateway
from tests.doubles.hub import STRANGER, Hub
from tests.doubles.litellm import LiteLLM
from tests.doubles.serve import running
from tests.live import wait_until
from tests.test_litellm import models
from tests.test_litellm import proxy as proxy  # a fixture

HELLO = [{"role": "user", "content": "Hello."}]


# LiteLLM


@pytest.fixture(scope="module")
def running_litellm() -> Iterator[tuple[LiteLLM, httpx.Client]]:
    double = LiteLLM()
    with running(double.app) as url, client(url, "sk-double") as asking:
        yield double, asking


@pytest.fixture
def litellm(running_litellm: tuple[LiteLLM, httpx.Client]) -> tuple[LiteLLM, httpx.Client]:
    """The running proxy, as new, and a client of it."""
    double, app = running_litellm[0], running_litellm[0].app
    double.__init__()  # type: ignore[misc]
    double.app = app
    return running_litellm


def client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=5)


def registration(url: str = "http://127.0.0.1:1", **info: Any) -> dict[str, Any]:
    params = {"model": "hosted_vllm/double", "api_base": f"{url}/v1", "api_key": "sk-behind"}
    return {"model_name": "alias", "litellm_params": params, "model_info": info}


def message(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


@pytest.mark.parametrize("streams", [True, False])
def test_a_registered_model_answers_under_its_alias(
    litellm: tuple[LiteLLM, httpx.Client], streams: bool
) -> None:
    gateway = Gateway(key="sk-behind", reply="Good day.")
    with running(gateway.app) as url:
        litellm[1].post("/model/new", json=registration(url, id="one")).raise_for_status()
        body = {"model": "alias", "messages": HELLO, "stream": streams}
        answer = litellm[1].post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-litellm-model-id"] == "one"
    assert (answer.text.count("data: ") > 2) == streams
    assert gateway.requests[0].body == body | {"model": "double"}


def test_a_stream_is_passed_on_as_it_comes_and_its_end_too(
    litellm: tuple[LiteLLM, httpx.Client],
) -> None:
    gateway = Gateway(key=None, tokens_per_second=5, first_token_s=0.05, reply="a b c d")
    body = {"model": "alias", "messages": HELLO, "stream": True}
    with running(gateway.app) as url:
        litellm[1].post("/model/new", json=registration(url))
        with litellm[1].stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.iter_raw()  # dropping it would close the stream
            next(pieces)
            assert gateway.active == 1
        wait_until(lambda: gateway.aborted == 1, 2)
        gateway.fail = "cut"
        with pytest.raises(httpx.RemoteProtocolError):
            litellm[1].post("/v1/chat/completions", json=body)


def test_a_model_that_is_away_is_an_error_of_the_server(
    litellm: tuple[LiteLLM, httpx.Client],
) -> None:
    litellm[1].post("/model/new", json=registration())
    answer = litellm[1].post("/v1/chat/completions", json={"model": "alias", "messages": HELLO})
    assert answer.status_code == 500
    assert "Hosted_vllmException" in answer.json()["error"]["message"]


def test_a_registration_gets_an_id_and_shows_no_parameter_in_plain(
    litellm: tuple[LiteLLM, httpx.Client],
) -> None:
    answer = litellm[1].post("/model/new", json=registration(owner="me"))
    row = answer.json()
    assert list(litellm[0].models) == [row["model_id"]]
    assert row["model_info"] == {"db_model": False, "owner": "me", "id": row["model_id"]}
    assert "sk-behind" not in answer.text
    assert "hosted_vllm" not in answer.text


def test_an_id_is_taken_once_and_a_name_often(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    first = registration(id="one")
    assert litellm[1].post("/model/new", json=first).status_code == 200
    again = litellm[1].post("/model/new", json=registration("http://127.0.0.1:2", id="one"))
    assert again.status_code == 500
    assert "Failed to add model to db" in again.json()["error"]["message"]
    assert litellm[0].models == {"one": first}
    assert litellm[1].post("/model/new", json=registration(id="two")).status_code == 200
    assert [model["id"] for model in litellm[1].get("/v1/models").json()["data"]] == ["alias"]


def test_what_is_registered_is_shown_without_its_key(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    for name in ("one", "two"):
        litellm[1].post("/model/new", json=registration(id=name, owner="me"))
    every = litellm[1].get("/model/info").json()["data"]
    assert [model["model_info"]["id"] for model in every] == ["one", "two"]
    (one,) = litellm[1].get("/v1/model/info?litellm_model_id=one").json()["data"]
    assert one == every[0]
    assert one["litellm_params"] == {
        "model": "hosted_vllm/double",
        "api_base": "http://127.0.0.1:1/v1",
    }
    assert (one["model_info"]["db_model"], one["model_info"]["owner"]) == (True, "me")
    unknown = litellm[1].get("/model/info?litellm_model_id=three")
    assert (unknown.status_code, "not found" in unknown.text) == (400, True)


def test_an_update_changes_what_it_names(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    double, http = litellm
    http.post("/model/new", json=registration(id="one", owner="me"))
    change: dict[str, Any] = {"litellm_params": {"api_base": "http://b/v1"}}
    info = {"id": "one", "owner": "you"}
    assert http.post("/model/update", json=change | {"model_info": info}).status_code == 200
    params = {"model": "hosted_vllm/double", "api_base": "http://b/v1", "api_key": "sk-behind"}
    assert double.models["one"]["litellm_params"] == params
    assert double.models["one"]["model_info"]["owner"] == "me"
    patch = {"model_name": "other", "model_info": info}
    assert http.patch("/model/one/update", json=patch).status_code == 200
    assert double.models["one"] == {
        "model_name": "other",
        "litellm_params": params,
        "model_info": info,
    }
    gone = http.post("/model/update", json=change | {"model_info": {"id": "two"}})
    assert message(gone) == (400, "Authentication Error, model not found")
    assert http.patch("/model/two/update", json=change).status_code == 404


def test_a_model_is_deleted_once(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    litellm[1].post("/model/new", json=registration(id="one"))
    deleted = litellm[1].post("/model/delete", json={"id": "one"})
    assert deleted.json() == {"message": "Model: one deleted successfully"}
    again = litellm[1].post("/model/delete", json={"id": "one"})
    assert message(again) == (400, "{'error': 'Model with id=one not found in db'}")
    assert litellm[1].post("/model/delete", json={}).status_code == 422


def test_after_a_restart_nothing_is_known(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    litellm[1].post("/model/new", json=registration(id="one"))
    litellm[0].restart()
    assert litellm[1].get("/model/info").json() == {"data": []}
    answer = litellm[1].post("/v1/chat/completions", json={"model": "alias", "messages": HELLO})
    assert answer.status_code == 400
    assert "Invalid model name" in answer.json()["error"]["message"]


def test_a_wrong_key_registers_nothing(litellm: tuple[LiteLLM, httpx.Client]) -> None:
    for key, kind in (("sk-wrong", "token_not_found_in_db"), ("", "auth_error")):
        headers = {"Authorization": f"Bearer {key}".rstrip()}
        answer = litellm[1].post("/model/new", json=registration(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, kind)
    assert litellm[0].models == {}


@pytest.mark.parametrize("fail", ["401", "500", "503", "hang"])
def test_a_failing_proxy_registers_nothing(
    litellm: tuple[LiteLLM, httpx.Client], fail: str
) -> None:
    litellm[1].post("/_double", json={"fail": fail})
    limit_s = 0.3 if fail == "hang" else 5
    try:
        answer = litellm[1].post("/model/new", json=registration(), timeout=limit_s)
        assert str(answer.status_code) == fail
    except httpx.ReadTimeout:
        assert fail == "hang"
    assert litellm[0].models == {}
    assert litellm[1].get("/_double").json()["requests"] == 1


ASKED = [
    ("GET", "/health/liveliness", None),
    ("GET", "/health/readiness", None),
    ("POST", "/model/new", registration(id="one")),
    ("POST", "/model/update", registration(id="one")),
    ("PATCH", "/model/one/update", {"model_name": "other"}),
    ("POST", "/model/delete", {"id": "one"}),
    ("POST", "/model/delete", {"id": "m0"}),
    ("GET", "/model/info?litellm_model_id=one", None),
    ("POST", "/v1/chat/completions", {"model": "alias", "messages": HELLO}),
]


@pytest.mark.slow
def test_without_a_database_it_answers_as_the_real_one(proxy: tuple[str, Gateway]) -> None:
    double = LiteLLM(key=KEY, fail="no_database")
    with running(double.app) as url, client(proxy[0], KEY) as real, client(url, KEY) as asking:
        shown = real.get("/model/info").json()["data"]
        configured = configuration(models("http://behind"))["model_list"]
        for model, known in zip(configured, shown, strict=True):
            info = {"id": known["model_info"]["id"]}
            model["litellm_params"]["api_base"] = known["litellm_params"]["api_base"]
            double.models[info["id"]] = model | {"model_info": info}
        for key in (KEY, "sk-wrong"):
            real.headers["Authorization"] = asking.headers["Authorization"] = f"Bearer {key}"
            for method, path, body in ASKED:
                expected = real.request(method, path, json=body)
                answer = asking.request(method, path, json=body)
                assert (answer.status_code, answer.json()) == (
                    expected.status_code,
                    expected.json(),
                ), path
        real.headers["Authorization"] = asking.headers["Authorization"] = f"Bearer {KEY}"
        assert names(asking) == names(real)
        for own, known in zip(asking.get("/model/info").json()["data"], shown, strict=True):
            assert own["model_name"] == known["model_name"]
            assert "api_key" not in known["litellm_params"]
            for part in ("litellm_params", "model_info"):
                assert own[part].items() <= plain(known[part]).items()


def names(http: httpx.Client) -> set[str]:
    return {model["id"] for model in http.get("/v1/models").json()["data"]}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, list)}


# The hub


FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": bytes(range(256)) * 4000,
    "original/notes.txt": b"Notes.",
}
SCRIPT = """
import json, os, sys
from huggingface_hub import HfApi, auth_check, hf_hub_download, snapshot_download
for asked in sys.argv[1:]:
    try:
        print(json.dumps(eval(asked)))
    except Exception as error:
        print(json.dumps(type(error).__name__))
"""


@pytest.fixture(scope="module")
def running_hub() -> Iterator[tuple[Hub, str]]:
    double = Hub()
    with running(double.app) as url:
        yield double, url


@pytest.fixture
def hub(running_hub: tuple[Hub, str]) -> tuple[Hub, str]:
    """The running hub, as new, and its URL."""
    double, app = running_hub[0], running_hub[0].app
    double.__init__({"ann/tiny": FILES})  # type: ignore[misc]
    double.app = app
    return running_hub


def told(url: str, home: Path, *asked: str, token: str = "") -> list[Any]:
    """What the client gives for each expression, or the name of its error."""
    child = start(url, home, *asked, token=token)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    return [json.loads(line) for line in said.splitlines()]


def start(url: str, home: Path, *asked: str, token: str = "") -> subprocess.Popen[str]:
    env = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    if token:
        env["HF_TOKEN"] = token
    command = [str(live.bin_folder() / "python"), "-c", SCRIPT, *asked]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
def test_the_client_reads_what_a_model_has(hub: tuple[Hub, str], tmp_path: Path) -> None:
    blobs = "HfApi().model_info('ann/tiny', files_metadata=True)"
    sizes, large, gated, tree, flat, who = told(
        hub[1],
        tmp_path,
        f"{{s.rfilename: s.size for s in {blobs}.siblings}}",
        f"[s.lfs and s.lfs.sha256 for s in {blobs}.siblings]",
        "HfApi().model_info('ann/tiny', revision='main').gated",
        "[[f.path, f.size] for f in HfApi().list_repo_tree('ann/tiny', recursive=True)]",
        "[f.path for f in HfApi().list_repo_tree('ann/tiny')]",
        "HfApi().whoami()['name']",
        token="hf_double",
    )
    assert sizes == dict(tree) == {name: len(data) for name, data in FILES.items()}
    assert [bool(digest) for digest in large] == [False, True, False]
    assert gated is False
    assert flat == ["config.json", "model.safetensors"]
    assert who == "ann"


@pytest.mark.slow
def test_the_client_downloads_a_file_and_a_whole_model_once(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    whole = "snapshot_download('ann/tiny')"
    config, folder, again = told(
        hub[1], tmp_path, "hf_hub_download('ann/tiny', 'config.json')", whole, whole
    )
    assert Path(config).read_bytes() == FILES["config.json"]
    assert again == folder
    assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES
    taken = [asked.path for asked in hub[0].requests if asked.method == "GET"]
    assert sum("/resolve/" in path for path in taken) == len(FILES)


@pytest.mark.slow
def test_the_client_knows_its_errors(hub: tuple[Hub, str], tmp_path: Path) -> None:
    missing = ["HfApi().model_info('ann/none').id", "snapshot_download('ann/none')"]
    files = "hf_hub_download('ann/tiny', 'none.json')"
    branch = "hf_hub_download('ann/tiny', 'config.json', revision='none')"
    found = told(hub[1], tmp_path, *missing, files, branch)
    assert found[:2] == ["RepositoryNotFoundError"] * 2
    assert found[2:] == ["RemoteEntryNotFoundError", "RevisionNotFoundError"]
    assert told(hub[1], tmp_path, missing[0], token="hf_double") == found[:1]
    wrong = told(hub[1], tmp_path, "HfApi().model_info('ann/tiny').id", token="hf_wrong")
    assert wrong == ["HfHubHTTPError"]


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", STRANGER, "hf_double"])
def test_a_gated_model_is_seen_by_all_and_downloaded_by_its_own(
    hub: tuple[Hub, str], tmp_path: Path, token: str
) -> None:
    hub[0].gated = {"ann/tiny"}
    seen, *got = told(
        hub[1],
        tmp_path,
        "HfApi().model_info('ann/tiny', files_metadata=True).gated",
        "auth_check('ann/tiny')",
        "os.path.basename(hf_hub_download('ann/tiny', 'config.json'))",
        "bool(snapshot_download('ann/tiny'))",
        token=token,
    )
    assert seen == "manual"
    own = [None, "config.json", True]
    assert got == (own if token == "hf_double" else ["GatedRepoError"] * 3)


@pytest.mark.slow
def test_the_client_goes_on_where_a_download_was_cut(hub: tuple[Hub, str], tmp_path: Path) -> None:
    double, url = hub
    weights = bytes(range(256)) * 4096 * 24  # the client keeps what it has by 10 MiB
    double.models, double.fail = {"ann/tiny": {"model.safetensors": weights}}, "cut"
    child = start(url, tmp_path, "hf_hub_download('ann/tiny', 'model.safetensors')")
    wait_until(lambda: double.cuts == 1)
    double.fail = None
    path = json.loads(child.communicate(timeout=30)[0])
    assert Path(path).read_bytes() == weights
    assert double.requests[-1].headers["range"] == f"bytes={10 * 2**20}-"


@pytest.mark.slow
def test_the_client_is_told_of_a_limit_and_of_a_failure(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    for fail in ("429", "500"):
        hub[0].fail = fail
        assert told(hub[1], tmp_path, "HfApi().model_info('ann/tiny').id") == ["HfHubHTTPError"]


@pytest.mark.parametrize(
    ("asked", "status", "got"),
    [
        ("bytes=0-3", 206, b'{"mo'),
        ("bytes=20-", 206, b'"}'),
        ("bytes=22-", 416, b""),
        ("bytes=0-99", 200, FILES["config.json"]),
    ],
)
def test_a_part_of_a_file_can_be_asked_for(
    hub: tuple[Hub, str], asked: str, status: int, got: bytes
) -> None:
    address = f"{hub[1]}/ann/tiny/resolve/main/config.json"
    answer = httpx.get(address, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, got)
    if status != 200:
        assert answer.headers["content-range"].endswith("/22")


def test_a_file_comes_at_its_pace(hub: tuple[Hub, str]) -> None:
    hub[0].bytes_per_second = 2_048_000
    address = f"{hub[1]}/ann/tiny/resolve/main/model.safetensors"
    answer = httpx.get(address)
    assert answer.content == FILES["model.safetensors"]
    assert 0.45 <= answer.elapsed.total_seconds() < 3


def test_a_hanging_hub_says_nothing(hub: tuple[Hub, str]) -> None:
    httpx.post(f"{hub[1]}/_double", json={"fail": "hang"})
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{hub[1]}/api/models/ann/tiny", timeout=0.2)
    assert httpx.get(f"{hub[1]}/_double").json()["requests"] == 1
