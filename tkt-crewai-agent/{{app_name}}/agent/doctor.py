"""What is wrong? `python -m agent.doctor` looks at each thing that the app needs, a line each.

A line says what is there, or what is missing and what to do; the exit code is 1 when something
that is configured does not work. It may run beside the app where Qdrant and NATS are servers: what
it sends is one question of one word and one trace.
"""

import argparse
import asyncio
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

from agent.errors import Unavailable
from agent.qdrant_embedded import RESERVE_BYTES, Embedded
from agent.rehearsal import Rehearsal
from agent.sandbox import run_python
from agent.services import Services, connect
from agent.settings import Settings, read
from agent.tools import TOOLS, offered

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
    most = f"{s.run_steps} calls, {s.run_tokens:,} tokens, {s.run_dollars:g} dollars"
    return f"{s.app_name}, open to {who}; a run may use {most}"


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
    if "://" in here.documents.database.place:
        yield here.documents.database.place
    yield from (here.nats.url if here.nats else "", s.rag_mcp_url)


async def disk(here: Services) -> str:
    """There is room in DATA_DIR."""
    if here.journal.shared and not isinstance(here.documents.database, Embedded):
        return "not needed: runs and documents are on servers"
    free = shutil.disk_usage(here.settings.data_dir).free
    if free < RESERVE_BYTES:
        raise Unavailable(f"{here.settings.data_dir} has {free >> 20} MiB left; free some.")
    return f"{here.settings.data_dir}, {free >> 20:,} MiB free"


async def runs(here: Services) -> str:
    """Where runs are kept, and how many wait."""
    counted = await here.journal.counts()
    told = ", ".join(f"{count} {state}" for state, count in counted.items()) or "none is going on"
    return f"{await here.journal.check()}; {told}"


async def qdrant(here: Services) -> str:
    """Where the crew's documents are."""
    place = await here.documents.check()
    return f"{place}; {len(await here.documents.listed())} documents"


async def tools(here: Services) -> str:
    """Which tools there are; those that need something are tried."""
    there = offered(here.toolbox)
    if here.toolbox.rag:
        await here.toolbox.rag.check()
    if here.toolbox.python and "2" not in await run_python("print(1 + 1)"):
        raise Unavailable("A small Python program does not run; set RUN_PYTHON=false.")
    off = ", ".join(name for name in TOOLS if name not in there) or "none"
    return f"{', '.join(there)}; not configured: {off}"


async def model(here: Services) -> str:
    """The gateway takes the key, and the model is really loaded: it says a word."""
    if isinstance(here.model, Rehearsal):
        return "none, so runs are rehearsals: set LITELLM_ENDPOINT and LITELLM_MASTER_KEY"
    begin = time.monotonic()
    said = await here.model.complete([{"role": "user", "content": "Say yes."}])
    return f"{said.model} said {said.text[:20]!r} after {time.monotonic() - begin:.1f} s"


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
    settings, names, disk, runs, qdrant, model, tools, langfuse, keycloak,
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
    try:
        here = await connect(chosen)
    except Unavailable as error:
        print(f"FAIL  {'runs':9}  {error}")
        return 1
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
