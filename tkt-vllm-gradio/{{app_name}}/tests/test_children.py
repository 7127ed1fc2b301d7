"""What a child may see, and that it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process

import pytest

from agent import children
from agent.children import bound_to_us, end, environment, killed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "name",
    [
        "ADMIN_PASSWORD", "ANSIBLE_BECOME_PASS", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
        "LITELLM_MASTER_KEY", "MLFLOW_CLIENT_SECRET", "MLFLOW_AUTH_PASSWORD", "SESSION_SECRET",
        "VLLM_API_KEY", "NVIDIA_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
        "GITHUB_TOKEN", "SEAWEEDFS_PASSWORD", "ASK_KEY", "API_KEYS", "CLICKHOUSE_PASSWORD",
        "KEYCLOAK_URL", "PYTHONPATH", "KUBERNETES_SERVICE_HOST", "DATABASE_URL",
    ],
)  # fmt: skip
def test_a_child_sees_no_secret_and_nothing_that_it_does_not_need(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hidden")

    assert "hidden" not in environment().values()


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "HF_HOME", "HF_ENDPOINT",
        "VLLM_CACHE_ROOT", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NCCL_DEBUG",
        "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS",
        "https_proxy", "NO_PROXY", "SSL_CERT_FILE",
    ],
)  # fmt: skip
def test_a_child_sees_what_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "as it is")

    assert environment()[name] == "as it is"


async def start(script: str) -> Process:
    """A child that has said that it is there."""
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", script, stdout=PIPE, start_new_session=True
    )
    assert child.stdout
    assert await child.stdout.readline() == b"here\n"
    return child


async def all_gone(child: Process) -> bool:
    """Whether nobody is left who holds the child's output open."""
    assert child.stdout
    return await asyncio.wait_for(child.stdout.read(), 2) == b""


async def test_a_child_that_is_asked_to_end_gets_the_time_to() -> None:
    child = await start("trap 'exit 7' TERM; echo here; while :; do sleep 0.02; done")

    await end(child)

    assert child.returncode == 7
    assert await all_gone(child)


async def test_a_deaf_child_and_its_deaf_grandchild_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "GRACE_S", 0.2)
    child = await start("trap '' TERM; (sleep 60; sleep 60) & echo here; wait; sleep 60")

    begun = time.monotonic()
    await end(child)

    assert child.returncode == -signal.SIGKILL
    assert 0.2 <= time.monotonic() - begun < 2
    assert await all_gone(child)


async def test_what_a_child_leaves_behind_is_ended_as_well() -> None:
    child = await start("(trap '' TERM; sleep 60; sleep 60) & echo here; exit 3")
    while child.returncode is None:
        await asyncio.sleep(0.01)

    await end(child)

    assert child.returncode == 3
    assert await all_gone(child)


async def test_a_child_that_has_ended_can_be_ended_again() -> None:
    child = await start("echo here; exit 3")

    await end(child)
    await end(child)

    assert child.returncode == 3


async def test_at_the_end_of_a_block_the_child_has_ended_also_when_the_block_is_cancelled() -> None:
    child = await start("echo here; exec sleep 60")

    async def hold() -> None:
        async with killed(child):
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.wait([holding])

    assert child.returncode == -signal.SIGTERM


@pytest.mark.skipif(len(bound_to_us(["x"])) == 1, reason="setpriv is not here")
async def test_a_child_is_ended_when_the_app_dies_without_a_word() -> None:
    """An app that is killed while its child sleeps; the child holds the app's output open."""
    app = (
        "import os, subprocess; from agent.children import bound_to_us;"
        "subprocess.Popen(bound_to_us(['sh', '-c', 'echo here; exec sleep 60']),"
        " start_new_session=True); os.read(0, 1)"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", app, stdin=PIPE, stdout=PIPE)
    assert child.stdout
    assert await child.stdout.readline() == b"here\n"

    child.kill()
    await child.wait()

    assert await all_gone(child)
