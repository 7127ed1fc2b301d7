"""What is kept of a run: a record that any worker can go on from, and any app can read.

It is written after each call of a model, so a run that lost its worker knows what it has spent, and
after each task, which is then never done again.
"""

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")
FINAL = ("done", "failed", "cancelled")
"""States that a run does not leave."""
LONGEST_TEXT = 50_000
"""Characters of one output. A record of some of them must fit into a message of NATS, 1 MiB."""


def now() -> str:
    """The time as ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class Spent:
    """What a run has used. `dollars` is None while nobody has told a price."""

    steps: int = 0
    """Calls of a model."""
    input: int = 0
    output: int = 0
    """Tokens, as the gateway counts."""
    dollars: float | None = None
    seconds: float = 0.0
    """Time that a worker has worked; waiting in the queue or for a person does not count."""

    @property
    def tokens(self) -> int:
        return self.input + self.output

    def add(self, input: int, output: int, dollars: float | None) -> None:
        """One more call of a model."""
        self.steps += 1
        self.input += input
        self.output += output
        if dollars is not None:
            self.dollars = (self.dollars or 0.0) + dollars


@dataclass(frozen=True)
class Budget:
    """The most that a run may use."""

    steps: int
    tokens: int
    dollars: float
    seconds: float


@dataclass
class Record:
    """A run, as it is kept."""

    owner: str
    topic: str
    budget: Budget
    process: str = "sequential"
    """`sequential`, or `hierarchical`: a manager delegates."""
    approve: list[str] = field(default_factory=list)
    """Tasks after which a person is asked before the crew goes on."""
    door: str = "api"
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "queued"
    """queued, running, waiting (for a person), done, failed, cancelled."""
    attempt: int = 0
    """How often a worker has taken it up."""
    worker: str = ""
    ticket: str = ""
    """The message of the queue with which that worker has it."""
    outputs: list[dict[str, str]] = field(default_factory=list)
    """Finished tasks, in order: task, agent, text."""
    spent: Spent = field(default_factory=Spent)
    asked: dict[str, str] | None = None
    """The approval that it waits for: task, text, at."""
    comments: list[dict[str, str]] = field(default_factory=list)
    """What people have decided: task, decision, comment, by."""
    model: str = ""
    """That answered last."""
    result: str = ""
    error: str = ""
    trace_id: str | None = None
    traceparent: str = ""
    """Of the caller, and once it has begun of its own trace, which later attempts go on with."""
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    revision: int = 0
    """Counted by the journal: a record that was changed since it was read cannot be written."""

    @property
    def undecided(self) -> str:
        """The task that it has finished last, if a person must decide before it goes on."""
        task = self.outputs[-1]["task"] if self.outputs else ""
        decided = any(c["task"] == task and c["decision"] == "approve" for c in self.comments)
        return task if task in self.approve and not decided else ""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    def dump(self) -> bytes:
        """As JSON; the revision is the journal's."""
        told = asdict(self)
        del told["revision"]
        return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")


def load(data: bytes | str, revision: int) -> Record:
    """The record in this JSON; fields that a later version of the app added are left out."""
    told: dict[str, Any] = json.loads(data)
    known = {one.name for one in fields(Record)}
    told = {name: value for name, value in told.items() if name in known}
    told |= {"budget": _of(Budget, told["budget"]), "spent": _of(Spent, told["spent"])}
    return Record(**told | {"revision": revision})


def _of(kind: type[T], told: dict[str, Any]) -> T:
    return kind(**{name: told[name] for name in kind.__dataclass_fields__ if name in told})  # type: ignore[attr-defined]
