"""What the platform checks before it builds the image: FastAPI, pydantic and pytest are enough.

The packages of `requirements.txt` are not installed there; what needs them is tested beside this
folder.
"""

from __future__ import annotations

import httpx
import pytest

import app
from agent import prompts
from agent.settings import HERE, Settings

pytestmark = pytest.mark.anyio


async def get(path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app.create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test") as client:
        return await client.get(path)


async def test_health_answers_and_names_the_app() -> None:
    answer = await get("/health")
    assert (answer.status_code, answer.json()["service"]) == (200, Settings().app_name)


async def test_ready_is_200_also_while_the_app_starts() -> None:
    answer = await get("/ready")
    assert (answer.status_code, answer.json()["ready"]) == (200, False)


async def test_the_api_describes_itself() -> None:
    paths = (await get("/openapi.json")).json()["paths"]
    assert {"/health", "/ready", "/api/chat", "/v1/chat/completions"} <= set(paths)


def test_the_prompts_take_what_they_are_given() -> None:
    assert "3 sentences" in prompts.SUMMARY.format(sentences=3)
    assert "Why" in prompts.NO_MODEL.format(reason="Why", first="One.")


@pytest.mark.skipif(not (HERE / "app.env").exists(), reason="no app.env: all is at its default")
def test_app_env_holds_only_settings_that_exist() -> None:
    lines = (HERE / "app.env").read_text().splitlines()
    given = {line.split("=", 1)[0].lower() for line in lines if line[:1].isalpha()}
    assert given <= set(Settings.model_fields)
