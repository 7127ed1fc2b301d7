"""What is wrong? `python -m agent.doctor` looks at each thing that the app needs, a line each.

A line says what is there, or what is missing and what to do; the exit code is 1 when something
that is configured does not work. It starts no engine: whether one answers is asked of the running
app.
"""

import argparse
import asyncio
import shlex
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from agent.errors import Refused, Unavailable
from agent.fit import fit, gib, needs
from agent.services import Services, connect
from agent.settings import Settings, read

LIMIT_S = 60

Look = Callable[[Services], Awaitable[str]]


async def settings(here: Services) -> str:
    """The settings were read, or the process would have ended with a sentence."""
    s = here.settings
    if s.api_keys and not s.signs_on:
        raise Unavailable("API_KEYS are set, but everybody is let in; set AUTH=on.")
    if s.litellm_endpoint and not s.litellm_url:
        raise Unavailable("LITELLM_ENDPOINT is set without LITELLM_MASTER_KEY; set both.")
    return f"{s.app_name}, open to {'who signs on' if s.signs_on else 'everybody'}"


async def names(here: Services) -> str:
    """The name of each configured service leads to an address."""
    s, known = here.settings, []
    for url in filter(None, (s.litellm_url, s.mlflow_url, s.keycloak_url)):
        host = urlsplit(url).hostname or ""
        try:
            await asyncio.to_thread(socket.getaddrinfo, host, None)
        except OSError as error:
            raise Unavailable(
                f"The name {host} leads nowhere ({error}); check its setting."
            ) from None
        known.append(host)
    return ", ".join(dict.fromkeys(known)) or "none is needed"


async def gpu(here: Services) -> str:
    """Which cards the driver shows."""
    cards = await asyncio.to_thread(here.engine.cards)
    if cards:
        return ", ".join(f"{c.name}, {gib(c.free)} of {gib(c.total)} free" for c in cards)
    if here.settings.engine == "vllm":
        raise Unavailable("No card is seen; give the container one, or set ENGINE=small.")
    return "none: a tiny model stands in"


async def vllm(here: Services) -> str:
    """vLLM is where it is looked for."""
    program = shlex.split(here.settings.engine_command)[0]
    if shutil.which(program):
        return program
    cards = await asyncio.to_thread(here.engine.cards)
    if here.settings.engine == "vllm" or cards:
        raise Unavailable(f"There is no {program}; correct ENGINE_COMMAND.")
    return "not needed: a tiny model stands in"


async def model(here: Services) -> str:
    """The model is there, and fits the card."""
    s = here.settings
    cards = await asyncio.to_thread(here.engine.cards)
    if not cards and s.engine != "vllm":
        return "not looked for: a tiny model stands in"
    found = await here.sources.look(s.model_id)
    where = f"{found.name} from {found.origin}, {gib(found.size)} of weights"
    if not cards:
        return where
    # As if nothing ran here: the app itself may hold the card.
    empty = [type(card)(card.name, card.total, card.total, card.capability) for card in cards]
    asked = (s.gpu_memory_utilization, s.max_model_len, bool(s.adapters or s.max_lora_rank))
    return f"{where}. {fit(found.name, needs(found.config, found.size), empty, *asked).arithmetic}"


async def adapters(here: Services) -> str:
    """Each adapter is there."""
    found = [await here.sources.look(source) for source in here.settings.wanted_adapters.values()]
    for one in found:
        if not one.rank:
            raise Unavailable(f"{one.name} is no LoRA adapter; correct ADAPTERS.")
    return ", ".join(f"{one.name}, rank {one.rank}" for one in found) or "none"


async def engine(here: Services) -> str:
    """The running app's engine answers."""
    ready = await _ask_the_app(here.settings)
    if ready is None:
        return f"not asked: no app runs at port {here.settings.port}"
    if ready["state"] != "ready":
        raise Unavailable(f"{ready['phase']}. {ready['detail']}")
    return str(ready["services"]["engine"]["detail"])


async def litellm(here: Services) -> str:
    """LiteLLM lists what the running app has entered."""
    if here.registration is None:
        return "off: set LITELLM_ENDPOINT and LITELLM_MASTER_KEY to register the model there"
    ready = await _ask_the_app(here.settings)
    if ready is None:
        return f"not asked: no app runs at port {here.settings.port}"
    found = ready["services"]["litellm"]
    if not found["ok"]:
        raise Unavailable(found["detail"])
    return str(found["detail"])


async def mlflow(here: Services) -> str:
    """MLflow takes the token."""
    if here.sources.registry is None:
        return "off: set MLFLOW_TRACKING_URI to serve its registered models"
    there = "" if here.settings.mlflow_models.is_dir() else ", but nothing is mounted at "
    place = f"{there}{here.settings.mlflow_models}" if there else ""
    return f"{await here.sources.registry.check()}{place}"


async def keycloak(here: Services) -> str:
    """The realm gives its keys."""
    if here.access is None:
        return "not asked: everybody is let in"
    if not here.access.issuer:
        return "not configured: keys of API_KEYS alone let in"
    return f"{await here.access.check()}; browsers sign on as its client {here.access.client_id}"


async def _ask_the_app(settings: Settings) -> dict[str, Any] | None:
    """Its /ready; None where none runs."""
    key = settings.ask_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"http://127.0.0.1:{settings.port}/ready"
    try:
        reply = await asyncio.to_thread(httpx.get, address, headers=headers, timeout=30)
    except httpx.HTTPError:
        return None
    if reply.status_code == 401:
        raise Unavailable("The running app keeps strangers out; set ASK_KEY to one of its keys.")
    return dict(reply.json())


LOOKS: list[Look] = [
    settings, names, gpu, vllm, model, adapters, engine, litellm, mlflow, keycloak,
]  # fmt: skip


async def look(here: Services) -> bool:
    """Print a line for each; whether all is well."""
    well = True
    for check in LOOKS:
        try:
            said, ok = await asyncio.wait_for(check(here), LIMIT_S), True
        except TimeoutError:
            said, ok = f"does not answer within {LIMIT_S} s; look into its log", False
        except (Refused, Unavailable) as error:
            said, ok = str(error), False
        except Exception as error:
            said, ok = str(error) or type(error).__name__, False
        print(f"{'ok  ' if ok else 'FAIL'}  {check.__name__:9}  {said}", flush=True)
        well = well and ok
    return well


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m agent.doctor",
        description="Looks at each thing that the app needs; ends with 1 when something fails.",
    ).parse_args()
    sys.exit(0 if asyncio.run(look(connect(read()))) else 1)
