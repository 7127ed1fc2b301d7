"""Door: runs that other apps ask for on NATS, at `agents.APP.run`.

The request is the JSON of `POST /api/runs`, with a `key` if one wants; the answer names the run, or
says what is wrong. How it goes on is told at `agents.APP.events.RUN_ID`. NATS asks nobody who they
are, so NATS_DOOR decides whether this is open.
"""

import asyncio
import logging
from functools import partial
from typing import Any

from pydantic import ValidationError

from agent.access import User
from agent.errors import Refused, Unavailable
from agent.schemas import RunRequestOnNats
from agent.services import Services
from agent.work import Ask, begin

log = logging.getLogger(__name__)
CALLER = User("nats", "somebody on NATS")
"""All who ask on NATS are one: they share its limits, and `GET /api/runs` shows it to nobody."""


async def open_door(here: Services) -> None:
    """Answer requests from now on, where that is wanted."""
    if here.nats and here.settings.takes_from_nats:
        await here.nats.answer("run", partial(_answer, here))


async def _answer(here: Services, data: bytes) -> dict[str, Any]:
    try:
        wanted = await asyncio.to_thread(RunRequestOnNats.model_validate_json, data)
        if wanted.approve:
            raise Refused("Nobody could approve a run from NATS; leave `approve` out.")
        budget = wanted.budget.model_dump(exclude_none=True)
        ask = Ask(wanted.topic, wanted.process, (), budget, CALLER, "nats", wanted.key)
        record = await begin(here, ask)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return {"error": f"{place}: {first['msg']}"}
    except (Refused, Unavailable) as error:
        return {"error": str(error)}
    except Exception as error:  # one fault does not close the door
        log.error("a request on NATS failed", exc_info=error)
        return {"error": "This is a fault of the app; its log says more."}
    return {"run_id": record.id, "state": record.state}
