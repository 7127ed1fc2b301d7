"""The real LiteLLM proxy, and which model stands behind which alias.

    with proxy(folder, {"legal-qa": Model(url, key, "smollm2")}) as gateway:
        gateway.move({"legal-qa": Model(url, key, "tuned")})

It has no database here, so its models stand in a file, and it starts anew when one moves. On the
platform it has one, and tkt-vllm-gradio registers its model by itself: POST /model/new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.environments import environment
from parts.programs import answers, free_port, running

WANTED = [
    "litellm[proxy]==1.106.2",  # newer ones want a certifi that is not on the index yet
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp-proto-http==1.45.2",
]
KEY = "sk-this-machine"
"""The proxy listens on this machine alone."""


@dataclass(frozen=True)
class Model:
    """One behind an OpenAI-compatible API at `url`, which ends in /v1."""

    url: str
    key: str
    name: str


class Proxy:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = KEY
        self._folder = folder
        self._process = ExitStack()

    def move(self, models: Mapping[str, Model]) -> None:
        """From now on these aliases are offered, and no others; takes about 10 s."""
        self._process.close()
        self._process.enter_context(serving(self._folder, configuration(models), self.port))

    def close(self) -> None:
        self._process.close()


@contextmanager
def proxy(folder: Path, models: Mapping[str, Model]) -> Iterator[Proxy]:
    """A proxy with its configuration and log in `folder`."""
    here = Proxy(folder)
    try:
        here.move(models)
        yield here
    finally:
        here.close()


@contextmanager
def serving(folder: Path, config: Mapping[str, Any], port: int = 0, **env: Any) -> Iterator[str]:
    """The address of a proxy with this configuration, which it reads from `folder`."""
    port = port or free_port()
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML too
    program = environment("litellm", WANTED, compiled=False) / "litellm"
    command = [program, "--config", file, "--host", "127.0.0.1", "--port", port]
    given = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": folder,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the network for prices
        **env,
    }
    url = f"http://127.0.0.1:{port}"
    alive = f"{url}/health/liveliness"
    log = folder / "litellm.log"
    with running(command, log, lambda: answers(alive), env=given, cwd=folder):
        yield url


def configuration(models: Mapping[str, Model]) -> dict[str, Any]:
    """What stands in its file: these models behind their aliases, and its master key."""
    listed = [
        {
            "model_name": alias,
            "litellm_params": {
                "model": f"openai/{model.name}",
                "api_base": model.url,
                "api_key": model.key,
            },
        }
        for alias, model in models.items()
    ]
    return {
        "model_list": listed,
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"num_retries": 0},
    }
