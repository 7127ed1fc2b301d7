"""What a child may see, and that it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process

import pytest

from agent import children
from agent.children import end, ended, environment, killed
from agent.children import start as guarded
from agent.settings import HERE

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
    while child.returncode is None:
        await asyncio.sleep(0.01)

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


async def test_a_child_and_its_own_child_end_when_the_app_dies_without_a_word() -> None:
    """An app that is killed while both sleep; they hold the app's output open."""
    app = (
        "import asyncio, os, sys; from pathlib import Path; from agent.children import start;"
        "shell = ['sh', '-c', 'sleep 60 & echo here; exec sleep 60'];"
        "asyncio.run(start(shell, Path('.'), {'PATH': os.environ['PATH']})); os.read(0, 1)"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", app, stdin=PIPE, stdout=PIPE)
    assert child.stdout
    assert await child.stdout.readline() == b"here\n"

    child.kill()
    await child.wait()

    assert await all_gone(child)


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("kill -SEGV $$", -signal.SIGSEGV)])
async def test_how_a_program_ended_is_known_behind_its_guard(command: str, code: int) -> None:
    child = await guarded(["sh", "-c", command], HERE, {"PATH": "/usr/bin:/bin"})

    assert await ended(child) == code


async def test_the_guard_waits_for_a_program_that_is_asked_to_end() -> None:
    script = "trap 'sleep 0.3; exit 7' TERM; echo here; while :; do sleep 0.05; done"
    child = await guarded(["sh", "-c", script], HERE, {"PATH": "/usr/bin:/bin"}, stdout=PIPE)
    assert child.stdout
    assert await child.stdout.readline() == b"here\n"

    await end(child)

    assert await ended(child) == 7
