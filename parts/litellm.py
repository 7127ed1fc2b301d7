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
        config = self._folder / "litellm.yaml"
        config.write_text(json.dumps(_configuration(models)))  # JSON is YAML too
        program = environment("litellm", WANTED) / "litellm"
        command = [program, "--config", config, "--host", "127.0.0.1", "--port", self.port]
        env = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": self._folder,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the network for prices
        }
        alive = f"{self.url}/health/liveliness"
        log = self._folder / "litellm.log"
        server = running(command, log, lambda: answers(alive), env=env, cwd=self._folder)
        self._process.enter_context(server)

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


def _configuration(models: Mapping[str, Model]) -> dict[str, object]:
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
