"""The model in LiteLLM's list: entered when it answers, kept there, taken out at the end.

Others ask LiteLLM for an alias and never learn what stands behind it, so that an agent can be moved
from a base model to a fine-tuned one without touching it. An entry's id is the app's and the
alias's names; its `instance` says which process made it, so that one that ends leaves an entry
alone that its successor has taken over.
"""

import asyncio
import hashlib
import hmac
import logging
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from agent.errors import Unavailable
from agent.keys import PREFIX, digest

NO_DATABASE = ("No DB Connected", "DB not connected", "STORE_MODEL_IN_DB")
"""How LiteLLM says that it keeps no models; another key than its own it then cannot look up."""

log = logging.getLogger(__name__)


def key_for(app: str, master_key: str) -> str:
    """The key with which LiteLLM asks this app: the same for all replicas, and kept nowhere."""
    made = hmac.new(master_key.encode(), f"litellm asks {app}".encode(), hashlib.sha256)
    return PREFIX + made.hexdigest()


class Registration:
    """Entries of `app`, which answers at `address`, one for each alias."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        app: str,
        address: str,
        key: str,
        offered: Callable[[], dict[str, str]],
    ) -> None:
        """`offered()` gives {alias: name of a model that answers now}."""
        self._http = http
        self._app = app
        self._address = address
        self._key = key
        self._offered = offered
        self._instance = uuid.uuid4().hex
        self.trouble = "Nothing is registered yet."
        self._warned = ""
        self._lock = asyncio.Lock()
        self._ended = False
        self._entered: set[str] = set()

    async def tend(self) -> None:
        """To be called now and then: enter what is offered, take out what is not."""
        async with self._lock:
            if self._ended:
                return
            try:
                await self._match(self._offered())
                self.trouble = self._warned = ""
            except Unavailable as error:
                self.trouble = str(error)
                if self._warned != self.trouble:  # said once, not at every look
                    log.warning("%s", error)
                self._warned = self.trouble

    async def end(self) -> None:
        """Take the entries out, unless another process has made them its own, for good."""
        async with self._lock:
            self._ended = True
            try:
                for entry in (await self._entries()).values():
                    if not self._is_anothers(entry):
                        await self._delete(entry)
            except Unavailable as error:
                log.warning("The model stays in LiteLLM's list. %s", error)

    async def check(self) -> str:
        """What is registered; `Unavailable` says what is in the way."""
        if self.trouble:
            raise Unavailable(self.trouble)
        return f"{', '.join(self._offered()) or 'nothing yet'} at {self._http.base_url}"

    async def _match(self, offered: dict[str, str]) -> None:
        there = await self._entries()
        for alias, model in offered.items():
            entry = there.pop(f"{self._app}:{alias}", None)
            wanted = self._entry(alias, model)
            if entry is None:
                await self._call("POST", "/model/new", wanted)
                log.info("LiteLLM offers %s as %s.", model, alias)
            elif alias in self._entered and self._is_anothers(entry):
                continue  # a successor or another replica has taken it over
            elif not self._same(entry, wanted):
                await self._call("PATCH", f"/model/{entry['model_info']['id']}/update", wanted)
                log.info("LiteLLM offers %s as %s.", model, alias)
            self._entered.add(alias)
        for entry in there.values():
            if not self._is_anothers(entry):
                await self._delete(entry)

    def _is_anothers(self, entry: dict[str, Any]) -> bool:
        return bool(entry["model_info"].get("instance") != self._instance)

    def _entry(self, alias: str, model: str) -> dict[str, Any]:
        return {
            "model_name": alias,
            "litellm_params": {
                "model": f"hosted_vllm/{model}",
                "api_base": f"{self._address}/v1",
                "api_key": self._key,
            },
            "model_info": {
                "id": f"{self._app}:{alias}",
                "instance": self._instance,
                "asked_with": digest(self._key)[:16],
            },
        }

    def _same(self, entry: dict[str, Any], wanted: dict[str, Any]) -> bool:
        """Whether an entry leads to what is wanted; LiteLLM does not show its key."""
        params, info = entry["litellm_params"], entry["model_info"]
        return (
            entry["model_name"] == wanted["model_name"]
            and all(params.get(n) == wanted["litellm_params"][n] for n in ("model", "api_base"))
            and all(info.get(n) == wanted["model_info"][n] for n in ("instance", "asked_with"))
        )

    async def _entries(self) -> dict[str, dict[str, Any]]:
        """{id: entry} of this app."""
        listed = (await self._call("GET", "/model/info")).get("data", [])
        found = {str(entry.get("model_info", {}).get("id")): entry for entry in listed}
        return {n: entry for n, entry in found.items() if n.startswith(f"{self._app}:")}

    async def _delete(self, entry: dict[str, Any]) -> None:
        await self._call("POST", "/model/delete", {"id": entry["model_info"]["id"]})

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            why = f"does not answer ({type(error).__name__}); check LITELLM_ENDPOINT"
            raise self._away(why) from error
        if answer.is_success:
            try:
                return dict(answer.json())
            except (ValueError, TypeError):
                raise self._away("answers as no LiteLLM does; check LITELLM_ENDPOINT") from None
        if any(word in answer.text for word in NO_DATABASE):
            why = "keeps no models in a database; give it one, and set STORE_MODEL_IN_DB=True"
            raise self._away(why)
        if path == "/model/delete" and "not found" in answer.text:
            return {}
        if answer.status_code in (401, 403) or "No connected db" in answer.text:
            raise self._away("refuses the key; check LITELLM_MASTER_KEY")
        raise self._away(f"answers {answer.status_code} to {path}; its log says why")

    def _away(self, why: str) -> Unavailable:
        sentence = f"The model is not in LiteLLM's list: LiteLLM at {self._http.base_url} {why}."
        return Unavailable(sentence, "litellm")
