"""What goes over the wire: the bodies of the API's requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=100)]
Source = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@~-]+$", max_length=500)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Reply(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Message(Body):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=200_000)


class ChatRequest(Body):
    messages: list[Message] = Field(min_length=1, max_length=400)
    """The talk, oldest first; the last message is answered."""
    model: str = Field(default="", max_length=200)
    """An adapter's name; the model itself when empty."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest word; the model's own default when it is left out."""
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Longest answer; ANSWER_TOKENS when it is left out."""
    stream: bool = False
    """Server-sent events instead of one JSON answer."""


class Usage(Reply):
    """Tokens, as the engine counts them."""

    input: int
    output: int


class Answer(Reply):
    answer: str
    thought: str
    """What a model that reasons said to itself first."""
    model: str
    finish_reason: str
    """`stop`, or `length` when it was cut off at `max_tokens`."""
    usage: Usage
    first_token_s: float | None
    tokens_per_s: float | None
    run_id: str


class Started(Reply):
    run_id: str
    detail: str


class RunState(Reply):
    run_id: str
    state: Literal["running", "done", "error"]
    events: int
    result: dict[str, Any] | None
    """Data of the last event, once it is there."""


class AdapterRequest(Body):
    name: Name
    """What it is asked by, as `model`."""
    source: Source
    """A folder, `models:/name` of MLflow, or `owner/name` of the hub."""


class Adapter(Reply):
    name: str
    source: str
    rank: int
    trouble: str
    """Why it is not loaded; empty when it is."""


class Card(Reply):
    name: str
    total: int
    """Bytes."""
    free: int


class Load(Reply):
    running: int
    """Answers that are being written."""
    waiting: int
    """Questions in the queue."""
    cache: float
    """Share of the memory for talks that is in use, 0 to 1."""


class Model(Reply):
    model: str
    origin: str
    """Where its files come from."""
    small: bool
    """Whether it is a tiny one that stands in because there is no GPU."""
    phase: str
    detail: str
    """How far the start is, or what is wrong."""
    context: int
    """Tokens of the longest talk; 0 while that is not known."""
    cache_tokens: int
    """Tokens of all talks together that fit the card."""
    arithmetic: str
    """How weights, talks and the card's memory add up."""
    aliases: list[str]
    """Further names that it answers to."""
    adapters: list[str]
    """Those that are loaded; each is asked by its name."""
    cards: list[Card]
    load: Load | None
    """null while the engine does not say."""


class Health(Reply):
    status: Literal["healthy"] = "healthy"
    component: str = "app"
    service: str


class Service(Reply):
    ok: bool
    detail: str


class Ready(Reply):
    ready: bool
    """False while the model loads or a configured service is down."""
    state: Literal["loading", "ready", "failed"]
    """Of the model."""
    phase: str
    """What the engine does: looking, download, starting, weights, compile, graphs, ready,
    waiting, failed, ended."""
    detail: str
    services: dict[str, Service]


class Problem(Reply):
    type: str
    title: str
    status: int
    detail: str
    """What is wrong and what to do, in a sentence."""
    request_id: str
