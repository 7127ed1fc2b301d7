"""What is wrong? `python -m agent.doctor` looks at each thing that the app needs, a line each.

A line says what is there, or what is missing and what to do; the exit code is 1 when something
that is configured does not work. It may run beside the app where Qdrant is a server: what it sends
is one question of one word, one text to embed and one trace.
"""

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

from agent.errors import Unavailable
from agent.gateway import Gateway
from agent.qdrant_embedded import RESERVE_BYTES, Embedded
from agent.services import Services, connect
from agent.settings import Settings, read

LIMIT_S = 60
"""A model may have to be loaded first."""
ARRIVES_S = 15
"""Langfuse shows a trace some seconds after it took it."""

Look = Callable[[Services], Awaitable[str]]


async def settings(here: Services) -> str:
    """The settings were read, or the process would have ended with a sentence."""
    s = here.settings
    if s.api_keys and not s.signs_on:
        raise Unavailable("API_KEYS are set, but everybody is let in; set AUTH=on.")
    if bool(s.langfuse_public_key) != bool(s.langfuse_secret_key):
        raise Unavailable("Langfuse has one key of two; set LANGFUSE_PUBLIC_KEY and _SECRET_KEY.")
    who = "who signs on" if s.signs_on else "everybody"
    return f"{s.app_name}, open to {who}, documents {s.documents}"


async def names(here: Services) -> str:
    """The name of each configured service leads to an address."""
    known = []
    for url in filter(None, _addresses(here)):
        host = urlsplit(url).hostname or ""
        try:
            await asyncio.to_thread(socket.getaddrinfo, host, None)
        except OSError as error:
            raise Unavailable(
                f"The name {host} leads nowhere ({error}); check its setting."
            ) from None
        known.append(host)
    return ", ".join(dict.fromkeys(known)) or "none is needed"


def _addresses(here: Services) -> Iterator[str]:
    s = here.settings
    yield from (s.gateway_url, s.keycloak_url, s.langfuse_url if here.tracing.on else "")
    if "://" in here.store.database.place:
        yield here.store.database.place


async def disk(here: Services) -> str:
    """There is room for documents, where they are kept here."""
    if not isinstance(here.store.database, Embedded):
        return "not needed: documents are on a server"
    await here.store.database.room()
    return f"{here.settings.data_dir}, more than {RESERVE_BYTES >> 20} MiB free"


async def qdrant(here: Services) -> str:
    """Where documents are, and by what they are indexed."""
    place = await here.store.database.check()
    entries = await here.store.documents()
    by = sorted({entry.embedding or "words alone" for entry in entries})
    return f"{place}; {len(entries)} documents, indexed by {', '.join(by) or 'nothing yet'}"


async def gateway(here: Services) -> str:
    """The gateway takes the key."""
    if here.gateway is None:
        return "none: set LITELLM_ENDPOINT and LITELLM_MASTER_KEY to have a model"
    models = await here.gateway.models()
    version = await _version(here.gateway)
    return f"{here.settings.gateway_url}{version} takes the key; {len(models)} models"


async def _version(at: Gateway) -> str:
    try:
        found = await at.post("../health/readiness", None, 3)
        return f", LiteLLM {found['litellm_version']}"
    except (Unavailable, KeyError):
        return ""


async def model(here: Services) -> str:
    """The model is really loaded: it says a word."""
    if here.model is None:
        return "none: answers are quotations from the documents"
    begin = time.monotonic()
    said = await here.model.complete([{"role": "user", "content": "Say yes."}])
    return f"{here.model.used} said {said[:20]!r} after {time.monotonic() - begin:.1f} s"


async def embedding(here: Services) -> str:
    """The embedding model answers, and is the one that the documents are indexed by."""
    if here.embedding is None:
        return "none: search is by words alone"
    found = await here.embedding.resolve(here.store.model)
    if found is None:
        raise Unavailable(f"{here.embedding.trouble or 'No embedding model answers'}")
    name, dimension = found
    if here.store.model not in (None, name):
        raise Unavailable(
            f"The documents are indexed by {here.store.model}, and {name} is set; the app indexes "
            "them anew at its next start."
        )
    fits = "as the documents" if here.store.model else "for documents to come"
    return f"{name}, {dimension} dimensions, {fits}"


async def langfuse(here: Services) -> str:
    """A trace arrives."""
    if not here.tracing.on:
        return "off: set LANGFUSE_HOST, LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY to have traces"
    place = await here.tracing.check()
    trace = here.tracing.start("doctor", "a test", session_id=None, user_id="doctor")
    trace.end(output="a test")
    await asyncio.to_thread(here.tracing.flush)
    for _ in range(ARRIVES_S):
        try:
            await here.tracing.fetch(f"traces/{trace.id}")
            return f"{place}; a test trace arrived ({trace.id})"
        except ConnectionError:
            await asyncio.sleep(1)
    raise Unavailable(
        f"{place} took a trace and does not show it after {ARRIVES_S} s; look whether its worker "
        "runs."
    )


async def keycloak(here: Services) -> str:
    """The realm gives its keys."""
    if here.access is None:
        return "not asked: everybody is let in"
    if not here.access.issuer:
        return "not configured: keys of API_KEYS alone let in"
    return f"{await here.access.check()}; browsers sign on as its client {here.access.client_id}"


LOOKS: list[Look] = [
    settings, names, disk, qdrant, gateway, model, embedding, langfuse, keycloak,
]  # fmt: skip


async def look(here: Services) -> bool:
    """Print a line for each; whether all is well."""
    well = True
    for check in LOOKS:
        try:
            said, ok = await asyncio.wait_for(check(here), LIMIT_S), True
        except TimeoutError:
            said, ok = f"does not answer within {LIMIT_S} s; look into its log", False
        except Exception as error:
            said, ok = str(error) or type(error).__name__, False
        print(f"{'ok  ' if ok else 'FAIL'}  {check.__name__:9}  {said}", flush=True)
        well = well and ok
    return well


async def _main(chosen: Settings) -> int:
    here = connect(chosen)
    try:
        return 0 if await look(here) else 1
    finally:
        await here.close()


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m agent.doctor",
        description="Looks at each thing that the app needs; ends with 1 when something fails.",
    ).parse_args()
    sys.exit(asyncio.run(_main(read())))
