"""What goes over the wire: the bodies of the API's requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(max_length=500)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Reply(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Filter(Body):
    document: Name | list[Name] = []
    """Only in this document, or these."""

    @property
    def documents(self) -> list[str]:
        return [self.document] if isinstance(self.document, str) else self.document


class SearchRequest(Body):
    query: Text
    k: int = Field(default=5, ge=1, le=200)
    """Passages wanted."""
    filter: Filter = Filter()


class Message(Body):
    role: Literal["user", "assistant"]
    content: str = Field(max_length=20_000)


class ChatRequest(Body):
    question: Text
    history: list[Message] = Field(default=[], max_length=200)
    """The talk so far, oldest first."""
    session_id: str | None = Field(default=None, max_length=200)
    """Groups traces of one talk."""
    stream: bool = False
    """Server-sent events instead of one JSON answer."""
    filter: Filter = Filter()


class Feedback(Body):
    trace_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Of the answer; it has none where Langfuse is not connected."""
    right: bool
    """Whether the answer was right."""
    comment: str = Field(default="", max_length=2000)


class Passage(Reply):
    document: str
    page: int | None
    heading: str | None
    start: int
    """Character of the extracted text where the passage begins."""
    end: int
    text: str
    score: float


class Citation(Reply):
    n: int
    """The answer cites it as [n]."""
    document: str
    page: int | None
    heading: str | None
    start: int
    """Character of the extracted text where the quote begins."""
    end: int
    quote: str
    score: float


class Doubt(Reply):
    kind: Literal["number", "date", "name", "negation", "quote"]
    said: str
    """What the answer says and its source says otherwise."""


class Check(Reply):
    sentence: str
    status: Literal["supported", "refuted", "unsupported", "plain"]
    """`plain`: there is nothing in it to check."""
    cited: list[int]
    doubts: list[Doubt]


class Usage(Reply):
    """Tokens of the model, as the gateway counts them."""

    input: int
    output: int


class Answer(Reply):
    answer: str
    answered: bool
    """False when the documents do not answer the question."""
    citations: list[Citation]
    checks: list[Check]
    """Each sentence of a model's answer, held against what it cites."""
    confidence: float
    """Share of what is asked that the passages hold, 0 to 1."""
    which: list[str]
    """Documents that could be meant, when the question does not say which one."""
    mode: Literal["model", "extractive"]
    usage: Usage
    run_id: str
    trace_id: str | None
    session_id: str | None


class Started(Reply):
    run_id: str
    detail: str


class RunState(Reply):
    run_id: str
    state: Literal["running", "done", "error"]
    events: int
    result: dict[str, Any] | None
    """Data of the last event, once it is there."""


class File(Reply):
    document: str
    status: Literal["waiting", "added", "replaced", "unchanged", "failed"]
    id: str | None = None
    reason: str | None = None


class Job(Reply):
    job_id: str
    status: Literal["running", "done", "error"]
    total: int
    done: int
    files: list[File]


class Document(Reply):
    id: str
    document: str
    bytes: int
    pages: int
    """0 where the format has no pages."""
    characters: int
    passages: int
    embedding: str | None
    """Model that indexed it; null: by words alone."""
    added_at: str


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
