"""What the process writes to its log: a line an event, as JSON in a cluster and as text elsewhere.

Each line carries the id of the request and of the trace that it belongs to, so that one answer can
be followed from log to Langfuse. No line holds a question, an answer or a document's text.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

ABOUT: ContextVar[dict[str, str]] = ContextVar("ABOUT", default={})  # noqa: B039 # never changed
"""What is going on: request_id, trace_id, run_id."""
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "taskName", "color_message"}


def about(**ids: str | None) -> None:
    """From here on, lines of this task and of those that it starts carry `ids` as well."""
    ABOUT.set(ABOUT.get() | {name: value for name, value in ids.items() if value})


def install(as_json: bool) -> None:
    """All of this process's lines, the server's as well; its own lines of requests are replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Text())
    handler.name = "agent"
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == "agent"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "mcp", "qdrant_client"):  # a line for each request that they send
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`, and what is going on."""
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return ABOUT.get() | given


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname, "logger": record.name}
        line |= {"message": record.getMessage()} | _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # in ASCII, as there are more ends of a line than one


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value!a}" for name, value in _fields(record).items())
        first, *more = super().format(record).split("\n")
        return "\n".join([f"{first}  {fields}".rstrip(), *more])
