"""Whether a reader found an answer right: a score on the answer's trace in Langfuse."""

import uuid

from agent.access import User
from agent.errors import Refused, Unavailable
from agent.services import Services

NAME = "user-feedback"


async def score(
    services: Services, user: User, trace_id: str, right: bool, comment: str = ""
) -> None:
    """Give the answer with this trace a score of 1 or 0; the same user's next one replaces it."""
    if not services.tracing.on:
        raise Refused("There is nowhere to keep it: set LANGFUSE_HOST and its keys.", 409)
    body = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAME}:{trace_id}:{user.id}")),
        "traceId": trace_id,
        "name": NAME,
        "value": int(right),
        "dataType": "BOOLEAN",
        "comment": comment or None,
    }
    try:
        await services.tracing.post("scores", body)
    except ConnectionError as error:
        raise Unavailable(f"The feedback was not kept. {error}") from error
