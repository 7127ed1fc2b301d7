"""vLLM's own server as a child of this app: started, watched, started again, given up.

It lives in an environment of its own and is spoken to over HTTP on this machine alone. While it
loads, what it writes says how far it is; when it ends, why.
"""

import asyncio
import logging
import re
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from agent import engine_log, small
from agent.children import end, ended, environment, killed, start
from agent.engine_log import Reason
from agent.errors import FAILURES, Refused, Unavailable
from agent.fit import Fit, fit, needs
from agent.gpu import Card
from agent.settings import HERE, Settings
from agent.weights import Sources, Weights

LOOK_S = 0.25
"""How often a starting engine is asked whether it is ready."""
WATCH_S = 5
"""How often a ready one is."""
STABLE_S = 60
"""An engine that was ready for this long has not failed to start."""
LONGEST_WAIT_S = 60
KEPT_LINES = 3000
"""Of what it wrote: a traceback is long, and its cause stands at its beginning."""
ADAPTERS_AT_ONCE = 2
"""Adapters whose answers are computed together; more take turns. Each place costs memory."""
ASSUMED_RANK = 64
"""Of an adapter that cannot be looked up just now."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM makes room for."""
SILENCE_S = 300
"""An engine with a long queue keeps a question waiting, and sends nothing meanwhile."""
ENDING = "The app is being restarted and could not finish this; ask again in a few seconds."

log = logging.getLogger(__name__)
output = logging.getLogger("engine")

Connect = Callable[[str, str], httpx.AsyncClient]
"""Gives a client for an address and a key."""


@dataclass(frozen=True)
class Launch:
    """What is started: its command, the names that it serves under, and what is known of it."""

    command: list[str]
    names: list[str]
    weights: Weights | None
    fit: Fit | None


class Engine:
    """`phase` is one of looking, download, starting, weights, compile, graphs, ready, waiting,
    failed and ended; `detail` is a sentence, or how far it is."""

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        connect: Connect,
        cards: Callable[[], Sequence[Card]],
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._connect = connect
        self.cards = cards
        self.phase, self.detail = "looking", ""
        self.launch: Launch | None = None
        self.small = False
        """Whether it is the tiny model, which stands in where there is no GPU."""
        self.client: httpx.AsyncClient | None = None
        self.context = 0
        """Tokens of the longest talk, as the engine says."""
        self.cache_tokens = 0
        """Tokens of all talks together that fit its memory."""
        self.lives = 0
        """How often it has become ready."""
        self._child: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._heard_at = self._ready_at = 0.0
        self._ended_for = ""
        """Why this app ended it itself, in a sentence."""
        self._ending = False

    @property
    def model_id(self) -> str:
        """What the settings ask for."""
        return self._settings.model_id

    @property
    def ready(self) -> bool:
        return self.phase == "ready"

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.launch.names[0] if self.launch else self._settings.model_id

    def sentence(self) -> str:
        """Why there is no answer just now, and what to do."""
        if self._ending:
            return ENDING
        if self.phase == "failed":
            return f"The model cannot be served. {self.detail}"
        if self.phase == "waiting":
            return f"The model is started again. {self.detail}"
        far = f" ({self.detail})" if self.detail else ""
        doing = {
            "looking": "is being looked up",
            "download": "is being downloaded",
            "starting": "is being started",
            "weights": "is being loaded",
            "compile": "is being compiled",
            "graphs": "is being warmed up",
            "ready": "stopped answering",
            "ended": "was stopped",
        }[self.phase]
        return f"The model {self.name} {doing}{far}; ask again in a while."

    def broken(self) -> str:
        """What is said where an answer broke off."""
        if self.ready and not self._ending:
            return "The model's engine broke off in mid-answer; ask again."
        return f"The answer broke off. {self.sentence()}"

    def need(self) -> httpx.AsyncClient:
        """How to speak to it; `Unavailable` while it does not take questions."""
        if self.client is None or not self.ready or self._ending:
            raise Unavailable(self.sentence())
        return self.client

    async def live(self) -> None:
        """Start it, and again when it ends, until it is not worth another try."""
        failed = 0
        while not self._ending:
            self._ready_at = 0.0
            try:
                self.launch = await self._prepare()
                reason = await self._one_life(self.launch)
            except Refused as error:
                reason = Reason(str(error), again=False)
            except (Unavailable, OSError) as error:
                reason = Reason(str(error), again=True)
            except Exception as error:  # or it would end here without a word
                log.exception("the engine could not be started")
                said = f"{type(error).__name__}: {error}"
                reason = Reason(f"The engine could not be started ({said}).", again=True)
            if self._ending:
                return self._tell("ended")
            if self._ready_at and time.monotonic() - self._ready_at > STABLE_S:
                failed = 0
            failed += 1
            FAILURES["engine"] += 1
            if not reason.again or failed >= self._settings.engine_starts:
                tries = f" It was tried {failed} times." if failed > 1 else ""
                self._tell("failed", f"{reason.sentence}{tries}")
                log.critical("The model cannot be served. %s", self.detail)
                return
            wait_s = min(LONGEST_WAIT_S, 2 ** (failed - 1))
            self._tell("waiting", f"{reason.sentence} It is started again in {wait_s} s.")
            log.error("%s", self.detail)
            await asyncio.sleep(wait_s)

    async def stop(self) -> None:
        """End it; what waits for it is told so."""
        self._ending = True
        if self._child:
            await end(self._child)

    async def lost(self) -> None:
        """To be called when it broke off: gives its end the moment that it needs to be noticed."""
        for _ in range(10):
            if not self.ready or self._ending:
                return
            await asyncio.sleep(0.1)

    def _tell(self, phase: str, detail: str = "") -> None:
        if phase != self.phase:
            log.info("The engine: %s", phase)
        self.phase, self.detail = phase, detail

    async def _prepare(self) -> Launch:
        self._tell("looking")
        s = self._settings
        names = list(dict.fromkeys(name for name, of in s.wanted_aliases.items() if not of))
        cards = await asyncio.to_thread(self.cards)
        self.small = s.engine == "small" or (s.engine == "auto" and not cards)
        if self.small:
            return Launch([sys.executable, "-m", "agent.small"], [small.NAME, *names], None, None)
        weights = await self._sources.look(s.model_id)
        rank = await self._rank()
        fitted = None
        if cards:
            need = needs(weights.config, weights.size)
            fitted = fit(
                weights.name, need, cards, s.gpu_memory_utilization, s.max_model_len, rank > 0
            )
            log.info("%s", fitted.arithmetic)
        folder = await self._sources.folder(weights, self._tell)
        flags = {"--model": str(folder)} | (fitted.flags if fitted else {})
        if weights.tokenizer:
            flags["--tokenizer"] = str(weights.tokenizer)
        if s.max_model_len and not fitted:
            flags["--max-model-len"] = str(s.max_model_len)
        if rank:
            flags |= {"--max-lora-rank": str(rank), "--max-loras": str(ADAPTERS_AT_ONCE)}
        command = shlex.split(s.engine_command) + words(flags, shlex.split(s.engine_args))
        return Launch(
            [*command, *(["--enable-lora"] if rank else [])],
            list(dict.fromkeys([weights.name, *names])),
            weights,
            fitted,
        )

    async def _rank(self) -> int:
        """The room that adapters need; 0 for none. One that cannot be found is no reason not to
        start: it is said where it is loaded."""
        largest = self._settings.max_lora_rank
        for source in self._settings.wanted_adapters.values():
            try:
                rank = (await self._sources.look(source)).rank
            except (Refused, Unavailable):
                rank = ASSUMED_RANK
            largest = max(largest, rank)
        return next((rank for rank in RANKS if rank >= largest), largest) if largest else 0

    async def _one_life(self, launch: Launch) -> Reason:
        """From its start to its end; gives why it ended."""
        port, key = free_port(), secrets.token_hex()
        where = ["--host", "127.0.0.1", "--port", str(port)]
        command = [*launch.command, "--served-model-name", *launch.names, *where]
        env = environment() | {
            "VLLM_API_KEY": key,
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",  # all that it needs was downloaded
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        self._tell("starting")
        self._lines.clear()
        self._ended_for, self._heard_at = "", time.monotonic()
        if not shutil.which(command[0]):
            raise Refused(f"There is no program {command[0]}; correct ENGINE_COMMAND.")
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        self._child = child = await start(command, HERE, env, **pipes)
        async with self._connect(f"http://127.0.0.1:{port}", key) as client, killed(child):
            self.client = client
            reading = asyncio.create_task(self._read(child))
            watching = asyncio.create_task(self._watch(client, child))
            try:
                code = await ended(child)
            finally:
                watching.cancel()
                self.client, was_ready = None, self.ready
                if self.ready:
                    self._tell("ended")
            await end(child)  # what it started may hold its output open, and the card's memory
            with suppress(TimeoutError):
                await asyncio.wait_for(reading, 2)
        return self._reason(code, was_ready)

    def _reason(self, code: int, was_ready: bool) -> Reason:
        if self._ended_for:
            return Reason(self._ended_for, again=True)
        found = engine_log.reason(list(self._lines), code)
        return Reason(found.sentence, again=True) if was_ready else found

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        """Its output, line by line; a progress bar ends its lines with a carriage return."""
        assert child.stdout
        rest = ""
        while chunk := await child.stdout.read(2**16):
            self._heard_at = time.monotonic()
            *whole, rest = re.split(r"(\r\n|\n|\r)", rest + chunk.decode("utf-8", "replace"))
            for line, ending in zip(whole[::2], whole[1::2], strict=True):
                self._hear(line, ending != "\r")
        self._hear(rest, True)

    def _hear(self, line: str, kept: bool) -> None:
        if engine_log.NOISE.search(line):
            return
        if kept:
            self._lines.append(line)
            output.info("%s", line[:1000])
        if found := engine_log.KV_CACHE.search(line):
            self.cache_tokens = int(found[1].replace(",", ""))
        if not self.ready and (now := engine_log.phase(line)):
            self._tell(*now)

    async def _watch(self, client: httpx.AsyncClient, child: asyncio.subprocess.Process) -> None:
        """Notice that it is ready, or silent, or dead though its server answers."""
        limit_s = self._settings.stall_timeout_s
        while await self._asks(client) != 200:
            if time.monotonic() - self._heard_at > limit_s:
                self._ended_for = (
                    f"The engine said nothing for {limit_s:g} s while it loaded, and was ended; "
                    "raise STALL_TIMEOUT_S if it only needed longer."
                )
                return await end(child)
            await asyncio.sleep(LOOK_S)
        await self._learn(client)
        self._ready_at = time.monotonic()
        self.lives += 1
        self._tell("ready")
        answered_at = self._ready_at
        while time.monotonic() - answered_at < limit_s:
            status = await self._asks(client)
            if status == 503:
                self._ended_for = "The engine's core had died, so the rest of it was ended."
                return await end(child)
            answered_at = time.monotonic() if status else answered_at
            await asyncio.sleep(WATCH_S)
        self._ended_for = f"The engine did not answer for {limit_s:g} s, and was ended."
        await end(child)

    async def _asks(self, client: httpx.AsyncClient) -> int:
        """The status of its /health; 0 when it does not answer, as while much is computed."""
        try:
            return (await client.get("/health", timeout=10)).status_code
        except httpx.HTTPError:
            return 0

    async def _learn(self, client: httpx.AsyncClient) -> None:
        with suppress(httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            first = (await client.get("/v1/models")).json()["data"][0]
            self.context = int(first.get("max_model_len") or (small.CONTEXT if self.small else 0))


def words(flags: Mapping[str, str], given: Sequence[str]) -> list[str]:
    """`flags` as words, less those that are `given`, and then these."""
    theirs = {word.partition("=")[0].replace("_", "-") for word in given if word.startswith("--")}
    own = [w for name, value in flags.items() if name not in theirs for w in (name, value)]
    return [*own, *given]


def free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return int(any_socket.getsockname()[1])
