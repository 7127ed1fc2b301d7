"""Bad days of a model server: its engine, its card, its gateway and itself fail.

Each test is a drill. What to do on such a day stands beside its name in
docs/guides/operating-an-agent.md; `test_runbook.py` holds that page to this list.
"""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.programs import free_port
from tests import live
from tests.doubles.hub import Hub
from tests.doubles.litellm import LiteLLM
from tests.doubles.serve import running
from tests.live import KEY, VLLM, wait_until
from tests.network import black_hole
from tests.serving import CONFIG, loading, served

pytestmark = [pytest.mark.slow, pytest.mark.long]
LONG = "word " * 400
PACE = {"tokens_per_second": 20}


def detail(answer: httpx.Response) -> str:
    """The sentence of a 502, whichever door it came from."""
    assert answer.status_code == 502, answer.text
    body = answer.json()
    sentence = str(body["detail"] if "detail" in body else body["error"]["message"])
    assert sentence.endswith("."), sentence
    return sentence


def alive(pid: int) -> bool:
    """A zombie is not: whoever should have waited for it was killed as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_engine_is_killed_and_comes_back(tmp_path: Path) -> None:
    with served(tmp_path, PACE) as here, ThreadPoolExecutor(2) as threads:
        page = threads.submit(here.say, LONG)
        raw = threads.submit(here.chat, LONG, stream=True)
        wait_until(lambda: here.double()["active"] == 2)
        os.kill(here.state["pid"], signal.SIGKILL)

        assert "broke off" in detail(page.result())
        assert "The answer broke off." in raw.result().text
        assert raw.result().text.count("data: {") > 1
        assert "is started again" in detail(here.say()) or here.ready()["state"] == "loading"
        assert here.http.get("/health").status_code == 200
        wait_until(lambda: here.state.get("starts") == 2)
        here.until("ready")
        assert here.say().json()["answer"] == "Hello there"


def test_its_core_has_died_though_its_server_answers(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        here.double(fail="dead")
        assert "The model's engine answers 500" in detail(here.chat())
        wait_until(lambda: here.state.get("starts") == 2)
        here.until("ready")
        assert here.chat().status_code == 200


def test_out_of_memory_while_it_loads(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "oom"}, ENGINE_STARTS=2) as here:
        failed = here.until("failed")
        assert "The card ran out of memory while the model was loaded" in failed["detail"]
        assert "It was tried 2 times." in failed["detail"]
        assert "The model cannot be served." in detail(here.chat())
        assert detail(here.say()) == detail(here.chat())
        assert here.http.get("/health").json()["status"] == "healthy"
        assert here.state["starts"] == 2


def test_the_cards_memory_is_still_held_by_another_and_then_free(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "no_room", "fail_starts": 1}) as here:
        waiting = wait_until(lambda: (now := here.ready())["phase"] == "waiting" and now)
        assert "Only 3.1 of the card's 23.68 GiB are free" in waiting["detail"]
        here.until("ready")
        assert here.chat().status_code == 200


def test_too_little_is_left_for_a_talk(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "no_cache"}) as here:
        assert "lower MAX_MODEL_LEN" in here.until("failed")["detail"]
        assert here.state["starts"] == 1


@pytest.mark.parametrize("token", ["wrong", "none"])
def test_a_wrong_token_or_none_for_a_gated_model(tmp_path: Path, token: str) -> None:
    files = {"config.json": b'{"max_position_embeddings": 8192}', "model.safetensors": b"0" * 99}
    hub = Hub({"ann/secret": files}, gated={"ann/secret"})
    with running(hub.app) as url:
        env = {"HF_ENDPOINT": url, "MODEL_ID": "ann/secret", "HF_HOME": tmp_path / "hub"}
        if token == "wrong":
            env["HF_TOKEN"] = "hf_nobody"
        with loading(tmp_path, **env) as here:
            said = here.until("failed")["detail"]
            wanted = {"wrong": "does not take HF_TOKEN", "none": "is gated: accept its terms"}
            assert wanted[token] in said
            assert "hf_nobody" not in here.app.log


def test_an_unknown_model(tmp_path: Path) -> None:
    with running(Hub({}).app) as url:
        env = {"HF_ENDPOINT": url, "HF_HOME": tmp_path / "hub", "HF_TOKEN": "hf_double"}
        with loading(tmp_path, MODEL_ID="ann/nothing", **env) as here:
            said = here.until("failed")["detail"]
            assert "There is no such model at the hub" in said
            assert "ann/nothing" in said
            assert "The model cannot be served." in detail(here.chat())


def test_the_hub_is_away(tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HOME": tmp_path / "hub"}
    with loading(tmp_path, MODEL_ID="ann/tiny", ENGINE_STARTS=2, **env) as here:
        said = here.until("failed")["detail"]
        assert "is out of reach, and ann/tiny was not downloaded before" in said


def test_the_hub_is_away_but_the_model_is_here(tmp_path: Path) -> None:
    files = {"config.json": b'{"max_position_embeddings": 8192}', "model.safetensors": b"0" * 99}
    env = {"MODEL_ID": "ann/tiny", "HF_HOME": tmp_path / "hub"}
    with running(Hub({"ann/tiny": files}).app) as url, served(tmp_path, HF_ENDPOINT=url, **env):
        pass
    away = f"http://127.0.0.1:{free_port()}"
    with served(tmp_path, HF_ENDPOINT=away, **env) as here:
        assert here.ready()["state"] == "ready"


def test_a_model_of_a_kind_that_this_vllm_does_not_know(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "unknown_architecture"}) as here:
        assert "does not know models of the kind" in here.until("failed")["detail"]
        assert here.state["starts"] == 1


def test_the_engines_port_is_taken_meanwhile(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "port_taken", "fail_starts": 1}) as here:
        waiting = wait_until(lambda: (now := here.ready())["phase"] == "waiting" and now)
        assert "is taken" in waiting["detail"]
        here.until("ready")
        assert here.state["starts"] == 2


def test_the_apps_own_port_is_taken(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        port = int(here.app.url.rsplit(":", 1)[1])
        env = {"PATH": f"{live.bin_folder(VLLM)}:/usr/bin:/bin", "ENGINE": "small"}
        second = subprocess.run(
            live.command(port, VLLM), cwd=live.rendered(VLLM), env=env, timeout=30,
            capture_output=True, text=True,
        )  # fmt: skip
        assert second.returncode
        assert "address already in use" in second.stderr
        assert here.chat().status_code == 200


def test_it_hangs_while_it_loads(tmp_path: Path) -> None:
    stuck = {"fail": "hang", "fail_starts": 1, "deaf": True}
    with loading(tmp_path, stuck, STALL_TIMEOUT_S=2) as here:
        wait_until(lambda: here.ready()["phase"] == "weights")
        first = here.state["pid"]
        assert "is being loaded" in detail(here.chat())
        wait_until(lambda: here.ready()["phase"] == "waiting")
        assert "said nothing for 2 s" in here.ready()["detail"]
        here.until("ready")
        assert not alive(first)


def test_it_dies_without_a_word_again_and_again(tmp_path: Path) -> None:
    with loading(tmp_path, {"fail": "crash"}) as here:
        said = here.until("failed")["detail"]
        assert "The engine ended with signal SIGSEGV without a word" in said
        assert "It was tried 3 times." in said
        assert here.state["starts"] == 3


def test_a_flag_that_vllm_lacks(tmp_path: Path) -> None:
    with loading(tmp_path, ENGINE_ARGS="--nonsense 3") as here:
        assert (
            "vLLM does not take --nonsense 3; correct ENGINE_ARGS."
            in here.until("failed")["detail"]
        )


def test_vllm_is_not_there(tmp_path: Path) -> None:
    with loading(tmp_path, ENGINE_COMMAND="/nowhere/python -m vllm") as here:
        said = here.until("failed")["detail"]
        assert "ENGINE_COMMAND" in said


def test_sigterm_in_mid_stream(tmp_path: Path) -> None:
    with served(tmp_path, PACE) as here, ThreadPoolExecutor(3) as threads:
        short = threads.submit(here.chat, "word " * 60, stream=True)
        endless = threads.submit(here.chat, LONG * 3, stream=True)
        run = threads.submit(here.say, LONG * 3, stream=True)
        wait_until(lambda: here.double()["active"] == 3)
        engine = here.state["pid"]
        took = here.app.stop(29)

        assert took < 25  # Kubernetes kills after 30 s
        assert short.result().text.endswith("data: [DONE]\n\n")
        assert "The app is being restarted" in endless.result().text
        assert "The app is being restarted" in run.result().text
        assert not alive(engine)


def test_the_app_dies_without_a_word_and_leaves_no_engine_behind(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        engine = here.state["pid"]
        here.app.process.kill()
        wait_until(lambda: not alive(engine), 10)


@pytest.mark.parametrize("how", ["refuses", "hangs", "has no database", "does not take the key"])
def test_litellm_is_away(tmp_path: Path, how: str) -> None:
    gateway = LiteLLM()
    fail = {"hangs": "hang", "has no database": "no_database", "does not take the key": "401"}
    gateway.fail = fail.get(how)
    with running(gateway.app) as url:
        address = f"http://127.0.0.1:{free_port()}" if how == "refuses" else url
        with served(tmp_path, LITELLM_ENDPOINT=address, **KEY) as here:
            found = wait_until(lambda: _litellm(here))
            assert "The model is not in LiteLLM's list" in found["detail"]
            assert here.chat().status_code == 200  # nobody else notices
            if how != "refuses":
                gateway.fail = None
                wait_until(lambda: here.ready()["services"]["litellm"]["ok"])
                assert list(gateway.models) == ["live:live"]


def _litellm(here: Any) -> Any:
    found = here.ready()["services"]["litellm"]
    return None if found["ok"] or "yet" in found["detail"] else found


def test_litellm_hangs_at_the_end_and_the_app_ends_all_the_same(tmp_path: Path) -> None:
    gateway = LiteLLM()
    with running(gateway.app) as url, served(tmp_path, LITELLM_ENDPOINT=url, **KEY) as here:
        wait_until(lambda: gateway.models)
        gateway.fail = "hang"
        assert here.app.stop(29) < 25


def test_mlflow_is_away(tmp_path: Path) -> None:
    with black_hole() as url:
        env = {"MLFLOW_TRACKING_URI": url, "MODEL_ID": "models:/legal", "ENGINE_STARTS": 1}
        with loading(tmp_path, **env) as here:
            said = here.until("failed")["detail"]
            assert "MLflow at" in said
            assert "check MLFLOW_TRACKING_URI" in said


def test_a_folder_that_is_no_model_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with loading(tmp_path, MODEL_ID=tmp_path / "empty") as here:
        assert "it is no model" in here.until("failed")["detail"]
        assert here.state == {}


def test_a_client_leaves_in_mid_answer(tmp_path: Path) -> None:
    with served(tmp_path, {"tokens_per_second": 5}) as here:
        with here.http.stream(
            "POST", "/v1/chat/completions",
            json={"model": "model", "stream": True,
                  "messages": [{"role": "user", "content": LONG}]},
        ) as answer:  # fmt: skip
            next(answer.iter_bytes())
        wait_until(lambda: here.double()["aborted"] == 1, 5)
        assert here.double()["active"] == 0


def test_a_client_leaves_before_the_answer_has_begun(tmp_path: Path) -> None:
    with served(tmp_path, {"tokens_per_second": 5}) as here:
        with pytest.raises(httpx.ReadTimeout):
            here.app.http.post(
                "/v1/chat/completions", timeout=1,
                json={"model": "model", "messages": [{"role": "user", "content": LONG}]},
            )  # fmt: skip
        wait_until(lambda: here.double()["aborted"] == 1, 5)


@pytest.mark.parametrize("status", ["503", "500", "429"])
def test_the_engine_is_too_busy(tmp_path: Path, status: str) -> None:
    with served(tmp_path) as here:
        here.double(fail=status)
        answer = here.chat()
        assert answer.status_code == (429 if status == "429" else 502)
        assert answer.json()["error"]["message"]
        assert detail(here.say())
        here.double(fail=None)
        assert here.chat().status_code == 200


def test_the_talk_is_longer_than_the_model_can_read(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        refused = here.chat(max_tokens=CONFIG["max_position_embeddings"] + 1)
        assert refused.status_code == 400
        assert "max_model_len" in refused.json()["error"]["message"]
        said = here.say(max_tokens=9000)
        assert said.status_code == 422
        assert "The engine refuses this" in said.json()["detail"]


def test_an_empty_or_broken_answer_of_the_engine_is_said(tmp_path: Path) -> None:
    with served(tmp_path) as here:
        for fail in ("empty_stream", "cut", "garbage"):
            here.double(fail=fail)
            assert "broke off" in detail(here.say())
