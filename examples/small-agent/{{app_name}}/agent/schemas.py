"""What goes over the wire: the bodies of the API's requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Reply(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Message(Body):
    role: Literal["user", "assistant"]
    content: str = Field(max_length=20_000)


class ChatRequest(Body):
    question: Text
    """The text to summarise, or a question about the last one."""
    history: list[Message] = Field(default=[], max_length=200)
    """The talk so far, oldest first."""
    stream: bool = False
    """Server-sent events instead of one JSON answer."""


class Usage(Reply):
    """Tokens of the model, as the gateway counts them."""

    input: int
    output: int


class Answer(Reply):
    answer: str
    mode: Literal["model", "extractive"]
    """`extractive` when no model answered: then these are the text's own sentences."""
    usage: Usage
    run_id: str
    trace_id: str | None


class Started(Reply):
    run_id: str
    detail: str


class RunState(Reply):
    run_id: str
    state: Literal["running", "done", "error"]
    events: int
    result: dict[str, Any] | None
    """Data of the last event, once it is there."""


class Health(Reply):
    status: Literal["healthy"] = "healthy"
    component: str = "app"
    service: str


class Service(Reply):
    ok: bool
    detail: str


class Ready(Reply):
    ready: bool
    """False while the app starts or a configured service is down."""
    mode: Literal["model", "extractive"]
    services: dict[str, Service]


class Problem(Reply):
    type: str
    title: str
    status: int
    detail: str
    """What is wrong and what to do, in a sentence."""
    request_id: str
